//! [`SimDisk`]: a disk that keeps what was synced apart from what was only written.
//!
//! What a process sees and what a power loss leaves are two things. A power loss keeps, of everything not
//! synced, any subset: pages of data, lengths, attributes, and changes of names, each by a coin that a seed
//! decides. A sync that fails reports it once; the pages it lost are clean afterwards, as Linux has it, and some read
//! as they were before. Inode numbers are used again as soon as they are free, as ext4 does.

mod file;
mod names;
mod node;

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::file::SimFile;
use self::names::{Entry, Names, attr_path};
use self::node::{Nodes, tick};
use super::{Access, AttrName, FileHandle, Kind, Space, Stat, Storage, StorageFile};
use crate::layout::folder_of;

/// The disk, shared by everybody who has it open.
#[derive(Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// Where a run ends: in the change with this number, before or after it took effect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub step: u64,
    pub applied: bool,
}

/// What a panic carries that stands for the end of the process.
pub(crate) struct Stopped;

/// Something that a test does in the middle of a change.
type Work = Box<dyn FnOnce() + Send>;

struct State {
    nodes: Nodes,
    names: Names,
    /// Changes so far.
    steps: u64,
    stop: Option<Stop>,
    stopped_in: Option<&'static str>,
    /// Changes and questions so far.
    calls: u64,
    /// Files that were opened by their handles so far.
    by_handle: u64,
    failing: Range<u64>,
    syncs_fail: bool,
    full: bool,
    dense: bool,
    after: Vec<(&'static str, Work)>,
    random: fastrand::Rng,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self::of(Nodes::default(), Names::default(), seed)
    }

    fn of(nodes: Nodes, names: Names, seed: u64) -> Self {
        let state = State {
            nodes,
            names,
            steps: 0,
            stop: None,
            stopped_in: None,
            calls: 0,
            by_handle: 0,
            failing: 0..0,
            syncs_fail: false,
            full: false,
            dense: false,
            after: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Number of changes made so far.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Number of changes and questions made so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Number of files that were opened by their handles so far.
    pub fn opened_by_handle(&self) -> u64 {
        self.lock().by_handle
    }

    /// The inode number of the descriptor that stands for the file of this name. No call that could fail.
    pub fn id_of(&self, path: &str) -> Option<u64> {
        self.lock().file(path).ok()
    }

    /// Ends the process (by a panic that carries [`Stopped`]) in a later change.
    pub fn stop_at(&self, stop: Option<Stop>) {
        self.lock().stop = stop;
    }

    /// The kind of change in which the process ended.
    pub fn stopped_in(&self) -> Option<&'static str> {
        self.lock().stopped_in
    }

    /// Makes so many calls fail, once so many more have been made. What fails changes nothing.
    pub fn fail_calls(&self, after: u64, count: u64) {
        let mut state = self.lock();
        let first = state.calls + after;
        state.failing = first..first + count;
    }

    /// Makes syncs of data fail, or succeed again.
    pub fn fail_syncs(&self, fail: bool) {
        self.lock().syncs_fail = fail;
    }

    /// Takes all space away, or gives it back.
    pub fn fill_up(&self, full: bool) {
        self.lock().full = full;
    }

    /// Makes holes take space, as on file systems without sparse files.
    pub fn without_holes(&self, dense: bool) {
        self.lock().dense = dense;
    }

    /// Bytes that all files below a folder take. No call that could fail.
    pub fn stored_below(&self, dir: &str) -> u64 {
        let state = self.lock();
        state.names.files_below(dir).map(|id| state.stat(id).stored).sum()
    }

    /// Does something between the moment when the next change of a kind is made, and its return.
    pub fn after_next(&self, what: &'static str, work: impl FnOnce() + Send + 'static) {
        self.lock().after.push((what, Box::new(work)));
    }

    /// Writes some unsynced pages back, as the kernel may at any time.
    pub fn write_back(&self) {
        let mut state = self.lock();
        let State { nodes, random, .. } = &mut *state;
        nodes.each(|node| node.sync_some(|| random.bool()));
    }

    /// Makes everything durable.
    pub fn sync(&self) {
        let mut state = self.lock();
        state.nodes.each(|node| {
            node.sync_some(|| true);
            node.sync_attrs();
        });
        state.names.sync_all();
    }

    /// What is left after the power failed: the synced state, and any subset of the rest.
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let state = self.lock();
        let mut random = fastrand::Rng::with_seed(seed);
        let names = state.names.after_power_loss(|| random.bool());
        let nodes = state.nodes.after_power_loss(&names, || random.bool());
        Self::of(nodes, names, seed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one change, the only place where a run can end.
    fn change<R>(
        &self,
        what: &'static str,
        apply: impl FnOnce(&mut State) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut state = self.lock();
        let step = state.steps;
        state.steps += 1;
        match state.stop {
            Some(stop) if stop.step == step => {
                if stop.applied {
                    let _ = apply(&mut state);
                }
                state.stopped_in = Some(what);
                drop(state);
                resume_unwind(Box::new(Stopped))
            }
            _ => {}
        }
        let result = state.call().and_then(|()| apply(&mut state));
        let waiting = state.after.iter().position(|(kind, _)| *kind == what);
        let work = waiting.map(|index| state.after.remove(index).1);
        drop(state);
        work.into_iter().for_each(|work| work());
        result
    }

    fn handle(&self, state: &State, id: u64) -> Box<dyn StorageFile> {
        Box::new(SimFile::new(self.clone(), state.nodes.token(id), id))
    }
}

impl State {
    /// One more call, which may be one of those that fail.
    fn call(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if self.failing.contains(&number) { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(id)) => Ok(id),
            Some(Entry::Dir(_)) => Err(Errno::ISDIR.into()),
            Some(Entry::Attr(_)) => Err(Errno::INVAL.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn stat(&self, id: u64) -> Stat {
        let stat = Stat { has_one_name: self.names.has_name(id), ..self.nodes.node(id).stat() };
        if self.dense { Stat { stored: stat.len, ..stat } } else { stat }
    }

    fn need_dir(&self, path: &str) -> io::Result<()> {
        let found = path.is_empty() || matches!(self.names.get(path), Some(Entry::Dir(_)));
        if found { Ok(()) } else { Err(Errno::NOENT.into()) }
    }

    fn need_space(&self) -> io::Result<()> {
        if self.full { Err(Errno::NOSPC.into()) } else { Ok(()) }
    }
}

impl Storage for SimDisk {
    fn mkdir(&self, path: &str) -> io::Result<bool> {
        if self.lock().names.get(path).is_some() {
            return Ok(false);
        }
        self.change("mkdir", |state| {
            state.need_dir(folder_of(path))?;
            state.need_space()?;
            state.names.change(None, Some((path, Entry::Dir(tick()))));
            Ok(true)
        })
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StorageFile>> {
        self.change("create", |state| {
            state.need_dir(folder_of(path))?;
            state.need_space()?;
            if state.names.get(path).is_some() {
                return Err(Errno::EXIST.into());
            }
            let id = state.nodes.create(&state.names);
            state.names.change(None, Some((path, Entry::File(id))));
            Ok(self.handle(state, id))
        })
    }

    fn open(&self, path: &str, _access: Access) -> io::Result<Box<dyn StorageFile>> {
        let mut state = self.lock();
        state.call()?;
        let id = state.file(path)?;
        Ok(self.handle(&state, id))
    }

    fn handle_at(&self, path: &str) -> io::Result<Option<FileHandle>> {
        let mut state = self.lock();
        state.call()?;
        let numbers = match state.names.get(path) {
            Some(Entry::Dir(number)) => [0, number],
            Some(Entry::File(id)) => [state.nodes.node(id).ino(), id],
            Some(Entry::Attr(_)) | None => return Ok(None),
        };
        Ok(FileHandle::new(1, numbers.map(u64::to_le_bytes).as_flattened()))
    }

    fn open_by_handle(&self, handle: &FileHandle, _access: Access) -> io::Result<Box<dyn StorageFile>> {
        let mut state = self.lock();
        state.call()?;
        let (numbers, _) = handle.bytes().as_chunks();
        let [ino, id] = (*numbers.first_chunk().ok_or(Errno::STALE)?).map(u64::from_le_bytes);
        let id = state.nodes.of_handle(&state.names, ino, id).ok_or(Errno::STALE)?;
        state.by_handle += 1;
        Ok(self.handle(&state, id))
    }

    fn adopt(&self, fd: OwnedFd) -> io::Result<Box<dyn StorageFile>> {
        let id = rustix::fs::fstat(&fd)?.st_ino;
        let state = self.lock();
        if state.nodes.get(id).is_none() {
            return Err(Errno::STALE.into());
        }
        Ok(self.handle(&state, id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("rename", |state| {
            state.need_dir(folder_of(to))?;
            let entry = state.names.get(from).ok_or(Errno::NOENT)?;
            if matches!(entry, Entry::Dir(_)) && state.names.get(to).is_some() {
                return Err(Errno::EXIST.into());
            }
            for path in [from, to] {
                if let Ok(id) = state.file(path) {
                    state.nodes.change(id);
                }
            }
            state.names.change(Some(from), Some((to, entry)));
            Ok(())
        })
    }

    fn rmdir(&self, path: &str) -> io::Result<bool> {
        if self.lock().names.get(path).is_none() {
            return Ok(false);
        }
        self.change("rmdir", |state| {
            if !state.names.list(path).is_empty() {
                return Err(Errno::NOTEMPTY.into());
            }
            state.names.change(Some(path), None);
            Ok(true)
        })
    }

    fn dir_attr(&self, path: &str, name: AttrName) -> io::Result<Option<Vec<u8>>> {
        Ok(match self.lock().names.get(&attr_path(path, name)) {
            Some(Entry::Attr(value)) => Some(value.to_vec()),
            _ => None,
        })
    }

    fn set_dir_attr(&self, path: &str, name: AttrName, value: &[u8]) -> io::Result<()> {
        self.change("set_dir_attr", |state| {
            state.need_dir(path)?;
            state.names.change(None, Some((&attr_path(path, name), Entry::Attr(value.into()))));
            Ok(())
        })
    }

    fn enable_verity(&self, _fd: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(false)
    }

    /// No mount is ever made of a file here.
    fn is_open_elsewhere(&self, _fd: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn statfs(&self) -> io::Result<Space> {
        Ok(Space { bytes: 1 << 40, bytes_free: 1 << 39, files: 1 << 20, files_free: 1 << 19 })
    }

    fn unlink(&self, path: &str) -> io::Result<bool> {
        if self.lock().names.get(path).is_none() {
            return Ok(false);
        }
        self.change("unlink", |state| {
            let id = state.file(path)?;
            state.nodes.change(id);
            state.names.change(Some(path), None);
            Ok(true)
        })
    }

    fn fsync_dir(&self, path: &str) -> io::Result<()> {
        self.change("fsync_dir", |state| {
            state.need_dir(path)?;
            state.names.sync(path);
            Ok(())
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.lock().names.list(path))
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        let mut state = self.lock();
        state.call()?;
        Ok(match state.names.get(path) {
            None => None,
            Some(Entry::Attr(_)) => None,
            Some(Entry::Dir(_)) => Some(Stat {
                kind: Kind::Dir,
                dev: 1,
                ino: 0,
                has_one_name: false,
                len: 0,
                stored: 0,
                used_ms: 0,
                changed_ns: 0,
            }),
            Some(Entry::File(id)) => Some(state.stat(id)),
        })
    }
}
