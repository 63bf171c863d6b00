//! The EROFS on-disk format: read it, map it, write it, check it.
