//! What is never culled: `larder cache pin` and `unpin`.

use larder_fscache::{CookieKey, VolumeKey};

use super::Inventory;
use super::list::no_such_image;
use crate::api::cache_types::{PinRequest, Pinned};
use crate::api::types::ImageName;
use crate::errors::{Kind, told};

impl Inventory<'_> {
    /// Pins, or lets go, the objects of images and single cookies; durable on return. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// When a name stands for nothing in the cache; what was named before it is done.
    pub fn pin(&self, request: &PinRequest) -> anyhow::Result<Pinned> {
        let mut cookies = Vec::new();
        for name in &request.names {
            for (volume, cookie) in self.named(name, &request.volume)? {
                let is_there = if request.pinned {
                    self.cachefiles.pin(&volume, &cookie)?
                } else {
                    self.cachefiles.unpin(&volume, &cookie)?
                };
                if is_there {
                    cookies.push(cookie.as_str().to_owned());
                }
            }
        }
        Ok(Pinned { pinned: request.pinned, cookies })
    }

    /// The objects of an image, or the one object of this key.
    pub(super) fn named(
        &self,
        name: &ImageName,
        volume: &str,
    ) -> anyhow::Result<Vec<(VolumeKey, CookieKey)>> {
        let mut found = Vec::new();
        for image in self.catalogue.all()?.iter().filter(|image| image.is_named(name)) {
            let volume = VolumeKey::new(&image.volume)?;
            found.extend(
                image.cookies.iter().filter_map(|key| Some((volume.clone(), CookieKey::new(key).ok()?))),
            );
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let volume = VolumeKey::new(volume)?;
        match CookieKey::new(&name.reference) {
            Ok(key) if self.cachefiles.object_info(&volume, &key).is_some() => Ok(vec![(volume, key)]),
            // What looks like a key is meant as one.
            Ok(key) if ["sha256-", "settled-"].iter().any(|start| key.as_str().starts_with(start)) => {
                Err(told(
                    Kind::NotFound,
                    format!("{key}: volume {volume} has no object of this key"),
                    "`larder cache ls` lists what there is; `pin` and `unpin` find an object of a tree with `--volume trees`",
                ))
            }
            _ => Err(no_such_image(name)),
        }
    }
}
