//! An open file of the simulated disk.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::node::PAGE;
use super::{SimDisk, State};
use crate::storage::{AttrName, Stat, StorageFile};

/// A handle. The token is a real descriptor that stands for it.
pub(super) struct SimFile {
    disk: SimDisk,
    token: Arc<OwnedFd>,
    id: u64,
}

impl SimFile {
    pub fn new(disk: SimDisk, token: Arc<OwnedFd>, id: u64) -> Self {
        Self { disk, token, id }
    }

    fn change<R>(
        &self,
        what: &'static str,
        apply: impl FnOnce(&mut State, u64) -> io::Result<R>,
    ) -> io::Result<R> {
        self.disk.change(what, |state| {
            state.nodes.change(self.id);
            apply(state, self.id)
        })
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
        self.disk.change("fdatasync", |state| {
            let id = self.id;
            let State { nodes, random, syncs_fail, .. } = state;
            if *syncs_fail {
                nodes.node_mut(id).lose_some(|| random.bool());
                return Err(Errno::IO.into());
            }
            nodes.node_mut(id).sync_some(|| true);
            Ok(())
        })
    }

    fn fsync(&self) -> io::Result<()> {
        self.disk.change("fsync", |state| {
            let id = self.id;
            let State { nodes, random, syncs_fail, .. } = state;
            if *syncs_fail {
                nodes.node_mut(id).lose_some(|| random.bool());
                return Err(Errno::IO.into());
            }
            nodes.node_mut(id).sync_some(|| true);
            nodes.node_mut(id).sync_attrs();
            Ok(())
        })
    }

    fn attr(&self, name: AttrName) -> io::Result<Option<Vec<u8>>> {
        Ok(self.disk.lock().nodes.node(self.id).attr(name))
    }

    fn set_attr(&self, name: AttrName, value: &[u8]) -> io::Result<()> {
        self.change("set_attr", |state, id| {
            state.nodes.node_mut(id).set_attr(name, value);
            Ok(())
        })
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.change("punch", |state, id| {
            state.nodes.node_mut(id).punch(at, len);
            Ok(())
        })
    }

    fn touch(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let now = state.steps;
        state.nodes.change(self.id);
        state.nodes.node_mut(self.id).touch(now);
        Ok(())
    }

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        self.change("set_mode", |_state, _id| Ok(()))
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut state = self.disk.lock();
        state.call()?;
        Ok(state.stat(self.id))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.token.as_fd()
    }
}
