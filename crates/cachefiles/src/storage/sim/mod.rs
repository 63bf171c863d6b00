//! [`SimDisk`]: a disk that keeps what was synced apart from what was only written.
//!
//! What a process sees and what a power loss leaves are two things. A power loss keeps, of everything not
//! synced, any subset: pages of data, lengths, and changes of names, each by a coin that a seed decides. A
//! sync that fails reports it once; the pages it lost are clean afterwards, as Linux has it, and some read
//! as they were before. Inode numbers are used again as soon as they are free, as ext4 does.

mod names;
mod node;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use self::names::{Entry, Names};
use self::node::{Nodes, PAGE};
use super::{Access, Kind, Stat, Storage, StorageFile};
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

struct State {
    nodes: Nodes,
    names: Names,
    /// Changes so far.
    steps: u64,
    stop: Option<Stop>,
    stopped_in: Option<&'static str>,
    syncs_fail: bool,
    full: bool,
    dense: bool,
    after_sync: Option<Box<dyn FnOnce() + Send>>,
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
            syncs_fail: false,
            full: false,
            dense: false,
            after_sync: None,
            random: fastrand::Rng::with_seed(seed),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Number of changes made so far.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Ends the process (by a panic that carries [`Stopped`]) in a later change.
    pub fn stop_at(&self, stop: Option<Stop>) {
        self.lock().stop = stop;
    }

    /// The kind of change in which the process ended.
    pub fn stopped_in(&self) -> Option<&'static str> {
        self.lock().stopped_in
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

    /// Does something between the moment when the next sync has done its work and its return.
    pub fn after_next_sync(&self, work: impl FnOnce() + Send + 'static) {
        self.lock().after_sync = Some(Box::new(work));
    }

    /// Writes some unsynced pages back, as the kernel may at any time.
    pub fn write_back(&self) {
        let mut state = self.lock();
        let State { nodes, random, .. } = &mut *state;
        nodes.each(|node| node.sync_some(|| random.bool()));
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
            _ => apply(&mut state),
        }
    }

    fn handle(&self, state: &State, id: u64) -> Box<dyn StorageFile> {
        Box::new(SimFile { disk: self.clone(), token: state.nodes.token(id), id })
    }
}

impl State {
    fn file(&self, path: &str) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(id)) => Ok(id),
            Some(Entry::Dir) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn stat(&self, id: u64) -> Stat {
        let stat = self.nodes.node(id).stat();
        if self.dense { Stat { stored: stat.len, ..stat } } else { stat }
    }

    fn need_dir(&self, path: &str) -> io::Result<()> {
        let found = path.is_empty() || self.names.get(path) == Some(Entry::Dir);
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
            state.names.change(None, Some((path, Entry::Dir)));
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
        let state = self.lock();
        let id = state.file(path)?;
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
            let id = state.file(from)?;
            state.need_dir(folder_of(to))?;
            state.names.change(Some(from), Some((to, Entry::File(id))));
            Ok(())
        })
    }

    fn unlink(&self, path: &str) -> io::Result<bool> {
        if self.lock().names.get(path).is_none() {
            return Ok(false);
        }
        self.change("unlink", |state| {
            state.file(path)?;
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
        let state = self.lock();
        Ok(match state.names.get(path) {
            None => None,
            Some(Entry::Dir) => Some(Stat { kind: Kind::Dir, dev: 1, ino: 0, len: 0, stored: 0 }),
            Some(Entry::File(id)) => Some(state.stat(id)),
        })
    }
}

/// An open file of the simulated disk. The token is a real descriptor that stands for it.
struct SimFile {
    disk: SimDisk,
    token: Arc<OwnedFd>,
    id: u64,
}

impl SimFile {
    fn change<R>(
        &self,
        what: &'static str,
        apply: impl FnOnce(&mut State, u64) -> io::Result<R>,
    ) -> io::Result<R> {
        self.disk.change(what, |state| apply(state, self.id))
    }
}

impl StorageFile for SimFile {
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.disk.lock().nodes.node(self.id).read(buf, at))
    }

    fn pwrite(&self, data: &[u8], at: u64) -> io::Result<usize> {
        self.change("pwrite", |state, id| {
            // A disk that fills up takes the beginning.
            let len = if state.full && data.len() > PAGE { PAGE } else { data.len() };
            if len == data.len() {
                state.need_space()?;
            }
            state.nodes.node_mut(id).write(&data[..len], at);
            Ok(len)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change("set_len", |state, id| {
            state.nodes.node_mut(id).set_len(len);
            Ok(())
        })
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.change("fdatasync", |state, id| {
            let State { nodes, random, .. } = state;
            if state.syncs_fail {
                nodes.node_mut(id).lose_some(|| random.bool());
                return Err(Errno::IO.into());
            }
            nodes.node_mut(id).sync_some(|| true);
            Ok(())
        })?;
        let work = self.disk.lock().after_sync.take();
        work.into_iter().for_each(|work| work());
        Ok(())
    }

    fn fsync(&self) -> io::Result<()> {
        self.change("fsync", |state, id| {
            state.nodes.node_mut(id).sync_some(|| true);
            Ok(())
        })
    }

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        self.change("set_mode", |_state, _id| Ok(()))
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.lock().stat(self.id))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.token.as_fd()
    }
}
