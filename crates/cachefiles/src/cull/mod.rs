//! Culling: making room by taking away what nobody uses, the least recently used first.
//!
//! Whole objects go first. When a single large one is all there is, ranges are punched out of it, from its
//! end. Objects that are alive, or that the keeper holds a descriptor of (a mount may read them without
//! asking), or that are pinned, stay.

use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use larder_faults::{Site, point};
use larder_fscache::ObjectRange;

use crate::error::is_full;
use crate::index::Row;
use crate::layout::{Place, RESERVE};
use crate::ledger::{Draw, Drawn};
use crate::limits::Goal;
use crate::object::Name;
use crate::store::Store;
use crate::unused::LetGo;

/// Candidates found by one look through the index.
const VICTIMS_MAX: usize = 16 << 10;
/// What is freed beyond what a writer needs, so that the next one need not cull again.
const EXTRA_BYTES: u64 = 16 << 20;
/// How often a writer tries again when others take what it has freed. What it waits for the walk does not count.
const TRIES_MAX: u32 = 64;
/// How often, and how long each time, a writer waits for the kernel to close files of what was unmounted.
const WAITS_MAX: u32 = 20;
const WAIT: Duration = Duration::from_millis(10);
/// An object that takes more than this beyond what must be freed is punched if it is the last one.
const PUNCH_BYTES_MIN: u64 = 64 << 20;

/// Candidates, the least recently used first.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    queue: VecDeque<Victim>,
    /// Where the next look begins behind, if the index may have more than the queue had room for.
    more: Option<Victim>,
}

/// When an object was used last, and which.
type Victim = (u64, Name);

/// What was freed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Culled {
    /// Number of objects that are gone.
    pub objects: u64,
    /// Number of files that are gone.
    pub files: u64,
    /// Bytes that were freed, also from objects that are still there.
    pub bytes: u64,
}

impl Store {
    /// Draws from the ledger, and makes room when there is none.
    ///
    /// # Errors
    ///
    /// ENOSPC when nothing more can be freed; what the system says.
    pub fn draw(&self, want: Goal) -> io::Result<Drawn<'_>> {
        let (mut has_settled, mut waits, mut tries) = (false, 0, 0);
        while tries < TRIES_MAX {
            tries += 1;
            match self.draw_once(want)? {
                Draw::Granted(drawn) => return Ok(drawn),
                Draw::RaiseReserve(_) => {}
                Draw::Short(short) => {
                    let goal = Goal { bytes: short.bytes.saturating_add(self.extra()), ..short };
                    if self.cull(goal) != Culled::default() {
                        continue;
                    }
                    if self.walk.wait() {
                        // No try: what is unknown may be room, and the walk ends.
                        tries -= 1;
                        continue;
                    }
                    if !has_settled {
                        has_settled = true;
                        self.settle_the_living();
                        continue;
                    }
                    match self.relinquish_unused() {
                        LetGo { let_go: 1.., .. } => {}
                        LetGo { open_elsewhere: 1.., .. } if waits < WAITS_MAX => {
                            waits += 1;
                            thread::sleep(WAIT);
                        }
                        _ => break,
                    }
                }
            }
        }
        Err(Errno::NOSPC.into())
    }

    /// Draws if there is room, and raises the reserve if it must be. Where the file system has no room for that, what the
    /// writer wants must be freed first.
    fn draw_once(&self, want: Goal) -> io::Result<Draw<'_>> {
        let drawn = self.ledger.draw(want, || self.storage.statfs())?;
        if let Draw::Granted(_) = &drawn {
            // From here on there is more than a closed index says.
            self.index.break_seal().inspect_err(|_| self.ledger.settle(want.bytes, 0))?;
        }
        let Draw::RaiseReserve(to) = drawn else { return Ok(drawn) };
        match self.raise_reserve(to) {
            Ok(()) => Ok(drawn),
            Err(error) if is_full(&error) => Ok(Draw::Short(want)),
            Err(error) => Err(error),
        }
    }

    /// Replaces the bounds of what objects in use take by what they take: bounds of writes that failed, or that wrote
    /// again what was there, would count until the next commit. An object that is being opened or replaced is left out.
    pub fn settle_the_living(&self) {
        for object in self.objects.values().iter().filter_map(|seat| seat.current_unless_locked()) {
            object.settle_in_use();
        }
    }

    /// Frees up to the goal, or as much as there is.
    pub fn cull(&self, goal: Goal) -> Culled {
        let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
        let mut culled = Culled::default();
        // Those that an earlier call left, then everything: behind each look there may be more.
        let mut has_looked = false;
        loop {
            let left = goal.less(culled.bytes, culled.files);
            if left.is_reached() {
                return culled;
            }
            let Some((used_ms, name)) = victims.queue.pop_front() else {
                let behind = victims.more.take();
                if has_looked && behind.is_none() {
                    return culled;
                }
                *victims = self.look_for_victims(behind.filter(|_| has_looked).as_ref());
                has_looked = true;
                continue;
            };
            let last = victims.queue.is_empty() && victims.more.is_none();
            match self.cull_one(&name, used_ms, left, last) {
                Ok(one) => {
                    culled.objects += one.objects;
                    culled.files += one.files;
                    culled.bytes = culled.bytes.saturating_add(one.bytes);
                }
                Err(error) => {
                    tracing::warn!(volume = %name.0, cookie = %name.1, %error, what = "culling", "cachefiles_vfs_error");
                }
            }
        }
    }

    fn cull_one(&self, name: &Name, used_ms: u64, left: Goal, last: bool) -> io::Result<Culled> {
        let culled = self.objects.while_idle(name, || {
            let place = Place::new(&name.0, &name.1);
            let Some(row) = self.index.get(name) else { return Ok(Culled::default()) };
            if row.pinned || row.used_ms != used_ms || self.is_held(&place) {
                return Ok(Culled::default());
            }
            point(Site::CachefilesCulling);
            let worth_keeping = row.stored > left.bytes.saturating_add(PUNCH_BYTES_MIN);
            if last && left.files == 0 && worth_keeping {
                let freed = self.punch_end(name, &place, left.bytes)?;
                if freed > 0 {
                    trace_cull(&place, freed, "end");
                    return Ok(Culled { bytes: freed, ..Culled::default() });
                }
            }
            self.drop_object(name, &place, "culled")
                .inspect(|culled| trace_cull(&place, culled.bytes, "whole"))
        });
        culled.unwrap_or(Ok(Culled::default()))
    }

    /// Removes an idle object, its row and its charge. Nothing is synced: should a power loss bring the files
    /// back, they are what they were.
    pub fn drop_object(&self, name: &Name, place: &Place, why: &'static str) -> io::Result<Culled> {
        let row = match self.index.get(name) {
            Some(row) => Some(row),
            None => self.look_at(place, false)?.inspect(|row| self.ledger.found(row.charge())),
        };
        self.index.break_seal()?;
        let mut files = u64::from(self.storage.unlink(&place.data)?);
        point(Site::CachefilesBuried);
        files += u64::from(self.storage.unlink(&place.map)?);
        self.index.remove(name);
        let Row { stored, .. } = row.unwrap_or_default();
        self.ledger.settle(row.map_or(0, |row| row.charge()), 0);
        tracing::trace!(volume = %place.volume, cookie = %place.cookie, why, "cachefiles_unlink");
        Ok(Culled { objects: u64::from(files > 0), files, bytes: stored })
    }

    /// Punches about `bytes` out of the end of an idle object, unless anybody has its file open. Returns what that freed.
    fn punch_end(&self, name: &Name, place: &Place, bytes: u64) -> io::Result<u64> {
        let Some(idle) = self.open_idle(place)? else { return Ok(0) };
        let Some(start) = idle.start_of_last(bytes.max(EXTRA_BYTES)) else { return Ok(0) };
        drop(idle);
        let before = self.index.get(name).map_or(0, |row| row.stored);
        match self.take_away(name, place, ObjectRange::at(start, u64::MAX), "no-space") {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => return Ok(0),
            done => done?,
        };
        Ok(before.saturating_sub(self.index.get(name).map_or(0, |row| row.stored)))
    }

    /// The least recently used objects behind that one.
    fn look_for_victims(&self, behind: Option<&Victim>) -> Victims {
        // The greatest is the one to give up for an older one.
        let mut oldest: BinaryHeap<Victim> = BinaryHeap::new();
        let mut more = false;
        self.index.visit(|name, row| {
            let found = (row.used_ms, name);
            if row.pinned || behind.is_some_and(|behind| found <= *behind) {
                return ControlFlow::Continue(());
            }
            if oldest.len() < VICTIMS_MAX {
                oldest.push(found);
            } else {
                more = true;
                if let Some(mut newest) = oldest.peek_mut().filter(|newest| **newest > found) {
                    *newest = found;
                }
            }
            ControlFlow::Continue(())
        });
        let queue = VecDeque::from(oldest.into_sorted_vec());
        let more = queue.back().filter(|_| more).cloned();
        Victims { queue, more }
    }

    /// A writer frees a little more than it needs, but no large part of a small quota.
    fn extra(&self) -> u64 {
        self.ledger.limits().quota.map_or(EXTRA_BYTES, |quota| EXTRA_BYTES.min(quota / 32))
    }

    /// Puts a greater reserve on the disk, before the sums may pass the one that is there.
    fn raise_reserve(&self, to: u64) -> io::Result<()> {
        let _one = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ledger.reserve() < to {
            self.put_reserve(to)?;
            self.ledger.set_reserve(to);
        }
        Ok(())
    }

    /// Puts a reserve on the disk that is no greater than it must be: all of it counts after the next unclean end.
    pub fn lower_reserve(&self) {
        let _one = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = self.ledger.lower_reserve() else { return };
        if let Err(error) = self.put_reserve(to) {
            tracing::warn!(%error, "the reserve stays greater than it must be");
        }
    }

    fn put_reserve(&self, bytes: u64) -> io::Result<()> {
        self.put(RESERVE, crate::bind::encode_reserve(bytes).as_bytes())
    }
}

fn trace_cull(place: &Place, len: u64, why: &'static str) {
    tracing::trace!(volume = %place.volume, cookie = %place.cookie, len, why, "cachefiles_cull");
}

#[cfg(test)]
mod tests;
