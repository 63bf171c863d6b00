//! What crosses the control API, version 1. Names are stable; sizes are exact bytes, times milliseconds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::path_text;
use crate::daemon::formats::Formats;
use crate::errors::Report;
use crate::tree::TreeOptions;

/// `GET /v1/status`: the daemon, its mounts, its blobs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Version of the running worker.
    pub version: String,
    /// The program that the worker runs.
    #[serde(default, with = "path_text")]
    pub program: PathBuf,
    /// Versions of what another program would take up; absent from a daemon before `--replace`.
    #[serde(default)]
    pub formats: Option<Formats>,
    /// The process that holds what must not be closed; absent when the worker runs without one.
    pub keeper: Option<Process>,
    /// The process that does the work.
    pub worker: Process,
    /// Present while nobody does: workers die, and `worker` gives every reader an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
    /// How many listen to trace events right now; with none, tracing is off.
    #[serde(default)]
    pub trace_listeners: usize,
    /// Every mount, in the order of their targets.
    pub mounts: Vec<Mount>,
    /// Every blob of every mount once, in the order of their names.
    pub blobs: Vec<Blob>,
}

/// Why the daemon serves nobody.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct GaveUp {
    /// What happened, in words, with the last worker's exit status or signal.
    pub reason: String,
    /// What the last worker said before it ended; absent when it was killed, or said nothing.
    pub last_error: Option<Report>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What to do.
    pub hint: String,
}

/// A process of the daemon.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its resident memory.
    pub resident_bytes: u64,
}

/// One mount.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Mount {
    /// Names the mount in the API.
    pub id: String,
    /// Where it is mounted.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Whether an image or a tree is mounted.
    #[serde(default)]
    pub kind: MountKind,
    /// The image's reference, or the tree's address, as it was given.
    pub image: String,
    /// Digest of the manifest; empty for a tree.
    pub manifest: String,
    /// `fanotify`, `fuse-blob`, `cachefiles` or `fuse`.
    pub frontend: String,
    /// How it is.
    pub state: MountState,
    /// Stored bytes of the whole image; 0 for a tree, whose size nobody knows.
    pub image_bytes: u64,
    /// Bytes fetched for it since the daemon first mounted the image, metadata included.
    pub fetched_bytes: u64,
    /// Requests that fetched them.
    pub requests: u64,
    /// The newest error a fill of its blobs ended with.
    pub last_error: Option<String>,
    /// When that was, in milliseconds since 1970.
    pub last_error_at_ms: Option<u64>,
    /// Names of its blobs: metadata first, then devices in the image's order.
    pub blobs: Vec<String>,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// An image, whose bytes digests vouch for.
    #[default]
    Image,
    /// A tree of a remote store, whose files may change.
    Tree,
}

/// How a mount is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountState {
    /// Mounted; some bytes are still elsewhere.
    OnDemand,
    /// Mounted, and every byte is here.
    Complete,
    /// Mounted, and nobody serves it: what the kernel has to ask for is an error.
    Failing,
}

/// One blob: the decoded data of one layer, as the cache holds it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Blob {
    /// The cookie's key.
    pub name: String,
    /// Decoded size.
    pub size_bytes: u64,
    /// Size as it is stored on the far side.
    pub stored_bytes: u64,
    /// Decoded bytes that are here.
    pub present_bytes: u64,
    /// Whether all of them are here.
    pub complete: bool,
    /// Stored bytes fetched by this worker.
    pub fetched_bytes: u64,
    /// Requests that fetched them.
    pub requests: u64,
}

/// `POST /v1/mounts`: what to mount where.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// The image, or the address of a tree; a layout's directory must be absolute.
    pub image: String,
    /// An existing directory, absolute.
    #[serde(with = "path_text")]
    pub target: PathBuf,
    /// The front end; the best that works when absent.
    #[serde(default)]
    pub frontend: Option<String>,
    /// Whether to speak plain HTTP to the registry or the tree's server.
    #[serde(default)]
    pub insecure: bool,
    /// How to mount a tree; absent for an image.
    #[serde(default)]
    pub tree: Option<TreeOptions>,
}

/// `DELETE /v1/mounts`: what to unmount.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UmountRequest {
    /// The mount's target, absolute.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Detach now, clean up when the last user is gone.
    #[serde(default)]
    pub lazy: bool,
}

/// `POST /v1/replace`: the program that takes over.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// An executable file, absolute, as the keeper sees it.
    #[serde(with = "path_text")]
    pub program: PathBuf,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Replacing {
    /// The process that makes way: not always the one that answered the call before.
    pub worker: u32,
}

/// `POST /v1/stop`: how to stop.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Detach mounts that are in use instead of refusing to stop.
    #[serde(default)]
    pub lazy: bool,
}

/// `POST /v1/trace`: which trace events; an empty list means all.
///
/// The answer is one object a line, see `docs/tracing.md`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Names, or beginnings of names and a `*`.
    #[serde(default)]
    pub events: Vec<String>,
    /// Keys of cookies, or beginnings of keys.
    #[serde(default)]
    pub cookies: Vec<String>,
    /// Processes whose reads are wanted.
    #[serde(default)]
    pub pids: Vec<u32>,
    /// Images, mounted or about to be.
    #[serde(default)]
    pub images: Vec<ImageName>,
}

/// An image as a user calls it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    /// A reference, or the digest of a manifest.
    pub reference: String,
    /// The directory it is mounted on, absolute.
    #[serde(with = "path_text")]
    pub path: PathBuf,
}

/// `GET /v1/mounts/{id}/records`: what was fetched, in which order, and who waited for it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Records {
    /// The blobs' layout; other records refer to them by position.
    pub blobs: Vec<BlobLayout>,
    /// Chunks fetched, oldest first; the oldest of very many are dropped.
    pub fills: Vec<Fill>,
    /// Reads that met a hole, oldest first; the oldest of very many are dropped.
    pub faults: Vec<Fault>,
}

/// Where the chunks of a blob lie.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct BlobLayout {
    /// The cookie's key.
    pub name: String,
    /// Decoded size.
    pub size_bytes: u64,
    /// Stored size.
    pub stored_bytes: u64,
    /// Where each chunk ends in the decoded data; each begins where the one before ends.
    pub chunk_ends: Vec<u64>,
    /// Stored length of each chunk.
    pub chunk_stored_bytes: Vec<u64>,
}

/// A run of chunks that was fetched with one request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fill {
    /// When the request went out, in milliseconds since the worker started.
    pub at_ms: f64,
    /// Position of the blob in [`Records::blobs`].
    pub blob: usize,
    /// First decoded byte.
    pub start: u64,
    /// First decoded byte after it.
    pub end: u64,
    /// Bytes that crossed the wire.
    pub stored_bytes: u64,
    /// `demand`, `readahead`, `profile` or `prefetch`.
    pub cause: String,
    /// From the request to the last presence bit.
    pub took_ms: f64,
    /// Whether every chunk of it was verified and written.
    pub ok: bool,
}

/// A read that met a hole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fault {
    /// When it came, in milliseconds since the worker started.
    pub at_ms: f64,
    /// Position of the blob in [`Records::blobs`].
    pub blob: usize,
    /// First decoded byte asked for.
    pub start: u64,
    /// First decoded byte after it.
    pub end: u64,
    /// How long the reader waited.
    pub waited_ms: f64,
    /// Who read, where the kernel tells.
    pub pid: Option<u32>,
    /// Whether the reader got its bytes.
    pub ok: bool,
}
