//! The loop: take a message, answer an OPEN, have a READ's bytes brought and copied, close what is closed.
//!
//! The kernel keeps the object table and the request table here, and sends again what was not answered; this side keeps
//! nothing that a successor would need. A READ is ended in one place, [`Reading`]'s drop, with its bytes written or not:
//! the kernel looks again, and a reader whose bytes are still missing gets EIO (the second miss).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_fscache::ObjectRange;
use larder_ondemand::{Blob, Cause, Engine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::command::Command;
use super::cull;
use super::device::Device;
use super::fill;
use super::message::{self, Body, MESSAGE_BYTES_MAX, Malformed, MessageId, Name, Open, OpeningId};
use super::names::Names;
use super::objects::{Objects, Opening};
use crate::content::{Content, first_hole};
use crate::erofs::Origin;
use crate::grace::Grace;
use crate::mounts::{Answers, Mounts};
use crate::sys::cachefiles::read_complete;
use crate::sys::process::inherit;

/// How often the loop looks after what is not a message.
const TICK: Duration = Duration::from_secs(1);

/// What the serving thread, the fills and the mounts share.
pub(super) struct Server {
    device: Device,
    engine: Arc<Engine>,
    objects: Objects,
    mounts: Mounts<Names>,
    /// OPENs of names that nobody has entered yet; `None` once every mount was taken up.
    parked: Mutex<Option<Vec<Parked>>>,
    /// How long they wait.
    grace: Grace,
    in_hand: AtomicUsize,
    given_up: AtomicBool,
    handing_over: AtomicBool,
}

/// An OPEN that waits for its mount.
struct Parked {
    id: MessageId,
    opening: OpeningId,
    name: Name,
    fd: OwnedFd,
}

impl Answers for Server {
    type Names = Names;

    fn mounts(&self) -> &Mounts<Names> {
        &self.mounts
    }

    fn waiting(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }
}

impl Server {
    pub(super) fn new(device: Device, origin: Origin, engine: Arc<Engine>) -> Self {
        Self {
            device,
            engine,
            objects: Objects::default(),
            mounts: Mounts::new(Names::default()),
            parked: Mutex::new((origin == Origin::Inherited).then(Vec::new)),
            grace: Grace::new(),
            in_hand: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
        }
    }

    /// Whether the kernel has nothing of ours.
    pub(super) fn is_idle(&self) -> bool {
        self.mounts.release_what_is_gone();
        self.mounts.is_empty() && self.objects.len() == 0
    }

    pub(super) fn grace(&self) -> &Grace {
        &self.grace
    }

    /// Every reader gets an error from now on, until [`Self::take_heart`].
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Ends [`Self::give_up`].
    pub(super) fn take_heart(&self) {
        self.given_up.store(false, Ordering::Release);
    }

    /// From now on no message is taken; what is in hand is left to the next worker.
    pub(super) fn hand_over(&self) {
        self.handing_over.store(true, Ordering::Release);
    }

    /// Answers the OPENs that have waited for names which are known now.
    pub(super) fn unpark(&self) {
        let waiting = match &mut *self.lock_parked() {
            Some(parked) => std::mem::take(parked),
            None => return,
        };
        for open in waiting {
            self.open_or_park(open);
        }
    }

    /// Every mount was taken up or given up: an OPEN of a name that is not known is an error.
    pub(super) fn finish_resume(&self) {
        let parked = self.lock_parked().take();
        for open in parked.into_iter().flatten() {
            self.open_or_park(open);
        }
    }

    /// Runs until `stop` becomes readable. `root` is where the kernel keeps its objects.
    pub(super) fn run(self: &Arc<Self>, stop: &OwnedFd, root: &Path) {
        let mut culled = Instant::now();
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        while !self.handing_over.load(Ordering::Acquire) {
            match self.device.receive(&mut buffer) {
                Ok(Some(bytes)) => self.take(bytes),
                Ok(None) if self.wait(stop) => return,
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "cachefiles: a message could not be read");
                    std::thread::sleep(TICK);
                }
            }
            if self.grace.is_over() {
                self.finish_resume();
            }
            if culled.elapsed() > cull::PAUSE && self.device.wants_culling() {
                cull::start(&self.device, root);
                culled = Instant::now();
            }
        }
    }

    /// Waits for messages; true when it is time to stop.
    fn wait(&self, stop: &OwnedFd) -> bool {
        let tick = Timespec { tv_sec: TICK.as_secs().cast_signed(), tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.device, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let woken = poll(&mut fds, Some(&tick));
        let stopped = !fds[1].revents().is_empty();
        if woken == Ok(0) {
            self.mounts.release_what_is_gone();
        }
        stopped
    }

    fn take(self: &Arc<Self>, bytes: &[u8]) {
        match message::parse(bytes) {
            Ok(message) => match message.body {
                Body::Open(Open { name, fd }) => match inherit(fd) {
                    Ok(fd) => {
                        self.open_or_park(Parked { id: message.id, opening: message.opening, name, fd })
                    }
                    Err(error) => {
                        tracing::error!(fd, %error, "cachefiles: an OPEN without its descriptor");
                        self.copen(message.id, Err(libc::EBADF));
                    }
                },
                Body::Read(want) => self.read(message.id, message.opening, want),
                Body::Close => self.objects.leave(message.opening),
            },
            Err(malformed) => self.refuse(&malformed),
        }
    }

    /// Answers what can be answered of a message that makes no sense.
    fn refuse(&self, malformed: &Malformed) {
        tracing::error!(%malformed, "cachefiles: a message that is none of the kernel's");
        match *malformed {
            Malformed::Keys { id, fd, .. } => {
                drop(inherit(fd));
                self.copen(id, Err(libc::EINVAL));
            }
            Malformed::Descriptor { id, .. } => {
                self.copen(id, Err(libc::EBADF));
            }
            Malformed::Range { id, opening, .. } => {
                if let Some(opening) = self.objects.get(opening) {
                    complete(&opening, id);
                }
            }
            Malformed::Header(_) | Malformed::Length { .. } | Malformed::Opcode { .. } => {}
        }
    }

    /// OPEN: the object's size; what is not known waits while mounts are taken up, and is an error after that.
    fn open_or_park(&self, open: Parked) {
        if self.given_up.load(Ordering::Acquire) {
            if !self.open_in_vain(&open) {
                // What it opens for the first time is left to the next worker.
                self.lock_parked().get_or_insert_default().push(open);
            }
            return;
        }
        let mut parked = self.lock_parked();
        // Looked up under the lock, so that a name entered just now finds what waits for it.
        let Some(content) = self.mounts.names().get(&open.name) else {
            return match &mut *parked {
                Some(waiting) => waiting.push(open),
                None => {
                    drop(parked);
                    // A mount that is not taken up yet reads what has been open before.
                    if !self.open_in_vain(&open) {
                        self.refuse_open(open, libc::ENOENT);
                    }
                }
            };
        };
        drop(parked);
        let size = content.size();
        self.objects.enter(open.opening, Opening::new(open.fd, open.name, content));
        if !self.copen(open.id, Ok(size)) {
            self.objects.leave(open.opening);
        }
    }

    /// Opens what is only read from in vain: with an error in place of its size the kernel would ask again at once, over
    /// and over. Tells whether it could: not what the kernel opens for the first time.
    fn open_in_vain(&self, open: &Parked) -> bool {
        let Some((object, size)) = Opening::in_vain(&open.fd, &open.name) else { return false };
        self.objects.enter(open.opening, object);
        if !self.copen(open.id, Ok(size)) {
            self.objects.leave(open.opening);
        }
        true
    }

    fn refuse_open(&self, open: Parked, errno: i32) {
        let (volume, cookie) =
            (String::from_utf8_lossy(&open.name.volume), String::from_utf8_lossy(&open.name.cookie));
        tracing::error!(%volume, %cookie, errno, "cachefiles: an object that no mount knows");
        self.copen(open.id, Err(errno));
        // The descriptor is closed after the answer: before, the kernel would open the object again.
        drop(open.fd);
    }

    fn copen(&self, id: MessageId, answer: Result<u64, i32>) -> bool {
        let told = self.device.tell(Command::Copen(id, answer));
        told.inspect_err(|error| tracing::debug!(id = id.0, %error, "cachefiles: nobody waits for this OPEN"))
            .is_ok()
    }

    fn read(self: &Arc<Self>, id: MessageId, opening: OpeningId, want: ObjectRange) {
        let Some(object) = self.objects.get(opening) else {
            // Without a descriptor of the object there is no way to answer.
            tracing::error!(opening = opening.0, "cachefiles: a READ of what was never opened here");
            return;
        };
        let reading = Reading::begin(self, object, id, want);
        let Some(content) = reading.object.content(|name| self.mounts.names().get(name)) else { return };
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        let want = fill::whole_pages(want, content.size());
        match content {
            Content::Blob(blob) if first_hole(&blob, want.clamp_to(blob.size())).is_some() => {
                self.bring(reading, &blob, want)
            }
            Content::Blob(blob) => {
                self.copy(reading, Content::Blob(Arc::clone(&blob)));
                self.engine.touch(&blob, want);
            }
            Content::File(..) => self.copy(reading, content),
        }
    }

    fn bring(self: &Arc<Self>, reading: Reading, blob: &Arc<Blob>, want: ObjectRange) {
        let (server, content) = (Arc::clone(self), Content::Blob(Arc::clone(blob)));
        // The kernel does not say who reads.
        self.engine.spawn_fill(blob, want, Cause::Demand { pid: None }, move |filled| match filled {
            Ok(()) => server.copy(reading, content),
            Err(error) => {
                let error = error.chain();
                tracing::warn!(start = want.start(), len = want.len(), error, "cachefiles: not brought");
            }
        });
    }

    /// Copies what is present; blocks on two disks, so that it has a thread of the runtime's pool.
    fn copy(&self, reading: Reading, content: Content) {
        self.engine.handle().spawn_blocking(move || {
            let object = &reading.object;
            if let Err(error) = fill::copy(&content, reading.want, object.fd()) {
                tracing::warn!(start = reading.want.start(), %error, "cachefiles: not copied");
            }
        });
    }

    fn lock_parked(&self) -> MutexGuard<'_, Option<Vec<Parked>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A READ in hand. Dropped, it is ended: with its bytes in the object, or without them, which is an error for its reader.
struct Reading {
    server: Arc<Server>,
    object: Arc<Opening>,
    id: MessageId,
    want: ObjectRange,
}

impl Reading {
    fn begin(server: &Arc<Server>, object: Arc<Opening>, id: MessageId, want: ObjectRange) -> Self {
        server.in_hand.fetch_add(1, Ordering::Relaxed);
        Self { server: Arc::clone(server), object, id, want }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.server.in_hand.fetch_sub(1, Ordering::Relaxed);
        // A worker that is being replaced leaves it to its successor: the kernel sends it again.
        if !self.server.handing_over.load(Ordering::Acquire) {
            complete(&self.object, self.id);
        }
    }
}

fn complete(object: &Opening, id: MessageId) {
    if let Err(error) = read_complete(object.fd(), id.0) {
        tracing::debug!(id = id.0, %error, "cachefiles: nobody waits for this READ");
    }
}
