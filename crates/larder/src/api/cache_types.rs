//! What crosses the control API about the cache, version 1. Names are stable; sizes are exact bytes, times milliseconds.

use serde::{Deserialize, Serialize};

use super::types::ImageName;

/// `POST /v1/cache/objects`: which objects. The answer is an [`Object`] a line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListRequest {
    /// Only those of this volume.
    #[serde(default)]
    pub volume: Option<String>,
    /// Only those of this image.
    #[serde(default)]
    pub image: Option<ImageName>,
}

/// One object of the cache.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Object {
    /// The volume it belongs to.
    pub volume: String,
    /// Its name within the volume.
    pub cookie: String,
    /// Size, holes included.
    pub size_bytes: u64,
    /// What it takes on the disk, as of the last time it was looked at.
    pub stored_bytes: u64,
    /// Whether everything of it is there, and durable.
    pub complete: bool,
    /// Whether it is kept from being culled.
    pub pinned: bool,
    /// When it was used last, in milliseconds since 1970.
    pub last_used_ms: u64,
}

/// `GET /v1/cache/usage`: what the cache takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DiskUse {
    /// Number of objects.
    pub objects: u64,
    /// What they take on the disk, as of the last time each was looked at.
    pub stored_bytes: u64,
    /// Upper bound of what they take now: what the quota is compared with.
    pub charged_bytes: u64,
    /// Whether the index is being rebuilt, and objects are still missing from the figures.
    pub rebuilding: bool,
    /// How much the cache may take.
    pub limits: Limits,
    /// By volume, in the order of their names.
    pub volumes: Vec<VolumeUse>,
    /// By image; what images share counts for each.
    pub images: Vec<ImageUse>,
}

/// How much the cache may take: hundredths that stay free of the file system's blocks and files.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Limits {
    /// Most bytes; absent when only the percentages count.
    pub quota_bytes: Option<u64>,
    /// Blocks: culling stops here.
    pub brun: u8,
    /// Blocks: culling begins below this.
    pub bcull: u8,
    /// Blocks: nothing new is cached below this.
    pub bstop: u8,
    /// Files: culling stops here.
    pub frun: u8,
    /// Files: culling begins below this.
    pub fcull: u8,
    /// Files: nothing new is cached below this.
    pub fstop: u8,
}

impl Limits {
    /// The limits of a cache.
    pub fn of(limits: &larder_cachefiles::Limits) -> Self {
        let (blocks, files) = (limits.blocks, limits.files);
        Self {
            quota_bytes: limits.quota,
            brun: blocks.run,
            bcull: blocks.cull,
            bstop: blocks.stop,
            frun: files.run,
            fcull: files.cull,
            fstop: files.stop,
        }
    }
}

/// `GET /v1/cache/stats`: what happened to the cache since the worker started, and how full it is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CacheStats {
    /// Number of objects on the disk.
    pub objects: u64,
    /// What they take on the disk, as of the last time each was looked at.
    pub stored_bytes: u64,
    /// Upper bound of what they take now: what the quota is compared with.
    pub charged_bytes: u64,
    /// Whether the index is being rebuilt, and objects are still missing from the figures.
    pub rebuilding: bool,
    /// Where the limits stand.
    pub state: SpaceState,
    /// How much the cache may take.
    pub limits: Limits,
    /// The file system it lies on.
    pub disk: Disk,
    /// Counters in the groups of `/proc/fs/fscache/stats`, in its order.
    pub groups: Vec<Group>,
    /// How trees were read, in the groups that the same file has of netfs; empty from a daemon that does not tell.
    #[serde(default)]
    pub netfs: Vec<Group>,
}

/// Where the limits stand, for blocks, files and quota: the worst of them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceState {
    /// There is enough; nothing is culled.
    Run,
    /// Less than the run limit is free: culling that has begun goes on.
    Low,
    /// Less than the cull limit is free: idle objects are culled.
    Cull,
    /// Less than the stop limit is free: nothing new is cached.
    Stop,
}

/// A file system.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Disk {
    /// All of it.
    pub bytes: u64,
    /// What is free of it.
    pub free_bytes: u64,
    /// Files it may have; 0 when it has no bound.
    pub files: u64,
    /// Files that may still be made.
    pub free_files: u64,
}

/// A group of counters.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Group {
    /// Its name, such as `Lookups`.
    pub name: String,
    /// Its counters, in order.
    pub counters: Vec<Counter>,
}

/// One counter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counter {
    /// Its short name, such as `neg`.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// What a volume takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct VolumeUse {
    /// Its name.
    pub volume: String,
    /// What its objects take.
    #[serde(flatten)]
    pub sum: Sum,
}

/// What an image takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ImageUse {
    /// The newest reference it was mounted by.
    pub image: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// What its objects take.
    #[serde(flatten)]
    pub sum: Sum,
}

/// What several objects take.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Sum {
    /// How many they are.
    pub objects: u64,
    /// How many of them are complete.
    pub complete: u64,
    /// Their sizes, holes included.
    pub size_bytes: u64,
    /// What they take on the disk.
    pub stored_bytes: u64,
    /// What the pinned ones among them take.
    pub pinned_bytes: u64,
}

/// `POST /v1/cache/prune`: what to remove. All conditions must hold; what is in use or pinned stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Only objects of this volume.
    #[serde(default)]
    pub volume: Option<String>,
    /// Only objects that were not used for so long.
    #[serde(default)]
    pub unused_for_ms: Option<u64>,
    /// Only as many as it takes to come down to so much, the least recently used first.
    #[serde(default)]
    pub to_bytes: Option<u64>,
    /// Only as many as it takes for so many hundredths of the file system to be free.
    #[serde(default)]
    pub until_free_percent: Option<u8>,
    /// Tell what would be removed, and remove nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Pruned {
    /// Whether nothing was removed because nothing was to be.
    pub dry_run: bool,
    /// How many objects.
    pub objects: u64,
    /// What they took on the disk.
    pub freed_bytes: u64,
}

/// `POST /v1/cache/pin`: what to keep from being culled, or no longer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Images, or keys of cookies in place of a reference.
    pub names: Vec<ImageName>,
    /// The volume of cookies that are named by their keys.
    pub volume: String,
    /// Pinned, or no longer.
    pub pinned: bool,
}

/// What was pinned, or is no longer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Pinned {
    /// Pinned, or no longer.
    pub pinned: bool,
    /// Keys of the cookies.
    pub cookies: Vec<String>,
}

/// `POST /v1/cache/verify`: which objects to read again. The answer is a [`VerifyLine`] a line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Images, or keys of cookies in place of a reference; all when empty.
    #[serde(default)]
    pub names: Vec<ImageName>,
    /// Report damage, and leave it.
    #[serde(default)]
    pub no_repair: bool,
}

/// A step of a verification.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum VerifyLine {
    /// How far it is.
    Progress {
        /// Bytes read.
        done_bytes: u64,
        /// Bytes to be read, as far as is known.
        total_bytes: u64,
    },
    /// An object is through.
    Object(VerifiedObject),
}

/// What became of one object.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct VerifiedObject {
    /// The volume it belongs to.
    pub volume: String,
    /// Its name within the volume.
    pub cookie: String,
    /// An image it belongs to; absent when no chunk table is known for it.
    pub image: Option<String>,
    /// `good`, `damaged`, `unchecked` or `unknown`.
    pub state: VerifyState,
    /// Bytes that are what the digests vouch for.
    pub good_bytes: u64,
    /// Bytes that are not.
    pub damaged_bytes: u64,
    /// Of these, bytes that were fetched again or given up, so that the next read fetches them.
    pub repaired_bytes: u64,
    /// Bytes that could not be checked, because what their digest covers could not be fetched.
    pub unchecked_bytes: u64,
    /// The newest reason why something was not checked or not repaired.
    pub error: Option<String>,
}

/// The verdict on one object.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyState {
    /// Everything that is present is right.
    Good,
    /// Something is not.
    Damaged,
    /// Nothing was found wrong, but not everything could be checked.
    Unchecked,
    /// No chunk table is known for it.
    #[default]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_says_that_does_not_tell_of_trees_is_understood() {
        let old = r#"{"objects":1,"stored_bytes":2,"charged_bytes":3,"rebuilding":false,"state":"run",
            "limits":{"quota_bytes":null,"brun":7,"bcull":5,"bstop":1,"frun":7,"fcull":5,"fstop":1},
            "disk":{"bytes":1,"free_bytes":1,"files":1,"free_files":1},
            "groups":[{"name":"Use","counters":[{"name":"n","value":1}]}]}"#;
        let stats: CacheStats = serde_json::from_str(old).expect("understood");
        assert_eq!((stats.groups.len(), stats.netfs.len()), (1, 0));
    }
}
