//! [`BlobFiles`]: blobs as the files of one flat directory, read-only, each of its final length.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use larder_fscache::ObjectRange;
use larder_ondemand::{Cause, Engine};

use super::shown::{Found, Shown, ShownAs};
use crate::content::Content;
use crate::fuse::{
    Attributes, Data, Entry, Errno, FileSystem, ListAt, Listing, NodeId, Outcome, ReadAt, Size, Validity,
};
use crate::mounts::{Answers, Mounts};

/// What the kernel is told of a file's owner: root may read it.
const FILE_MODE: u32 = libc::S_IFREG | 0o400;
const ROOT_MODE: u32 = libc::S_IFDIR | 0o500;
const PAGE: u32 = 4096;
/// For what may be there in a moment.
const AT_ONCE: Validity = Validity(Duration::ZERO);

/// The file system of all blobs. Nothing in it is open or closed, and nothing is remembered for the kernel, so that a
/// next worker understands every question.
pub(super) struct BlobFiles {
    shared: Arc<Shared>,
}

struct Shared {
    mounts: Mounts<Shown>,
    engine: Arc<Engine>,
    /// Questions that wait for bytes.
    waiting: AtomicUsize,
    given_up: AtomicBool,
}

impl Answers for BlobFiles {
    type Names = Shown;

    fn mounts(&self) -> &Mounts<Shown> {
        &self.shared.mounts
    }

    fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }
}

impl BlobFiles {
    pub(super) fn new(shown: Shown, engine: Arc<Engine>) -> Self {
        let (waiting, given_up) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { mounts: Mounts::new(shown), engine, waiting, given_up }) }
    }

    pub(super) fn shown(&self) -> &Shown {
        self.shared.mounts.names()
    }

    /// Says whether every reader gets an error from now on.
    pub(super) fn set_given_up(&self, given_up: bool) {
        self.shared.given_up.store(given_up, Ordering::Release);
    }

    /// Answers with what is known of `node`, as soon as that is certain.
    fn about<T: 'static>(
        &self,
        node: NodeId,
        answer: impl FnOnce(Option<(ShownAs, Content)>) -> Result<T, Errno> + Send + 'static,
    ) -> Outcome<T> {
        match self.shown().find(node) {
            Found::Known(shown, content) => Outcome::Now(answer(Some((shown, content)))),
            Found::Unknown => Outcome::Now(answer(None)),
            Found::NotYet => {
                let shared = Arc::clone(&self.shared);
                Outcome::later(async move { answer(shared.mounts.names().wait_for(node).await) })
            }
        }
    }
}

impl FileSystem for BlobFiles {
    fn lookup(&self, _: NodeId, name: &[u8]) -> Outcome<Entry> {
        let nothing = Entry { node: None, valid: AT_ONCE };
        let Some(wanted) = ShownAs::parse(name) else { return Outcome::Now(Ok(nothing)) };
        self.about(wanted.node, move |found| match found {
            Some((shown, content)) if shown == wanted => Ok(Entry {
                node: Some((shown.node, attributes(shown.node, &content))),
                valid: Validity::FOREVER,
            }),
            _ => Ok(nothing),
        })
    }

    fn generation(&self, node: NodeId) -> u64 {
        match self.shown().find(node) {
            Found::Known(shown, _) => shown.generation.into(),
            Found::NotYet | Found::Unknown => 0,
        }
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        if node == NodeId::ROOT {
            let root = Attributes {
                ino: node.0,
                mode: ROOT_MODE,
                nlink: 2,
                block_bytes: PAGE,
                ..Attributes::default()
            };
            return Outcome::Now(Ok((root, Validity::FOREVER)));
        }
        self.about(node, move |found| {
            let (_, content) = found.ok_or(libc::ESTALE)?;
            Ok((attributes(node, &content), Validity::FOREVER))
        })
    }

    /// Reads what is here at once; a hole goes to the runtime, so that the loop never waits for a network.
    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        if self.shared.given_up.load(Ordering::Acquire) {
            return Outcome::error(libc::EIO);
        }
        let content = match self.shown().find(at.node) {
            Found::Known(_, content) => content,
            Found::NotYet => return self.read_when_known(at),
            Found::Unknown => {
                tracing::error!(node = at.node.0, "a question for a blob that no mount knows");
                return Outcome::error(libc::EIO);
            }
        };
        buf.resize(len_within(&content, at), 0);
        match content.read_present(at.offset, buf) {
            Ok(true) => {
                self.shared.touch(&content, at);
                Outcome::Now(Ok(Data::InBuffer))
            }
            Ok(false) => {
                let shared = Arc::clone(&self.shared);
                Outcome::later(async move { shared.bring(content, at).await })
            }
            Err(error) => Outcome::error(unreadable(at, &error)),
        }
    }

    fn readdir(&self, _: ListAt, listing: Listing) -> Outcome<Listing> {
        Outcome::Now(Ok(listing))
    }

    fn statfs(&self) -> Size {
        Size { block_bytes: PAGE, ..Size::default() }
    }
}

impl BlobFiles {
    fn read_when_known(&self, at: ReadAt) -> Outcome<Data> {
        let shared = Arc::clone(&self.shared);
        Outcome::later(async move {
            let Some((_, content)) = shared.mounts.names().wait_for(at.node).await else {
                tracing::error!(node = at.node.0, "a question for a blob that no mount knows");
                return Err(libc::EIO);
            };
            shared.bring(content, at).await
        })
    }
}

impl Shared {
    /// Brings what is missing and reads. The decision is taken again after the fill: a second miss is an error.
    async fn bring(self: Arc<Self>, content: Content, at: ReadAt) -> Result<Data, Errno> {
        let _waits = Waits::new(&self);
        let filled = match &content {
            Content::Blob(blob) => {
                self.engine.fill(blob, range(&content, at), Cause::Demand { pid: Some(at.pid) }).await
            }
            Content::File(..) => Ok(()),
        };
        // Off the runtime: what was brought long ago may have to come from the disk.
        let read = tokio::task::spawn_blocking(move || {
            let mut buf = vec![0; len_within(&content, at)];
            content.read_present(at.offset, &mut buf).map(|is_here| is_here.then_some(buf))
        });
        match read.await {
            Ok(Ok(Some(bytes))) => Ok(Data::Pieces(vec![Bytes::from(bytes)])),
            Ok(Ok(None)) => {
                let error = filled.as_ref().err().map(|error| error.chain());
                tracing::warn!(node = at.node.0, at.offset, at.len, error, "not brought");
                Err(filled.err().map_or(libc::EIO, |error| error.errno()))
            }
            Ok(Err(error)) => Err(unreadable(at, &error)),
            Err(_) => Err(libc::EIO),
        }
    }

    /// Present bytes were read: readahead goes on.
    fn touch(&self, content: &Content, at: ReadAt) {
        if let Content::Blob(blob) = content {
            self.engine.touch(blob, range(content, at));
        }
    }
}

/// Counts a question for as long as it waits.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&shared.waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn attributes(node: NodeId, content: &Content) -> Attributes {
    Attributes {
        ino: node.0,
        size: content.size(),
        mode: FILE_MODE,
        nlink: 1,
        block_bytes: PAGE,
        ..Attributes::default()
    }
}

/// How much of the question lies before the end.
fn len_within(content: &Content, at: ReadAt) -> usize {
    usize::try_from(range(content, at).len()).unwrap_or(0).min(at.len)
}

fn range(content: &Content, at: ReadAt) -> ObjectRange {
    let len = u64::try_from(at.len).unwrap_or(u64::MAX);
    ObjectRange::at(at.offset, len).clamp_to(content.size())
}

fn unreadable(at: ReadAt, error: &io::Error) -> Errno {
    tracing::warn!(node = at.node.0, at.offset, at.len, %error, "cannot be read");
    libc::EIO
}
