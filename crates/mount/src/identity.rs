//! [`Identity`]: what tells a mount of ours from one that somebody else has put in its place.

use serde::{Deserialize, Serialize};

use crate::erofs::Superblock;
use crate::sys::mount::{mountinfo_id, unique_ids};
use crate::target::MountPoint;

/// What tells one mount from all others of the time since the machine was started. Neither the number in
/// /proc/self/mountinfo nor the device number does: the kernel gives both again as soon as a mount is gone.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    /// The mount's unique number; absent before Linux 6.8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_id: Option<u64>,
    /// The device number of its superblock, as `MAJOR:MINOR`; it counts as long as the superblock lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What tells whether the superblock lives: its backing device's name in /sys/class/bdi, or several where other mounts were
    /// made at the same time. Empty for a FUSE.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backing: Vec<String>,
}

impl Identity {
    /// Whether `other` knows more exactly which backing device is its superblock's.
    pub fn is_narrowed_by(&self, other: &Self) -> bool {
        !other.backing.is_empty()
            && other.backing.len() < self.backing.len()
            && other.backing.iter().all(|name| self.backing.contains(name))
    }

    /// Whether `other` is a mount in place of this one, which has gone.
    pub fn is_followed_by(&self, other: &Self) -> bool {
        self.mount_id.is_some()
            && other.mount_id.is_some_and(|id| Some(id) != self.mount_id)
            && self.is_gone()
    }

    /// Whether it tells anything.
    pub(crate) fn is_known(&self) -> bool {
        self.mount_id.is_some() || (self.device.is_some() && !self.backing.is_empty())
    }

    /// What is known of its superblock, if that is anything.
    pub(crate) fn superblock(&self) -> Option<Superblock> {
        Some(Superblock::of_names(&self.backing)).filter(|superblock| !superblock.is_unknown())
    }

    /// Whether `point` is this mount, or another one of its superblock: a copy in a younger mount namespace, say. `is_certain`
    /// says that the superblock lives.
    pub(crate) fn is_of(&self, point: &MountPoint, is_certain: bool) -> bool {
        let number = self.mount_id.map(mountinfo_id);
        if matches!(number, Some(Ok(Some(id))) if id == point.id) {
            return true;
        }
        // Without a number it goes by the device unless its superblock is gone for certain, rather than give a mount up that is
        // there: a backing device that may be its own belongs to another one, which may have gone.
        let lives = || match (self.superblock(), &number) {
            (Some(superblock), Some(Ok(_))) => superblock.lives(),
            (Some(superblock), _) => !superblock.is_gone(),
            (None, number) => matches!(number, Some(Err(_))),
        };
        self.device.as_ref() == Some(&point.device) && (is_certain || lives())
    }

    /// Whether somebody has taken this mount away, and its device number may be another's by now.
    pub(crate) fn is_gone(&self) -> bool {
        let superblock = self.superblock().unwrap_or_default();
        let has_no_number = || matches!(self.mount_id.map(mountinfo_id), Some(Ok(None)));
        superblock.is_gone() || (!superblock.lives() && has_no_number())
    }
}

/// The unique number of `point`, which is `known` if that is its; none before Linux 6.8. Looks no path up: one of its parents
/// may be a file system that hangs, and all other mounts would wait with it.
pub(crate) fn unique_id(point: &MountPoint, known: Option<u64>) -> Option<u64> {
    let is_its = |id: &u64| matches!(mountinfo_id(*id), Ok(Some(number)) if number == point.id);
    // It is the youngest if it was just made.
    let listed = || unique_ids().ok()?.into_iter().rev().find(is_its);
    known.filter(is_its).or_else(listed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_device_number_counts_only_while_the_superblock_lives() {
        let point = |device: &str| MountPoint {
            id: 1,
            parent: 1,
            path: "/mnt".into(),
            kind: "fuse.larder".into(),
            device: device.into(),
            source: String::new(),
        };
        let nobodys = u64::MAX;
        if let Err(error) = mountinfo_id(nobodys) {
            return println!("skipped: this kernel gives mounts no unique numbers: {error}");
        }
        let identity = |backing: &[&str]| Identity {
            mount_id: Some(nobodys),
            device: Some("0:7".into()),
            backing: backing.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert!(identity(&[]).is_of(&point("0:7"), true), "a copy of it in another namespace");
        assert!(!identity(&[]).is_of(&point("0:8"), true));
        assert!(!identity(&[]).is_of(&point("0:7"), false), "the number may have been given again");
        assert!(!identity(&["erofs-no-such"]).is_of(&point("0:7"), false), "its superblock is gone");
        assert!(identity(&[]).is_gone() && identity(&["erofs-no-such"]).is_gone());
        assert!(!Identity::default().is_gone(), "nobody knows");
        assert!(!Identity { backing: vec!["erofs-1".into()], ..Identity::default() }.is_known());
    }

    #[test]
    fn a_mount_is_found_again_by_its_unique_number() {
        let points = crate::mount_points().expect("proc is mounted");
        let root = points.iter().find(|point| point.path == Path::new("/")).expect("there is a root");
        if let Err(error) = unique_ids() {
            return println!("skipped: this kernel gives mounts no unique numbers: {error}");
        }
        let id = unique_id(root, None).expect("it is listed");
        assert_eq!(unique_id(root, Some(id)), Some(id));
        assert_eq!(unique_id(root, Some(id + (1 << 40))), Some(id), "another's");
        let of = |id| Identity { mount_id: Some(id), ..Identity::default() };
        assert!(of(id).is_known() && of(id).is_of(root, false));
        assert!(!of(id + (1 << 40)).is_of(root, false));
    }
}
