//! [`Hall`]: the rounds of this layer.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use larder_cachefiles::BootId;

use super::super::desk::Desk;
use super::super::dice::Dice;
use super::super::tally::Tally;
use super::super::violation::{Kind, Violation};
use super::contents::{Contents, OBJECTS, VERSIONS, size, spec};
use super::disk::{self, Disk};
use super::plan::{Deed, Ending, Round};
use super::reader::{Reader, read_whole};
use super::shelf::Shelf;
use super::world::{FILL_DEADLINE, Failure, Manner, World, fs_failure};

/// A read that takes longer is a hang: three fills with their deadlines, and the opening of a cache.
const READ_DEADLINE: Duration = Duration::from_secs(3 * FILL_DEADLINE.as_secs() + 30);

/// How long after the end of the faults an error may still come from one of them.
const AFTERMATH: Duration = Duration::from_secs(15);

/// How long connections and threads may take to go.
const GRACE: Duration = Duration::from_secs(20);

/// Panics of any thread: each is a bug.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// What the rounds share.
pub struct Hall {
    dir: PathBuf,
    contents: Arc<Contents>,
    disks: Vec<disk::Kind>,
}

/// Where readers find the world that is open.
#[derive(Default)]
pub struct Room(Mutex<Option<Arc<World>>>);

impl Room {
    /// The world; `None` when the readers are to end.
    pub fn enter(&self, desk: &Desk) -> Option<Arc<World>> {
        loop {
            if let Some(world) = self.world() {
                return Some(world);
            }
            if desk.is_stopped() {
                return None;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn world(&self) -> Option<Arc<World>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, world: Option<Arc<World>>) -> Option<Arc<World>> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), world)
    }
}

impl Hall {
    /// Makes the contents up, and sees a quiet round through, after which the process has all that it keeps.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        count_panics();
        let hall =
            Self { dir: dir.to_owned(), contents: Arc::new(Contents::new()?), disks: disk::kinds(dir) };
        // What a process makes once and keeps is not there before the first round.
        hall.play(&Round::quiet(), Dice::new(0), true)?;
        let tally = hall.play(&Round::quiet(), Dice::new(0), false)?;
        anyhow::ensure!(tally.violations.is_empty(), "a round without faults: {}", tally.violations[0]);
        Ok(hall)
    }

    /// One round.
    ///
    /// # Errors
    ///
    /// What the torturer itself could not do.
    pub fn round(&self, number: u64, dice: Dice) -> anyhow::Result<Tally> {
        let round = Round::decide(dice, &self.disks);
        eprintln!("torture: round {number}: {round}");
        self.play(&round, dice, false)
    }

    fn play(&self, round: &Round, dice: Dice, is_first: bool) -> anyhow::Result<Tally> {
        let before = Holdings::now();
        let panics = PANICS.load(Relaxed);
        self.contents.registry.clear_faults();
        self.contents.registry.reset_ledger();
        self.contents.registry.set_latency(round.latency);
        let disk = Disk::new(round.disk, &self.dir)?;
        let mut scene = Scene {
            round,
            dice,
            contents: &self.contents,
            disk,
            shelf: Arc::default(),
            boots: 0,
            versions: vec![0; OBJECTS],
            room: Arc::default(),
            tally: Tally::default(),
        };
        let played = scene.play();
        scene.tally.faults.add(&larder_faults::clear());
        let Scene { mut tally, room, .. } = scene;
        if let Err(violation) = played {
            tally.violate(violation);
        } else if let Some(world) = room.world() {
            drop(world);
            tally.violate(Violation::new(Kind::Leak, "a world is left"));
        }
        if PANICS.load(Relaxed) > panics {
            tally.violate(Violation::new(Kind::Error, "a thread panicked: see above"));
        }
        if tally.violations.is_empty() && !is_first {
            before.compare().err().into_iter().for_each(|leak| tally.violate(leak));
        }
        Ok(tally)
    }
}

/// One round as it is played.
struct Scene<'a> {
    round: &'a Round,
    dice: Dice,
    contents: &'a Arc<Contents>,
    disk: Disk,
    shelf: Arc<Shelf>,
    boots: u8,
    versions: Vec<usize>,
    room: Arc<Room>,
    tally: Tally,
}

impl Scene<'_> {
    /// The acts of a round; the first violation ends it.
    fn play(&mut self) -> Result<(), Violation> {
        let plan = self.round.faults(self.dice).map_err(|error| broken("the plan", error))?;
        self.open()?;
        larder_faults::install(plan).map_err(|error| broken("the plan", error))?;
        self.storm()?;
        self.tally.faults.add(&larder_faults::clear());
        self.contents.registry.clear_faults();
        self.disk.relax();
        self.calm()?;
        self.afterwards()
    }

    /// Readers read while everything else happens.
    fn storm(&mut self) -> Result<(), Violation> {
        let desk = Desk::new(self.round.readers);
        let readers: Vec<_> = (0..self.round.readers)
            .map(|number| Reader::new(number, self.dice, self.contents, self.round).start(&desk, &self.room))
            .collect();
        let mut acted = Ok(());
        for (step, deed) in &self.round.script {
            acted = desk.wait(&readers, *step, READ_DEADLINE).and_then(|()| self.act(deed));
            if acted.is_err() {
                break;
            }
        }
        let waited = acted.and_then(|()| desk.wait(&readers, u64::MAX, READ_DEADLINE));
        desk.stop();
        if waited.is_ok() {
            readers.into_iter().for_each(|reader| drop(reader.join()));
        }
        let mut found = std::mem::take(&mut *desk.tally());
        let first = found.violations.drain(..).next();
        self.tally.add(found);
        waited.and(first.map_or(Ok(()), Err))
    }

    fn act(&mut self, deed: &Deed) -> Result<(), Violation> {
        self.tally.did(deed.name());
        let world = self.room.world();
        let done = match (deed, world) {
            (Deed::Lie(fault), _) => {
                self.contents.registry.fail_at(
                    larder_testkit::Target::Blobs,
                    larder_testkit::Times::Next(1),
                    fault.clone(),
                );
                Ok(())
            }
            (Deed::Squeeze(bytes), _) => {
                self.disk.squeeze(*bytes);
                Ok(())
            }
            (Deed::Relax, _) => {
                self.disk.relax();
                Ok(())
            }
            (Deed::Reopen(ending), world) => {
                drop(world);
                return self.reopen(*ending);
            }
            (Deed::Withdraw, world) => {
                if let Some(world) = world {
                    world.cache.withdraw();
                }
                return self.reopen(Ending::Death);
            }
            (_, None) => Ok(()),
            (deed, Some(world)) => self.act_on(&world, deed),
        };
        self.within_quota()?;
        if let Err(error) = done {
            self.tally.did(format!("{} failed", deed.name()));
            // Being in use is no failure; anything else needs a cause.
            if !self.round.may_fail() {
                return Err(Violation::new(Kind::Error, format!("{}: {error}", deed.name())));
            }
        }
        Ok(())
    }

    fn act_on(&self, world: &World, deed: &Deed) -> Result<(), Failure> {
        match deed {
            Deed::Close(object) | Deed::Retire(object) => {
                let Some(cookie) = world.close(*object) else { return Ok(()) };
                cookie.relinquish(matches!(deed, Deed::Retire(_))).map_err(fs_failure)
            }
            Deed::Invalidate(object) => {
                let version = world.slot(*object).version;
                let cookie = world.cookie(*object, version).map_err(fs_failure)?;
                cookie.invalidate(spec(*object, version)).map_err(fs_failure)
            }
            Deed::Replace(object, version) => {
                let mut slot = world.slot(*object);
                let cookie = world.cookie(*object, slot.version).map_err(fs_failure)?;
                // Whatever comes of it, the cookie stands for the new version from now on.
                slot.version = *version;
                cookie.invalidate(spec(*object, *version)).map_err(fs_failure)
            }
            Deed::Resize(object) => {
                let slot = world.slot(*object);
                let cookie = world.cookie(*object, slot.version).map_err(fs_failure)?;
                let shorter = cookie.resize(size(*object) / 2 + 1);
                cookie.resize(size(*object)).and(shorter).map_err(fs_failure)
            }
            Deed::Prefetch(object) => {
                world.prefetch(&world.blob(*object, self.contents)?);
                Ok(())
            }
            Deed::Commit(object) => world.commit(*object),
            Deed::Cull(bytes) => {
                world.cache.backend().cull(*bytes, 0);
                Ok(())
            }
            Deed::Maintain => world.cache.backend().maintain().map(drop).map_err(broken_cache),
            Deed::Pin(object, pinned) => world.pin(*object, *pinned).map_err(fs_failure),
            Deed::DiscardIdle => {
                world.cache.discard_idle(Instant::now());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self) -> Result<(), Violation> {
        let root = self.disk.cache();
        let began = Instant::now();
        loop {
            let boot = BootId::from_bytes([self.boots; 16]);
            match World::open(&root, self.round.quota, boot, &self.shelf, self.contents, &self.versions) {
                Ok(world) => {
                    self.room.set(Some(Arc::new(world)));
                    return Ok(());
                }
                // A fault, or a full disk, may keep it from being opened; not for ever.
                Err(error) if began.elapsed() > AFTERMATH => {
                    return Err(broken("the cache does not open", error));
                }
                Err(_) => {
                    self.tally.did("opening failed");
                    if began.elapsed() > AFTERMATH / 3 {
                        self.disk.relax();
                    }
                    sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn close(&mut self, ending: Ending) -> Result<(), Violation> {
        let Some(world) = self.room.set(None) else { return Ok(()) };
        if ending == Ending::Clean {
            for object in 0..OBJECTS {
                // A failure leaves holes, no wrong bytes.
                if world.commit(object).is_err() {
                    self.tally.did("commit at the end failed");
                }
            }
        }
        let mut world = world;
        let began = Instant::now();
        let world = loop {
            match Arc::try_unwrap(world) {
                Ok(world) => break world,
                Err(shared) if began.elapsed() > READ_DEADLINE => {
                    drop(shared);
                    return Err(Violation::new(Kind::Hang, "readers do not leave a world that ends"));
                }
                Err(shared) => world = shared,
            }
            sleep(Duration::from_millis(1));
        };
        self.versions = world.versions();
        world.end();
        if ending == Ending::Boot {
            self.shelf.empty();
            self.boots = self.boots.wrapping_add(1);
        }
        Ok(())
    }

    fn reopen(&mut self, ending: Ending) -> Result<(), Violation> {
        self.close(ending)?;
        self.open()
    }

    /// What objects take never passes the quota: P5.
    fn within_quota(&self) -> Result<(), Violation> {
        let Some(quota) = self.round.quota else { return Ok(()) };
        let stored = stored_bytes(&self.disk.cache().join("cache"));
        if stored > quota {
            let what = format!("objects take {stored} bytes, and the quota is {quota}");
            return Err(Violation::new(Kind::Space, what));
        }
        Ok(())
    }

    /// With the causes gone, everything can be read: P3.
    fn calm(&mut self) -> Result<(), Violation> {
        let Some(world) = self.room.world() else { return self.open().and_then(|()| self.calm()) };
        if !world.settle(READ_DEADLINE) {
            return Err(Violation::new(Kind::Hang, "chunks are being brought for ever"));
        }
        if self.round.quota.is_some() {
            // What may not be culled may leave no room for the rest.
            (0..OBJECTS)
                .try_for_each(|object| world.pin(object, false))
                .map_err(|error| broken("unpinning", error))?;
        }
        for object in 0..OBJECTS {
            if self.round.quota.is_some() {
                // Not all of them fit: what was read makes way.
                (0..OBJECTS).filter(|other| *other != object).for_each(|other| world.make_idle(other));
            }
            self.read_whole(&world, object)?;
            self.within_quota()?;
            let committed = world.commit(object);
            if let Err(error) = committed {
                return Err(Violation::new(
                    Kind::Error,
                    format!("object {object}: commit: {error}, without a cause"),
                ));
            }
        }
        Ok(())
    }

    fn read_whole(&mut self, world: &World, object: usize) -> Result<(), Violation> {
        let began = Instant::now();
        loop {
            match read_whole(world, self.contents, object, Manner::Fill) {
                Ok(None) => {
                    self.tally.read("right", usize::try_from(size(object)).unwrap_or(0));
                    return Ok(());
                }
                Ok(Some(violation)) => return Err(violation),
                Err(error) if began.elapsed() > AFTERMATH => {
                    let what = format!("object {object}: {error}, long after its cause had gone");
                    return Err(Violation::new(Kind::Error, what));
                }
                Err(_) => {
                    sleep(Duration::from_millis(20));
                    world.tidy();
                }
            }
        }
    }

    /// With everything idle and culled, nothing is charged: a charge that no object answers for stays for ever.
    fn empties(&self) -> Result<(), Violation> {
        let Some(world) = self.room.world() else { return Ok(()) };
        let began = Instant::now();
        loop {
            (0..OBJECTS).for_each(|object| world.make_idle(object));
            world.tidy();
            let unpinned = (0..OBJECTS).try_for_each(|object| world.pin(object, false));
            let cachefiles = world.cache.backend();
            cachefiles.cull(u64::MAX, 0);
            let usage = cachefiles.usage();
            if unpinned.is_ok() && !usage.rebuilding && usage.charged_bytes == 0 {
                return Ok(());
            }
            if began.elapsed() > AFTERMATH {
                return Err(Violation::new(Kind::Leak, format!("an empty cache: {usage:?}, {unpinned:?}")));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The machine starts again: everything was committed, so everything is there and right, with the registry gone.
    fn afterwards(&mut self) -> Result<(), Violation> {
        self.reopen(Ending::Boot)?;
        if let Some(world) = self.room.world() {
            for object in 0..OBJECTS {
                match read_whole(&world, self.contents, object, Manner::Present) {
                    // Where not all fit, some were culled.
                    Err(error) if self.round.quota.is_some() && error.name == "errno 61" => {}
                    Ok(None) => self.tally.read("right", usize::try_from(size(object)).unwrap_or(0)),
                    Ok(Some(violation)) => return Err(violation),
                    Err(error) => {
                        let what = format!("object {object}: {error} after a boot, though it was committed");
                        return Err(Violation::new(Kind::Error, what));
                    }
                }
            }
        }
        self.empties()?;
        self.close(Ending::Clean)?;
        self.shelf.empty();
        nothing_unfinished(&self.disk.cache())
    }
}

/// What is not finished is removed at the latest when a cache is opened, and every object of this round was.
fn nothing_unfinished(cache: &Path) -> Result<(), Violation> {
    let left: Vec<_> =
        fs::read_dir(cache.join("tmp")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Violation::new(Kind::Leak, format!("unfinished files are left: {left:?}")))
}

/// Descriptors and threads of this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    fn now() -> Self {
        let count = |dir: &str| fs::read_dir(dir).map_or(0, Iterator::count);
        Self { descriptors: count("/proc/self/fd"), threads: count("/proc/self/task") }
    }

    /// Waits until this process holds no more than before.
    fn compare(self) -> Result<(), Violation> {
        let began = Instant::now();
        loop {
            let now = Self::now();
            if now.descriptors <= self.descriptors && now.threads <= self.threads {
                return Ok(());
            }
            if began.elapsed() > GRACE {
                let links: Vec<_> = fs::read_dir("/proc/self/fd")
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter_map(|entry| fs::read_link(entry.path()).ok())
                    .collect();
                return Err(Violation::new(Kind::Leak, format!("{now:?} instead of {self:?}: {links:?}")));
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn count_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Relaxed);
            before(panic);
        }));
    });
}

fn broken_cache(error: larder_cachefiles::Error) -> Failure {
    Failure { name: "other".into(), text: error.to_string() }
}

/// Bytes that the files below `dir` take on the disk.
fn stored_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => stored_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn broken(what: &str, error: impl std::fmt::Display) -> Violation {
    Violation::new(Kind::Error, format!("{what}: {error}"))
}

const _: () = assert!(VERSIONS > 1);
