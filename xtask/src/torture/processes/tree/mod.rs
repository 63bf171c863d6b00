//! A tree of a web server in this process, whose files are overwritten while they are read.
//!
//! Every byte is a function of file, version and offset, so that a piece tells which version it is of. What a reader may
//! get is bounded from both sides: nothing older than what the server had for certain when the file was opened, nothing
//! newer than what it may have had by then, and no two versions through one open.

mod plan;
mod reader;
mod version;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::thread::JoinHandle;
use std::time::Duration;

use larder_testkit::{Behaviour, OddServer};

use self::plan::Deed;
use super::super::desk::Desk;
use super::super::truth;

pub use plan::Server;
pub use reader::TreeReader;

/// Files of the tree.
pub const FILES: u64 = 8;

/// Objects of the cache for files that are open or were a moment ago: each in the newest version and in the last.
pub const OBJECTS: usize = 16;

/// Between two looks at how far the readers are.
const LOOK: Duration = Duration::from_millis(1);

/// Directories, which share the files.
const DIRECTORIES: u64 = 2;

/// The tree.
pub struct Tree {
    server: OddServer,
    files: Vec<Versions>,
}

/// The versions of a file, which begin with 1.
#[derive(Default)]
struct Versions {
    /// The newest that the server may have.
    begun: AtomicU64,
    /// The newest that it has for certain.
    done: AtomicU64,
}

impl Tree {
    /// Serves the first version of each file.
    pub fn serve() -> Arc<Self> {
        let files = (0..FILES).map(|_| Versions::default()).collect();
        let tree = Self { server: OddServer::start(), files };
        (0..FILES).for_each(|file| tree.overwrite(file));
        Arc::new(tree)
    }

    /// What is mounted.
    pub fn address(&self) -> String {
        self.server.url()
    }

    /// The server behaves so from now on, and does what it does wrong no more.
    pub fn behave(&self, behaviour: Behaviour) {
        self.server.behave(behaviour);
    }

    /// Does what a round has decided, beside whatever else happens; ends with the readers.
    pub fn play(self: &Arc<Self>, server: &Server, desk: &Arc<Desk>) -> JoinHandle<()> {
        let (tree, script, desk) = (Arc::clone(self), server.script.clone(), Arc::clone(desk));
        std::thread::spawn(move || {
            for (step, deed) in script {
                while desk.steps() < step && !desk.is_stopped() {
                    std::thread::sleep(LOOK);
                }
                if desk.is_stopped() {
                    return;
                }
                match &deed {
                    Deed::Overwrite(file) => tree.overwrite(*file),
                    Deed::Misbehave(requests, behaviour) => tree.server.behave_next(*requests, *behaviour),
                }
                desk.tally().did(deed.name());
            }
        })
    }

    /// Puts the next version of a file in place of the last. One thread does that.
    fn overwrite(&self, file: u64) {
        let versions = self.versions(file);
        let version = versions.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let mut bytes = vec![0; usize::try_from(size(file, version)).unwrap_or(0)];
        truth::fill(number(file, version), 0, &mut bytes);
        self.server.put(&path(file), bytes);
        versions.done.store(version, Ordering::SeqCst);
    }

    /// The newest version that the server has for certain.
    fn oldest(&self, file: u64) -> u64 {
        self.versions(file).done.load(Ordering::SeqCst)
    }

    /// The newest version that the server may have.
    fn newest(&self, file: u64) -> u64 {
        self.versions(file).begun.load(Ordering::SeqCst)
    }

    fn versions(&self, file: u64) -> &Versions {
        &self.files[usize::try_from(file % FILES).unwrap_or(0)]
    }
}

fn directory(number: u64) -> String {
    format!("dir-{number}")
}

fn path(file: u64) -> String {
    format!("{}/{}", directory(file % DIRECTORIES), name(file))
}

fn name(file: u64) -> String {
    format!("file-{file}")
}

/// The size of a version in bytes: some are read in several windows and downloads, and every fourth version has
/// another one, so that most are told apart by what the server says of them only.
fn size(file: u64, version: u64) -> u64 {
    let least = [24_000_011, 70_001, 900_003, 5_003][usize::try_from(file % 4).unwrap_or(0)];
    least + file + version / 4 % 3 * 1013
}

/// The number under which the truth knows a version: even, so that no word is like the one before.
fn number(file: u64, version: u64) -> u64 {
    ((version << 16) | (file << 1)) + (1 << 62)
}
