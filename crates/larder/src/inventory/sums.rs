//! What the cache takes, by volume and by image: `larder cache du`.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use larder_cachefiles::ObjectInfo;

use super::Inventory;
use crate::api::cache_types::{DiskUse, ImageUse, Limits, Sum, VolumeUse};

impl Inventory<'_> {
    /// Adds up what the objects take. Blocks for I/O; memory is that of volumes and known images.
    ///
    /// # Errors
    ///
    /// When the known images cannot be read.
    pub fn disk_use(&self) -> anyhow::Result<DiskUse> {
        let images = self.catalogue.all()?;
        let mut of_image = vec![Sum::default(); images.len()];
        let mut owners: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, image) in images.iter().enumerate() {
            for key in &image.cookies {
                owners.entry(key).or_default().push(number);
            }
        }
        let mut of_volume: BTreeMap<String, Sum> = BTreeMap::new();
        self.cachefiles.objects(|info| {
            match of_volume.get_mut(info.volume.as_str()) {
                Some(sum) => add(sum, &info),
                None => add(of_volume.entry(info.volume.as_str().to_owned()).or_default(), &info),
            }
            for number in owners.get(info.cookie.as_str()).into_iter().flatten() {
                if images[*number].volume == info.volume.as_str() {
                    add(&mut of_image[*number], &info);
                }
            }
            ControlFlow::Continue(())
        });
        let usage = self.cachefiles.usage();
        Ok(DiskUse {
            objects: usage.objects,
            stored_bytes: usage.stored_bytes,
            charged_bytes: usage.charged_bytes,
            rebuilding: usage.rebuilding,
            limits: Limits::of(&usage.limits),
            volumes: of_volume.into_iter().map(|(volume, sum)| VolumeUse { volume, sum }).collect(),
            images: images
                .iter()
                .zip(of_image)
                .map(|(image, sum)| ImageUse {
                    image: image.reference().to_owned(),
                    manifest: image.manifest.clone(),
                    sum,
                })
                .collect(),
        })
    }
}

fn add(sum: &mut Sum, info: &ObjectInfo) {
    sum.objects += 1;
    sum.complete += u64::from(info.complete);
    sum.size_bytes = sum.size_bytes.saturating_add(info.size);
    sum.stored_bytes = sum.stored_bytes.saturating_add(info.stored_bytes);
    if info.pinned {
        sum.pinned_bytes = sum.pinned_bytes.saturating_add(info.stored_bytes);
    }
}
