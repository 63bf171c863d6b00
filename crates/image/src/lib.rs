//! EROFS images in OCI layouts: manifests, chunk indexes, digests, building.
