//! Whether a metadata image belongs to its manifest, asked before anything is mounted.

use larder_erofs as erofs;
use larder_image::LoadedImage;

use crate::errors::{Kind, tell};

/// Opens the metadata image, and checks that its devices are the blobs of the manifest, in order.
///
/// # Errors
///
/// When it is no EROFS image, or one of other devices.
pub fn open(image: &LoadedImage, metadata: impl erofs::MetaSource + 'static) -> anyhow::Result<erofs::Image> {
    let erofs = erofs::Image::open(metadata).map_err(|error| {
        let place = format!("image {}: its metadata cannot be read", image.manifest_digest);
        anyhow::Error::new(error).context(tell(Kind::Failed, place, "rebuild the image with `larder build`"))
    })?;
    image.check_devices(&erofs)?;
    Ok(erofs)
}
