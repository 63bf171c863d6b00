//! Media types of layers.

use crate::chunk::Encoding;

/// The media types that Larder writes, and the one it looks for.
pub(crate) mod types {
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const EROFS: &str = "application/vnd.erofs";
    pub const EROFS_ZSTD: &str = "application/vnd.erofs+zstd";
    pub const CHUNK_INDEX: &str = "application/vnd.erofs.chunk-index.v1";
    /// The same with BLAKE3, which the specification does not have: other readers take it for no index.
    pub const CHUNK_INDEX_BLAKE3: &str = "application/vnd.larder.chunk-index.blake3.v1";
}

/// What a layer is, by its media type alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An EROFS image, or the data of one.
    Erofs(Encoding),
    /// What containerd wrote before there was a specification: the same without a chunk index.
    ErofsBeforeSpec,
    /// A chunk index that is a layer of its own.
    ChunkIndex,
    /// A member of the EROFS family that is not known; it must be refused.
    ErofsUnknown,
    /// A tar archive, compressed or not.
    Tar,
    /// Anything else.
    Other,
}

impl Kind {
    /// Tells what a layer of this media type is.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            types::EROFS => Self::Erofs(Encoding::Raw),
            types::EROFS_ZSTD => Self::Erofs(Encoding::Zstd),
            types::CHUNK_INDEX => Self::ChunkIndex,
            "application/vnd.erofs.layer.v1" | "application/vnd.erofs.layer.v1+zstd" => Self::ErofsBeforeSpec,
            _ if media_type.starts_with("application/vnd.erofs") => Self::ErofsUnknown,
            _ if is_tar(media_type) => Self::Tar,
            _ => Self::Other,
        }
    }
}

fn is_tar(media_type: &str) -> bool {
    let family = media_type.split('+').next().unwrap_or_default();
    matches!(
        family,
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.oci.image.layer.nondistributable.v1.tar"
    ) || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        for (media_type, kind) in [
            ("application/vnd.erofs", Kind::Erofs(Encoding::Raw)),
            ("application/vnd.erofs+zstd", Kind::Erofs(Encoding::Zstd)),
            ("application/vnd.erofs+gzip", Kind::ErofsUnknown),
            ("application/vnd.erofs.layer.v1+zstd", Kind::ErofsBeforeSpec),
            ("application/vnd.erofs.chunk-index.v1", Kind::ChunkIndex),
            ("application/vnd.erofs.chunk-index.v2", Kind::ErofsUnknown),
            ("application/vnd.oci.image.layer.v1.tar", Kind::Tar),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Kind::Tar),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Kind::Tar),
            ("application/octet-stream", Kind::Other),
        ] {
            assert_eq!(Kind::of(media_type), kind, "{media_type}");
        }
    }
}
