//! Opening a backing file without a look into its folder, which is one of the two reads of the disk that a look-up costs.
//!
//! The path is the truth, and the index remembers what it led to: a [`Sighting`]. What is opened by its handle is used only if
//! the path leads to it still. The folder that has the path must be the one in which the file was seen, and no other,
//! which tells of a volume in the graveyard, and of a cache that was copied or moved; and the file must have one name,
//! and not have been changed since, which tells of one that was renamed, removed, replaced or copied by hand. It is then looked at as
//! any other. Whatever does not fit, or cannot be done, is left to the path.

use std::io;
use std::sync::Arc;

use super::open::{Backing, check, on_disk, open_any, trace_coherency};
use crate::Spec;
use crate::coherency::State;
use crate::layout::Place;
use crate::storage::{Access, FileHandle, Sighting, Stat, StorageFile};
use crate::store::Store;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// The file of the object, if there is one.
pub(super) fn find(store: &Store, place: &Place, spec: &Spec) -> io::Result<Option<Backing>> {
    // First, as it costs nothing once the folder is in memory: without it the row need not be read.
    let dir = store.storage.handle_at(&place.dir).ok().flatten();
    if let Some(backing) = dir.and_then(|dir| by_handle(store, place, spec, &dir)) {
        return Ok(Some(backing));
    }
    let Some(backing) = on_disk(store, place, spec)? else { return Ok(None) };
    let seen = store.sight(place, &backing.stat);
    if seen.is_some() {
        store.index.see(&place.object(), seen);
    }
    Ok(Some(Backing { seen, ..backing }))
}

/// The file that the index remembers, if the path leads to it and it is the object.
fn by_handle(store: &Store, place: &Place, spec: &Spec, dir: &FileHandle) -> Option<Backing> {
    let seen = store.index.seen(&place.object()).filter(|seen| seen.dir == *dir)?;
    let (file, access) = open_any(|access| store.storage.open_by_handle(&seen.file, access)).ok()?;
    let file: Arc<dyn StorageFile> = file.into();
    let (stat, coherency) = check(&*file, place, spec).ok()?.ok()?;
    let is_as_seen = stat.has_one_name && stat.changed_ns == seen.changed_ns;
    let is_writable = access == Access::ReadWrite || coherency.state == State::Complete;
    if !is_as_seen || !is_writable {
        return None;
    }
    trace_coherency(place, stat.ino, "ok");
    Some(Backing { file, stat, coherency, live: None, settled: true, seen: Some(seen) })
}

/// Sets the file's own time of use to now, which changes it, and remembers it so if nobody else has changed it meanwhile.
pub(super) fn touch(store: &Store, place: &Place, seen: Option<Sighting>, file: &dyn StorageFile) {
    let is_still =
        |seen: &Sighting| file.stat().is_ok_and(|now| now.has_one_name && now.changed_ns == seen.changed_ns);
    let seen = seen.filter(is_still);
    if file.touch().is_err() {
        return;
    }
    if let (Some(seen), Ok(Stat { changed_ns, has_one_name: true, .. })) = (seen, file.stat()) {
        store.index.see(&place.object(), Some(Sighting { changed_ns, ..seen }));
    }
}

impl Store {
    /// Looks where the path of an object leads to, for the index to remember. The object must be nobody else's meanwhile.
    /// `None` unless that is the file that `stat` saw.
    pub fn sight(&self, place: &Place, stat: &Stat) -> Option<Sighting> {
        let handle = |path: &str| self.storage.handle_at(path).ok().flatten();
        // The folder first: if another takes its place now, it does not fit later.
        let (dir, file) = (handle(&place.dir)?, handle(&place.data)?);
        let now = self.storage.stat(&place.data).ok().flatten()?;
        let is_ours = now.has_one_name && (now.dev, now.ino) == (stat.dev, stat.ino);
        // A file system that keeps whole seconds does not tell of what follows within the same one.
        let is_fine = !now.changed_ns.is_multiple_of(SECOND_NS);
        (is_ours && is_fine).then_some(Sighting { dir, file, changed_ns: now.changed_ns })
    }
}
