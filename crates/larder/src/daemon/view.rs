//! What the API shows of the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_mount::keeper::{self, PROTOCOL_VERSION};
use larder_ondemand::Blob as Filled;

use super::formats::Formats;
use super::live::Live;
use super::{Daemon, start};
use crate::api::types::{Blob, BlobLayout, Fault, Fill, Process, Records, Status};
use crate::errors::{Kind, told};

/// A process of the daemon, as it is now.
pub(super) fn process(pid: u32) -> Process {
    Process { pid, resident_bytes: resident_bytes(pid).unwrap_or_default() }
}

impl Daemon {
    /// The daemon, its mounts, its blobs.
    pub fn status(&self) -> Status {
        let mounts = self.mounts.all();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: start::program().unwrap_or_default().into(),
            formats: Some(Formats::under(
                self.keeper.as_ref().map_or(PROTOCOL_VERSION, keeper::Client::protocol),
            )),
            keeper: self.keeper.as_ref().and_then(|keeper| keeper.keeper_pid()).map(process),
            worker: process(std::process::id()),
            gave_up: None,
            trace_listeners: self.trace.listeners(),
            blobs: blobs(&mounts),
            mounts: mounts.iter().map(|live| live.view()).chain(self.waiting.view()).collect(),
        }
    }

    /// What was fetched for the mount `id`, and who waited for it.
    ///
    /// # Errors
    ///
    /// When no mount has this id.
    pub fn records(&self, id: &str) -> anyhow::Result<Records> {
        let live = self.mounts.find(id).ok_or_else(|| {
            told(Kind::NotFound, format!("{id}: no mount has this id"), "`larder status --json` lists ids")
        })?;
        let position: BTreeMap<&str, usize> =
            live.devices.iter().enumerate().map(|(n, blob)| (&**blob.name(), n)).collect();
        let engine = self.store.engine();
        let fills = engine.fills().into_iter().filter_map(|record| {
            Some(Fill {
                at_ms: milliseconds(record.at),
                blob: *position.get(&*record.blob)?,
                start: record.range.start(),
                end: record.range.end(),
                stored_bytes: record.stored.len(),
                cause: record.cause.as_str().to_owned(),
                took_ms: milliseconds(record.took),
                ok: record.ok,
            })
        });
        let faults = engine.faults().into_iter().filter_map(|record| {
            Some(Fault {
                at_ms: milliseconds(record.at),
                blob: *position.get(&*record.blob)?,
                start: record.range.start(),
                end: record.range.end(),
                waited_ms: milliseconds(record.waited),
                pid: record.pid,
                ok: record.ok,
            })
        });
        Ok(Records {
            blobs: live.devices.iter().map(|blob| layout(blob)).collect(),
            fills: fills.collect(),
            faults: faults.collect(),
        })
    }
}

fn blobs(mounts: &[Arc<Live>]) -> Vec<Blob> {
    let mut blobs = BTreeMap::new();
    for live in mounts {
        for blob in live.blobs() {
            blobs.entry(blob.name().to_string()).or_insert_with(|| view(blob));
        }
        if let Some(metadata) = &live.metadata {
            blobs.entry(metadata.cookie().key().as_str().to_owned()).or_insert_with(|| Blob {
                name: metadata.cookie().key().as_str().to_owned(),
                size_bytes: metadata.size(),
                stored_bytes: live.metadata_stored_bytes,
                present_bytes: metadata.object().present_bytes(),
                complete: metadata.is_complete(),
                // What it cost stands in its mounts: it was fetched before there was a blob.
                fetched_bytes: 0,
                requests: 0,
            });
        }
    }
    blobs.into_values().collect()
}

fn view(blob: &Filled) -> Blob {
    let stats = blob.stats();
    Blob {
        name: blob.name().to_string(),
        size_bytes: blob.size(),
        stored_bytes: blob.source().len(),
        present_bytes: blob.resources().present_bytes(),
        complete: blob.is_complete(),
        fetched_bytes: stats.fetched_bytes,
        requests: stats.requests,
    }
}

fn layout(blob: &Filled) -> BlobLayout {
    let chunks = || (0..blob.table().len()).map(|number| blob.table().chunk(number));
    BlobLayout {
        name: blob.name().to_string(),
        size_bytes: blob.size(),
        stored_bytes: blob.source().len(),
        chunk_ends: chunks().map(|chunk| chunk.decoded.end()).collect(),
        chunk_stored_bytes: chunks().map(|chunk| chunk.stored.len()).collect(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Resident memory of a process: `VmRSS` of /proc/PID/status, in KiB there.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}
