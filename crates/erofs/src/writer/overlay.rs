//! How layers hide what lies below: names in the layers of OCI images and AUFS, attributes and devices in overlayfs.

use crate::{FileType, Rdev, Xattr};

/// Marks names of whiteouts in archives.
const WHITEOUT: &[u8] = b".wh.";
/// Names of AUFS's own: of these only the next means anything.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Hides what layers below have in the directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlayfs marks such a directory.
pub(super) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// What a name with the prefix `.wh.` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mark<'a> {
    /// Nothing of the layers below is seen in this directory.
    Opaque,
    /// This name of the layers below is not seen.
    Hides(&'a [u8]),
    /// AUFS's own affair.
    Other,
}

/// Reads a name as layers of OCI images have it; `None` for an ordinary one.
pub(super) fn mark(name: &[u8]) -> Option<Mark<'_>> {
    if name == OPAQUE {
        return Some(Mark::Opaque);
    }
    let hidden = name.strip_prefix(WHITEOUT)?;
    // What no entry can be called is hidden by nothing, and must not come into a directory by this way.
    let is_name = !matches!(hidden, b"" | b"." | b"..");
    Some(if name.starts_with(WHITEOUT_META) || !is_name { Mark::Other } else { Mark::Hides(hidden) })
}

/// Whether an object is a whiteout of overlayfs: the character device 0:0.
pub(super) fn is_whiteout(kind: FileType, rdev: Rdev) -> bool {
    kind == FileType::CharDevice && rdev == Rdev::default()
}

/// Whether an object of this kind and size may be the other whiteout: a regular file, empty, with an attribute
/// [`OverlayXattr::Whiteout`] of any value.
///
/// Source of truth: `ovl_path_check_xwhiteout_xattr()`, fs/overlayfs/util.c (v6.8), which decides every lookup. That the
/// directory has `overlay.opaque` = `x` only spares `readdir` the question where it is not so.
pub(super) fn may_be_xattr_whiteout(kind: FileType, size: u64) -> bool {
    kind == FileType::Regular && size == 0
}

/// What an attribute is to overlayfs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum OverlayXattr<'a> {
    /// Marks a directory that hides what layers below have in it.
    Opaque,
    /// Makes a whiteout of an empty regular file, and means nothing elsewhere.
    Whiteout,
    /// Says that contents or entries are those of something else below: only overlayfs can follow.
    Elsewhere,
    /// Not to be seen through overlayfs.
    Hidden,
    /// To be seen under this name: one level of nesting taken off, as overlayfs does since Linux 6.7.
    Nested(&'a [u8], &'a [u8]),
}

/// The two families of attributes that overlayfs has, by whether it was mounted with `userxattr`.
const FAMILIES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What an attribute is to overlayfs; `None` for all but its own.
pub(super) fn overlay_xattr(xattr: &Xattr) -> Option<OverlayXattr<'_>> {
    FAMILIES.into_iter().find_map(|family| {
        let rest = xattr.name.strip_prefix(family)?;
        Some(match rest {
            b"opaque" if xattr.value == b"y" => OverlayXattr::Opaque,
            b"whiteout" => OverlayXattr::Whiteout,
            b"redirect" | b"metacopy" => OverlayXattr::Elsewhere,
            _ => match rest.strip_prefix(b"overlay.") {
                Some(name) => OverlayXattr::Nested(family, name),
                None => OverlayXattr::Hidden,
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_whiteouts_are_told_from_ordinary_ones() {
        for (name, expected) in [
            (&b"file"[..], None),
            (b".wh", None),
            (b"x.wh.file", None),
            (b".wh.file", Some(Mark::Hides(b"file"))),
            (b".wh..hidden", Some(Mark::Hides(b".hidden"))),
            (b".wh..wh..opq", Some(Mark::Opaque)),
            (b".wh..wh.plnk", Some(Mark::Other)),
            (b".wh..", Some(Mark::Other)),
            (b".wh...", Some(Mark::Other)),
            (b".wh....", Some(Mark::Hides(b"..."))),
            (b".wh.", Some(Mark::Other)),
        ] {
            assert_eq!(mark(name), expected, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn attributes_are_read_as_overlayfs_reads_them() {
        let of = |name: &str, value: &str| {
            let xattr = Xattr { name: name.into(), value: value.into() };
            overlay_xattr(&xattr).map(|found| match found {
                OverlayXattr::Opaque => "opaque".to_owned(),
                OverlayXattr::Whiteout => "whiteout".to_owned(),
                OverlayXattr::Elsewhere => "elsewhere".to_owned(),
                OverlayXattr::Hidden => "hidden".to_owned(),
                OverlayXattr::Nested(family, rest) => {
                    String::from_utf8([family, rest].concat()).expect("text")
                }
            })
        };
        for (name, value, expected) in [
            ("trusted.overlay.opaque", "y", Some("opaque")),
            ("user.overlay.opaque", "y", Some("opaque")),
            ("trusted.overlay.opaque", "x", Some("hidden")),
            ("trusted.overlay.whiteout", "", Some("whiteout")),
            ("user.overlay.whiteout", "y", Some("whiteout")),
            ("trusted.overlay.overlay.whiteout", "", Some("trusted.overlay.whiteout")),
            ("trusted.overlay.origin", "", Some("hidden")),
            ("user.overlay.redirect", "/a", Some("elsewhere")),
            ("trusted.overlay.overlay.opaque", "y", Some("trusted.overlay.opaque")),
            ("trusted.overlayed", "y", None),
            ("user.mime", "y", None),
        ] {
            assert_eq!(of(name, value).as_deref(), expected, "{name}={value}");
        }
    }
}
