//! Every object, one by one: `larder cache ls`.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use larder_cachefiles::ObjectInfo;
use larder_fscache::VolumeKey;

use super::Inventory;
use crate::api::cache_types::{ListRequest, Object};
use crate::api::types::ImageName;
use crate::errors::{Kind, told};

impl Inventory<'_> {
    /// Hands over every object that was asked for, sorted by volume and key, until `each` has enough. Blocks for I/O;
    /// memory is that of one object.
    ///
    /// # Errors
    ///
    /// When a volume's name cannot be one, or no image has a name that was given.
    pub fn list(
        &self,
        request: &ListRequest,
        mut each: impl FnMut(Object) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let volume = request.volume.as_deref().map(VolumeKey::new).transpose()?;
        let of_image = request.image.as_ref().map(|name| self.cookies_of(name)).transpose()?;
        self.cachefiles.objects(|info| {
            let wanted = volume.as_ref().is_none_or(|volume| info.volume == *volume)
                && of_image.as_ref().is_none_or(|keys| keys.contains(info.cookie.as_str()));
            if wanted { each(object(info)) } else { ControlFlow::Continue(()) }
        });
        Ok(())
    }

    /// Keys of the cookies of the images called `name`.
    pub(super) fn cookies_of(&self, name: &ImageName) -> anyhow::Result<BTreeSet<String>> {
        let images = self.catalogue.all()?;
        let named: Vec<_> = images.into_iter().filter(|image| image.is_named(name)).collect();
        if named.is_empty() {
            return Err(no_such_image(name));
        }
        Ok(named.into_iter().flat_map(|image| image.cookies).collect())
    }
}

pub(super) fn no_such_image(name: &ImageName) -> anyhow::Error {
    told(
        Kind::NotFound,
        format!("{}: the cache knows no image of this name", name.reference),
        "`larder cache du` lists the images it knows; name one by its reference or its manifest's digest",
    )
}

fn object(info: ObjectInfo) -> Object {
    let since = info.last_used.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Object {
        volume: info.volume.as_str().to_owned(),
        cookie: info.cookie.as_str().to_owned(),
        size_bytes: info.size,
        stored_bytes: info.stored_bytes,
        complete: info.complete,
        pinned: info.pinned,
        last_used_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}
