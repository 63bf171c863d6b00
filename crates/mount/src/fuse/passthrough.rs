//! [`Passthrough`]: which files of an image the kernel reads from the cache itself, without asking.
//!
//! The kernel does so when OPEN is answered with the number of a local file that was registered with the connection (Linux
//! 6.9). It knows no offset: the local file has to be the whole file. And all who have a node open at one time must have it
//! open in the same way, with the same number. So the way is part of the node id: [`PassNode`] carries the number, and every
//! worker answers every OPEN of it alike, without knowing what is open, or what the worker before it has registered. What was
//! registered stays so until the connection ends, so that a number never stands for two files.
//!
//! A name keeps its node for as long as the kernel remembers the node. Were it to lead to another one in the meantime, the kernel would
//! take away what is mounted there, and an overlayfs above would give errors (ESTALE) for good. Whether a node is
//! remembered is asked of the kernel itself, which is the only one that knows it whatever has died. When a file has become
//! complete, the kernel is asked to forget the plain node unless it is in use (Linux 6.18; earlier ones forget it when they are
//! short of memory); the next look-up gives the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use larder_erofs::{DeviceId, Nid};
use larder_imagefs::Compared;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use super::file_system::{BackingId, Kernel, NodeId};

/// Marks a node that is passed through. Ids of other nodes have this bit never: nids have 59 bits, and one more for the
/// metabox.
const PASSES: u64 = 1 << 62;
/// Where the number of the local file stands; below it is the nid.
const BACKING_SHIFT: u32 = 32;
/// Numbers that fit; the kernel gives them out from 1 on.
const BACKING_MAX: u32 = (1 << 30) - 1;
/// How many numbers of earlier workers are tried for a node, the newest first.
const INHERITED_MAX: u32 = 4096;
/// How many files are remembered that are plain nodes and may become complete. Of more, the kernel forgets the plain node after
/// it was closed.
const WAITING_MAX: usize = 4096;

/// A node that the kernel reads from a local file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PassNode {
    /// The kernel's number of the local file.
    pub backing: BackingId,
    /// The inode.
    pub nid: Nid,
}

impl PassNode {
    /// `None` when the numbers are too large for a node id.
    fn new(BackingId(backing): BackingId, nid: Nid) -> Option<Self> {
        let fits = (1..=BACKING_MAX).contains(&backing) && nid.get() >> BACKING_SHIFT == 0;
        fits.then_some(Self { backing: BackingId(backing), nid })
    }

    /// Reads a node id; `None` for a plain one.
    pub(super) fn of(NodeId(id): NodeId) -> Option<Self> {
        if id >> 62 != 1 {
            return None;
        }
        let backing = u32::try_from((id & !PASSES) >> BACKING_SHIFT).ok()?;
        Self::new(BackingId(backing), Nid::new(id & u64::from(u32::MAX)))
    }

    /// Its node id.
    pub(super) fn id(self) -> NodeId {
        let BackingId(backing) = self.backing;
        NodeId(PASSES | u64::from(backing) << BACKING_SHIFT | self.nid.get())
    }
}

/// A file whose contents may be all that a device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeFile {
    /// Its node unless it is passed through.
    pub plain: NodeId,
    pub nid: Nid,
    pub device: DeviceId,
}

/// Decides about nodes of one connection.
#[derive(Default)]
pub(super) struct Passthrough {
    kernel: OnceLock<Arc<dyn Kernel>>,
    agreed: OnceLock<Agreed>,
    /// What this worker has registered.
    registered: Mutex<BTreeMap<DeviceId, BackingId>>,
    /// Inodes whose bytes were found to be those of their devices, which are registered; no earlier worker's number was a node
    /// of theirs then.
    checked: Mutex<BTreeSet<Nid>>,
    /// Inodes that have other bytes than their devices.
    refused: Mutex<BTreeSet<Nid>>,
    /// Set once registering has failed in a way that it always will.
    never: AtomicBool,
    /// The file that is being compared.
    comparing: Mutex<Option<Comparing>>,
    /// Files whose plain nodes were told to the kernel, to be forgotten once they are complete.
    waiting: Mutex<BTreeMap<NodeId, WholeFile>>,
}

/// A file that a thread compares with its device.
#[derive(Clone, Copy, Debug)]
struct Comparing {
    nid: Nid,
    /// Whether another name of it was answered with the plain node meanwhile.
    is_told: bool,
}

/// What was agreed upon with the kernel when the connection began.
#[derive(Clone, Copy, Debug)]
enum Agreed {
    Nothing,
    /// Local files may be registered; earlier workers have numbers below this one.
    Passthrough {
        inherited_end: u32,
    },
}

impl Passthrough {
    /// Says whom to ask. The first one counts.
    pub(super) fn connected(&self, kernel: Arc<dyn Kernel>) {
        let _ = self.kernel.set(kernel);
    }

    /// Says what was agreed upon, by whoever has just done so: there were no earlier workers.
    pub(super) fn initialised(&self, is_agreed: bool) {
        let agreed = if is_agreed { Agreed::Passthrough { inherited_end: 1 } } else { Agreed::Nothing };
        let _ = self.agreed.set(agreed);
    }

    /// Whether it is certain that no file of this connection is ever passed through: opening a file means nothing then.
    pub(super) fn is_refused(&self) -> bool {
        self.agreed().is_none() && matches!(self.agreed.get(), Some(Agreed::Nothing))
    }

    /// The kernel, and where the numbers of earlier workers end, if files may be passed through.
    fn agreed(&self) -> Option<(&dyn Kernel, u32)> {
        let kernel = &**self.kernel.get()?;
        let agreed = match self.agreed.get() {
            Some(agreed) => *agreed,
            None => {
                let found = ask(kernel)?;
                *self.agreed.get_or_init(|| found)
            }
        };
        match agreed {
            Agreed::Nothing => None,
            Agreed::Passthrough { inherited_end } => Some((kernel, inherited_end)),
        }
    }

    /// Whether files may be passed through.
    pub(super) fn is_agreed(&self) -> bool {
        self.agreed().is_some()
    }

    /// Whether a file may get a new node that is passed through, as far as is known: plain nodes of others had better stay.
    fn may_pass(&self, nid: Nid) -> bool {
        let fits = PassNode::new(BackingId(1), nid).is_some();
        fits && !self.never.load(Ordering::Relaxed) && !lock(&self.refused).contains(&nid)
    }

    /// The node that a name of `file` leads to. `compare` gives the local file with all its bytes, once they are there for good.
    pub(super) fn node(&self, file: WholeFile, compare: impl FnOnce() -> Compared) -> NodeId {
        let Some((kernel, inherited_end)) = self.agreed() else { return file.plain };
        // In doubt it is known.
        if kernel.knows(file.plain).unwrap_or(true) {
            return self.wait_for(file);
        }
        // What was not a node when its bytes were compared does not become one: no earlier worker answers any more.
        let inherited_end = if lock(&self.checked).contains(&file.nid) { 1 } else { inherited_end };
        let inherited = (1..inherited_end).rev().take(usize::try_from(INHERITED_MAX).unwrap_or(usize::MAX));
        let told = self.registered(file.device).into_iter().chain(inherited.map(BackingId));
        let mut told = told.filter_map(|backing| PassNode::new(backing, file.nid));
        if let Some(known) = told.find(|node| kernel.knows(node.id()).unwrap_or(false)) {
            return known.id();
        }
        let backing = self.register(kernel, file, compare);
        match backing.and_then(|backing| PassNode::new(backing, file.nid)) {
            Some(node) => node.id(),
            None => self.wait_for(file),
        }
    }

    /// A plain node was closed. If its device is complete by now (`is_sealed`), the kernel is to forget it unless it is in use.
    pub(super) fn closed(&self, file: WholeFile, is_sealed: bool) {
        if is_sealed
            && self.may_pass(file.nid)
            && let Some((kernel, _)) = self.agreed()
        {
            forget(kernel, file.plain);
        }
    }

    /// Has the kernel forget what has become complete, unless it is in use.
    pub(super) fn refresh(&self, is_sealed: impl Fn(DeviceId) -> bool) {
        let Some((kernel, _)) = self.agreed() else { return };
        let mut complete = Vec::new();
        lock(&self.waiting).retain(|_, file| {
            let is_complete = is_sealed(file.device);
            complete.extend(is_complete.then_some(*file));
            !is_complete
        });
        for file in complete {
            if self.may_pass(file.nid) {
                forget(kernel, file.plain);
            }
        }
    }

    fn wait_for(&self, file: WholeFile) -> NodeId {
        if self.may_pass(file.nid) {
            let mut waiting = lock(&self.waiting);
            if waiting.len() < WAITING_MAX {
                waiting.insert(file.plain, file);
            }
        }
        file.plain
    }

    fn registered(&self, device: DeviceId) -> Option<BackingId> {
        lock(&self.registered).get(&device).copied()
    }

    /// Registers the file's device, once, after its bytes were compared. That may take a while: one thread does it at a time, and others
    /// answer with plain nodes meanwhile.
    fn register(
        &self,
        kernel: &dyn Kernel,
        file: WholeFile,
        compare: impl FnOnce() -> Compared,
    ) -> Option<BackingId> {
        if !self.may_pass(file.nid) {
            return None;
        }
        {
            let mut comparing = lock(&self.comparing);
            if lock(&self.checked).contains(&file.nid) {
                return self.registered(file.device);
            }
            if let Some(other) = &mut *comparing {
                other.is_told |= other.nid == file.nid;
                return None;
            }
            *comparing = Some(Comparing { nid: file.nid, is_told: false });
        }
        let compared = compare();
        // Held to the end: from here on all names get the same answer.
        let mut comparing = lock(&self.comparing);
        let is_told = comparing.take().is_some_and(|file| file.is_told);
        let local = match compared {
            Compared::Same(local) => local,
            Compared::Missing => return None,
            Compared::Different => {
                remember(&self.refused, file.nid);
                return None;
            }
        };
        if is_told {
            return None;
        }
        let mut registered = lock(&self.registered);
        let backing = match registered.get(&file.device) {
            Some(backing) => *backing,
            None => {
                let backing = kernel.register(local.as_fd());
                let backing = backing.inspect_err(|error| self.failed(file.device, error)).ok()?;
                registered.insert(file.device, backing);
                backing
            }
        };
        remember(&self.checked, file.nid);
        Some(backing)
    }

    fn failed(&self, device: DeviceId, error: &io::Error) {
        tracing::debug!(?device, %error, "backing file");
        // Without the privilege in the first user namespace, on a stacked file system, or by a kernel that cannot.
        if let Some(Errno::PERM | Errno::LOOP | Errno::OPNOTSUPP | Errno::NOTTY) = Errno::from_io_error(error)
        {
            self.never.store(true, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(nids: &Mutex<BTreeSet<Nid>>, nid: Nid) {
    let mut nids = lock(nids);
    if nids.len() < WAITING_MAX {
        nids.insert(nid);
    }
}

/// Finds out what an earlier worker has agreed upon: registering anything at all is refused unless passthrough was (`fc->passthrough`
/// in fs/fuse/backing.c, v6.18). The number tells where those of earlier workers end; it goes to nobody, and none is given out
/// twice before 2^31 were. `None` when that cannot be done just now.
fn ask(kernel: &dyn Kernel) -> Option<Agreed> {
    let registered = memfd_create("larder", MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .and_then(|file| kernel.register(file.as_fd()));
    match registered {
        Ok(backing) => {
            kernel.unregister(backing);
            Some(Agreed::Passthrough { inherited_end: backing.0 })
        }
        // EOPNOTSUPP and ENOTTY: a kernel that cannot, by its configuration or its age.
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => Some(Agreed::Nothing),
            _ => {
                tracing::debug!(%error, "whether files may be passed through");
                None
            }
        },
    }
}

fn forget(kernel: &dyn Kernel, node: NodeId) {
    if let Err(error) = kernel.forget_unused(node) {
        tracing::debug!(node = node.0, %error, "the kernel remembers this node until it is short of memory");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::BorrowedFd;

    use super::*;

    /// A kernel that remembers what it is told to.
    #[derive(Default)]
    struct Fake {
        known: Mutex<BTreeSet<NodeId>>,
        /// As one that agreed to nothing.
        refuses: bool,
        registered: Mutex<u32>,
        forgotten: Mutex<Vec<NodeId>>,
    }

    impl Fake {
        fn remembers(&self, node: NodeId) {
            self.known.lock().unwrap().insert(node);
        }
    }

    impl Kernel for Fake {
        fn register(&self, _: BorrowedFd<'_>) -> io::Result<BackingId> {
            if self.refuses {
                return Err(Errno::PERM.into());
            }
            let mut registered = self.registered.lock().unwrap();
            *registered += 1;
            Ok(BackingId(*registered))
        }

        fn unregister(&self, _: BackingId) {}

        fn knows(&self, node: NodeId) -> io::Result<bool> {
            Ok(self.known.lock().unwrap().contains(&node))
        }

        fn forget_unused(&self, node: NodeId) -> io::Result<()> {
            self.known.lock().unwrap().remove(&node);
            self.forgotten.lock().unwrap().push(node);
            Ok(())
        }
    }

    fn file(nid: u64, device: u16) -> WholeFile {
        WholeFile { plain: NodeId(nid + 2), nid: Nid::new(nid), device: DeviceId::new(device) }
    }

    fn sealed() -> Compared {
        Compared::Same(File::open("/dev/null").unwrap().into())
    }

    fn missing() -> Compared {
        Compared::Missing
    }

    fn worker(kernel: &Arc<Fake>) -> Passthrough {
        let worker = Passthrough::default();
        worker.connected(Arc::clone(kernel) as Arc<dyn Kernel>);
        worker
    }

    #[test]
    fn a_node_id_tells_the_number_and_the_nid_and_no_plain_id_does() {
        let largest = (1 << 32) - 1;
        for (backing, nid) in [(1, 0), (1, 36), (BACKING_MAX, largest)] {
            let node = PassNode::new(BackingId(backing), Nid::new(nid)).expect("fits");
            assert_eq!(PassNode::of(node.id()), Some(node));
        }
        for (backing, nid) in [(0, 1), (BACKING_MAX + 1, 1), (1, largest + 1)] {
            assert_eq!(PassNode::new(BackingId(backing), Nid::new(nid)), None);
        }
        for plain in [0, 1, 38, (1 << 59) + 1, 1 << 63, (1 << 63) + (1 << 59) + 1, u64::MAX, PASSES] {
            assert_eq!(PassNode::of(NodeId(plain)), None, "{plain:x}");
        }
    }

    #[test]
    fn a_file_is_passed_through_once_it_is_complete_and_its_blob_registered_once() {
        let kernel = Arc::new(Fake::default());
        let worker = worker(&kernel);
        worker.initialised(true);
        assert_eq!(worker.node(file(7, 1), missing), file(7, 1).plain);
        let node = worker.node(file(7, 1), sealed);
        assert_eq!(PassNode::of(node), PassNode::new(BackingId(1), Nid::new(7)));
        assert_eq!(worker.node(file(7, 1), missing), node, "what was registered stays so");
        assert_eq!(worker.node(file(9, 1), missing), file(9, 1).plain, "its bytes are compared before");
        assert_eq!(PassNode::of(worker.node(file(9, 1), sealed)), PassNode::new(BackingId(1), Nid::new(9)));
        assert_eq!(PassNode::of(worker.node(file(8, 2), sealed)), PassNode::new(BackingId(2), Nid::new(8)));
    }

    #[test]
    fn a_name_keeps_its_node_as_long_as_the_kernel_remembers_it() {
        let kernel = Arc::new(Fake::default());
        let first = worker(&kernel);
        first.initialised(true);
        let plain = first.node(file(7, 1), missing);
        kernel.remembers(plain);
        assert_eq!(
            first.node(file(7, 1), sealed),
            plain,
            "somebody may have it open, or mounted something there"
        );
        first.refresh(|_| false);
        assert_eq!(first.node(file(7, 1), sealed), plain, "nothing has become complete");
        first.refresh(|_| true);
        let passes = first.node(file(7, 1), sealed);
        assert!(PassNode::of(passes).is_some());
        kernel.remembers(passes);
        kernel.remembers(first.node(file(8, 2), sealed));

        let second = worker(&kernel);
        assert_eq!(second.node(file(7, 1), sealed), passes, "with the number of the worker before");
        assert_eq!(second.node(file(7, 1), missing), passes, "whatever has become of the blob");
        let new = PassNode::of(second.node(file(9, 1), sealed)).expect("it is complete");
        assert!(new.backing.0 > 2, "a number of its own: {new:?}");
    }

    #[test]
    fn what_was_closed_is_forgotten_once_it_could_be_passed_through() {
        let kernel = Arc::new(Fake::default());
        let worker = worker(&kernel);
        worker.initialised(true);
        worker.closed(file(7, 1), false);
        assert!(kernel.forgotten.lock().unwrap().is_empty());
        worker.closed(file(7, 1), true);
        assert_eq!(*kernel.forgotten.lock().unwrap(), [file(7, 1).plain]);
    }

    #[test]
    fn what_can_never_be_passed_through_is_not_forgotten() {
        let kernel = Arc::new(Fake::default());
        let worker = worker(&kernel);
        worker.initialised(true);
        let large = file(1 << 32, 1);
        assert_eq!(worker.node(large, || panic!("its number does not fit")), large.plain);
        assert_eq!(worker.node(file(7, 1), missing), file(7, 1).plain);
        assert_eq!(worker.node(file(7, 1), || Compared::Different), file(7, 1).plain);
        assert_eq!(worker.node(file(7, 1), || panic!("it was refused")), file(7, 1).plain);
        for file in [large, file(7, 1)] {
            worker.closed(file, true);
        }
        worker.refresh(|_| true);
        assert!(kernel.forgotten.lock().unwrap().is_empty());
        assert!(PassNode::of(worker.node(file(8, 1), sealed)).is_some(), "its bytes are those of the device");
    }

    #[test]
    fn where_nothing_can_be_registered_nothing_is_forgotten_and_told_nodes_are_found() {
        let kernel = Arc::new(Fake { refuses: true, ..Fake::default() });
        let worker = worker(&kernel);
        worker.agreed.set(Agreed::Passthrough { inherited_end: 3 }).expect("it is new");
        assert_eq!(worker.node(file(7, 1), sealed), file(7, 1).plain);
        worker.closed(file(7, 1), true);
        worker.closed(file(8, 2), true);
        worker.refresh(|_| true);
        assert!(kernel.forgotten.lock().unwrap().is_empty());
        assert_eq!(worker.node(file(8, 2), || panic!("it is for good")), file(8, 2).plain);
        let told = PassNode::new(BackingId(2), Nid::new(8)).expect("fits").id();
        kernel.remembers(told);
        assert_eq!(worker.node(file(8, 2), || panic!("it is known")), told);
    }

    #[test]
    fn while_a_file_is_compared_others_are_plain_and_its_own_names_agree() {
        let kernel = Arc::new(Fake::default());
        let worker = worker(&kernel);
        worker.initialised(true);
        let node = worker.node(file(7, 1), || {
            let other = worker.node(file(8, 2), || panic!("one at a time"));
            assert_eq!(other, file(8, 2).plain);
            sealed()
        });
        assert!(PassNode::of(node).is_some());
        assert!(PassNode::of(worker.node(file(8, 2), sealed)).is_some());
        let node = worker.node(file(9, 3), || {
            assert_eq!(worker.node(file(9, 3), sealed), file(9, 3).plain, "another name");
            sealed()
        });
        assert_eq!(node, file(9, 3).plain, "one of its names has been told so");
        assert!(PassNode::of(worker.node(file(9, 3), sealed)).is_some());
    }

    #[test]
    fn where_it_was_not_agreed_upon_every_node_is_plain() {
        let kernel = Arc::new(Fake { refuses: true, ..Fake::default() });
        let told = worker(&kernel);
        told.initialised(false);
        let successor = worker(&kernel);
        for worker in [told, successor] {
            assert_eq!(worker.node(file(7, 1), sealed), file(7, 1).plain);
            assert!(worker.is_refused());
        }
    }
}
