//! [`Dying`]: a file system with one directory to mount on, which stops answering when it is told to.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use larder_mount::fuse::{
    Attributes, Data, Entry, FileSystem, ListAt, Listing, NodeId, Outcome, OwnMount, ReadAt, Size, Validity,
};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// It is mounted as long as this lives, and hangs as its server is told to.
pub struct Dying {
    dir: PathBuf,
    hangs: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
    _runtime: Runtime,
}

/// What the kernel is told, which it forgets at once.
struct Directory {
    hangs: watch::Receiver<bool>,
}

/// The name of the directory to mount on, and its node.
const NAME: &str = "mnt";
const NODE: NodeId = NodeId(2);

impl Dying {
    /// Mounts it on `dir`; `None` where FUSE cannot be mounted.
    pub fn new(dir: PathBuf) -> Option<Self> {
        let mount = OwnMount::new(&dir, "dying", "test", true).ok()?;
        let (hangs, told) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        let server = std::thread::spawn(move || {
            let directory: Arc<dyn FileSystem> = Arc::new(Directory { hangs: told });
            mount.serve(&directory, NonZero::<usize>::MIN, &handle).expect("a thread");
        });
        Some(Self { dir, hangs, server: Some(server), _runtime: runtime })
    }

    /// The directory to mount on.
    pub fn target(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// From now on it answers nothing, or everything again.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        self.hang(false);
        for path in [&*self.target(), Path::new(&self.dir)] {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Directory {
    fn answer<T: Send + 'static>(&self, answer: Result<T, i32>) -> Outcome<T> {
        if !*self.hangs.borrow() {
            return Outcome::Now(answer);
        }
        let mut hangs = self.hangs.clone();
        Outcome::later(async move {
            let _ = hangs.wait_for(|hangs| !hangs).await;
            answer
        })
    }

    fn attributes(node: NodeId) -> Attributes {
        Attributes { ino: node.0, mode: 0o040_755, nlink: 2, block_bytes: 4096, ..Attributes::default() }
    }
}

impl FileSystem for Directory {
    fn lookup(&self, parent: NodeId, name: &[u8]) -> Outcome<Entry> {
        let is_it = parent == NodeId::ROOT && name == NAME.as_bytes();
        let node = is_it.then(|| (NODE, Self::attributes(NODE)));
        self.answer(Ok(Entry { node, valid: Validity(Duration::ZERO) }))
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        self.answer(Ok((Self::attributes(node), Validity(Duration::ZERO))))
    }

    fn read(&self, _: ReadAt, _: &mut Vec<u8>) -> Outcome<Data> {
        self.answer(Err(libc::EISDIR))
    }

    fn readdir(&self, _: ListAt, listing: Listing) -> Outcome<Listing> {
        self.answer(Ok(listing))
    }

    fn statfs(&self) -> Size {
        Size::default()
    }
}
