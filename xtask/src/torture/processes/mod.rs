//! The real program: daemon and keeper with mounts through fanotify and FUSE, readers as threads with a deadline,
//! faults, deaths at named points, kills, upgrades, restarts, a full disk, short memory, a registry that lies; and with a
//! tree whose server misbehaves and has its files overwritten.
//!
//! One process at a time dies, as P1 and P4 promise it: a keeper is only killed while a worker lives that has taken
//! everything over, and a round is either about the death of workers or about that of keepers.

mod calm;
mod daemon;
mod disk;
mod image;
mod leaks;
pub mod mapped;
mod memory;
mod plan;
mod program;
mod reader;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_faults::State;

use self::daemon::{Daemon, TREE};
use self::disk::Disk;
use self::image::Image;
use self::leaks::Usual;
use self::memory::Memory;
use self::plan::{Deed, Round};
use self::reader::Reader;
use self::tree::{Tree, TreeReader};
use super::desk::Desk;
use super::dice::Dice;
use super::tally::Tally;
use super::violation::{Kind, Violation};

/// Images that are built; each has blobs of its own.
const IMAGES: u64 = 3;

/// A read that takes longer is a hang: the fill engine gives up after 60 s, and a worker may be restarted meanwhile.
const READ_DEADLINE: Duration = Duration::from_secs(90);

/// How often a daemon that has given up is brought back, one time after the other: faults may be in the way.
const BRING_BACK_MAX: u32 = 5;

/// What the rounds share.
pub struct Stage {
    binary: PathBuf,
    dir: PathBuf,
    images: Vec<Image>,
    tree: Arc<Tree>,
    front_ends: Vec<&'static str>,
    usual: Usual,
    /// Other places of the program, as an upgrade has one.
    programs: [PathBuf; 2],
    /// Absent where none can be made.
    disk: Option<Disk>,
    memory: Option<Memory>,
    /// Whether a daemon can have clocks of its own.
    has_time: bool,
}

impl Stage {
    /// Builds the images, and learns what a healthy daemon looks like.
    pub fn new(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let images =
            (0..IMAGES).map(|number| Image::build(binary, dir, number)).collect::<anyhow::Result<_>>()?;
        let disk = or_say("a disk that becomes full", Disk::make(dir));
        let memory = or_say("memory that becomes short", Memory::make());
        let has_time = or_say("clocks that jump", daemon::try_time()).is_some();
        let programs = ["larder-one", "larder-two"].map(|name| dir.join(name));
        for program in &programs {
            std::fs::hard_link(binary, program).or_else(|_| std::fs::copy(binary, program).map(drop))?;
        }
        let place = disk.as_ref().map_or(dir, Disk::dir);
        let front_ends = daemon::front_ends(binary, place)?;
        let (binary, dir) = (binary.to_owned(), dir.to_owned());
        let (usual, tree) = (Usual::default(), Tree::serve());
        let mut stage =
            Self { binary, dir, images, tree, front_ends, usual, programs, disk, memory, has_time };
        stage.learn()?;
        Ok(stage)
    }

    /// One quiet round for each set of front ends: how many descriptors it takes.
    fn learn(&mut self) -> anyhow::Result<()> {
        for front_ends in plan::sets(&self.front_ends) {
            let quiet = Round::quiet(front_ends);
            let tally = self.play(&quiet, Dice::new(0), true)?;
            anyhow::ensure!(tally.violations.is_empty(), "a round without faults: {}", tally.violations[0]);
        }
        Ok(())
    }

    /// One round.
    ///
    /// # Errors
    ///
    /// What the torturer itself could not do.
    pub fn round(&mut self, number: u64, dice: Dice) -> anyhow::Result<Tally> {
        let round = Round::decide(dice, &self.front_ends, IMAGES);
        eprintln!("torture: round {number}: {round}");
        self.play(&round, dice, false)
    }

    fn play(&mut self, round: &Round, dice: Dice, learning: bool) -> anyhow::Result<Tally> {
        let image = &self.images[round.image];
        image.registry.clear_faults();
        image.registry.reset_ledger();
        image.registry.set_latency(round.latency);
        self.tree.behave(round.server.usual);
        let state = State::create(&self.dir.join("faults"))?;
        let plan = round.faults(dice, &self.dir.join("faults"))?;
        let place = self.disk.as_ref().map_or(&*self.dir, Disk::dir);
        let daemon = Daemon::new(&self.binary, &place.join("root"), &plan.to_string());
        let daemon = daemon.with_clock_ahead(if self.has_time { round.clock_ahead } else { 0 });
        let mut tally = Tally::default();
        if daemon.has_other_time() {
            tally.did("clocks jumped");
        }
        if round.wipe {
            daemon.wipe()?;
            tally.did("cache emptied");
        }
        let (tree, usual, programs) = (&self.tree, &mut self.usual, &self.programs);
        let (disk, memory) = (self.disk.as_ref(), self.memory.as_ref());
        let mut scene =
            Scene { round, dice, image, tree, daemon, state, usual, programs, disk, memory, tally };
        if let Err(violation) = scene.play(learning) {
            scene.tally.violate(violation);
        }
        Ok(scene.end())
    }
}

/// One round as it is played.
struct Scene<'a> {
    round: &'a Round,
    dice: Dice,
    image: &'a Image,
    tree: &'a Arc<Tree>,
    daemon: Daemon,
    state: State,
    usual: &'a mut Usual,
    programs: &'a [PathBuf; 2],
    disk: Option<&'a Disk>,
    memory: Option<&'a Memory>,
    tally: Tally,
}

impl Scene<'_> {
    /// The acts of a round; the first violation ends it.
    fn play(&mut self, learning: bool) -> Result<(), Violation> {
        self.daemon.start()?;
        if let Some(memory) = self.memory {
            memory.hold(&self.daemon.processes());
        }
        self.mount()?;
        if learning {
            self.usual.learn(&self.round.front_ends.join("+"), &self.daemon)?;
            self.unmount()?;
            self.mount()?;
        }
        self.storm()?;
        self.state.arm(false);
        self.image.registry.clear_faults();
        self.tree.behave(self.round.server.usual);
        self.calm()?;
        let key = self.round.front_ends.join("+");
        if learning {
            self.usual.learn(&key, &self.daemon)?;
            // A successor opens whatever its predecessor may have left something with.
            self.daemon.kill_worker()?;
            self.usual.learn(&key, &self.daemon)?;
        } else {
            self.usual.compare(&key, &self.daemon)?;
        }
        self.state.arm(self.round.faults_at_the_end);
        self.unmount()?;
        self.state.arm(false);
        self.daemon.stop()?;
        leaks::nothing_is_left(&self.daemon)
    }

    fn mount(&mut self) -> Result<(), Violation> {
        for front_end in &self.round.front_ends {
            let tries = self.daemon.mount(&self.address(front_end), front_end)?;
            (1..tries).for_each(|_| self.tally.did("mount tried again"));
        }
        Ok(())
    }

    /// What a front end mounts.
    fn address(&self, front_end: &str) -> String {
        if front_end == TREE { self.tree.address() } else { self.image.reference() }
    }

    fn unmount(&mut self) -> Result<(), Violation> {
        for front_end in &self.round.front_ends {
            self.daemon.unmount(front_end)?;
        }
        Ok(())
    }

    /// Readers read while everything else happens.
    fn storm(&mut self) -> Result<(), Violation> {
        let desk = Desk::new(self.round.readers);
        let readers: Vec<_> = (0..self.round.readers)
            .map(|number| {
                if self.round.reads_tree(number) {
                    self.tree_reader(number).start(&desk)
                } else {
                    self.reader(number).start(&desk)
                }
            })
            .collect();
        let server = self.tree.play(&self.round.server, &desk);
        let mut acted = self.act(&desk, &readers);
        if acted.is_ok() {
            acted = desk.wait(&readers, u64::MAX, READ_DEADLINE);
        }
        if let Err(violation) = acted {
            // Whoever hangs is let go, so that the campaign can end.
            desk.stop();
            self.daemon.end_everything();
            drop(server.join());
            // What it reads from now on, with nobody to answer, is no finding.
            desk.tally().violations.clear();
            return self.take(&desk).and(Err(violation));
        }
        readers.into_iter().for_each(|reader| drop(reader.join()));
        desk.stop();
        drop(server.join());
        self.take(&desk)
    }

    fn reader(&self, number: usize) -> Reader {
        Reader::new(number, self.dice, self.image, &self.daemon, self.round)
    }

    fn tree_reader(&self, number: usize) -> TreeReader {
        TreeReader::new(number, self.dice, self.tree, &self.daemon, self.round)
    }

    fn take(&mut self, desk: &Arc<Desk>) -> Result<(), Violation> {
        let mut found = std::mem::take(&mut *desk.tally());
        let first = found.violations.first().cloned();
        found.violations.clear();
        self.tally.add(found);
        first.map_or(Ok(()), Err)
    }

    fn act(&mut self, desk: &Arc<Desk>, readers: &[std::thread::JoinHandle<()>]) -> Result<(), Violation> {
        for (number, (step, deed)) in self.round.script.iter().enumerate() {
            desk.wait(readers, *step, READ_DEADLINE)?;
            self.tally.did(deed.name());
            match deed {
                Deed::KillWorker => self.daemon.kill_worker()?,
                Deed::KillKeeper => self.daemon.kill_keeper()?,
                Deed::Upgrade => self.daemon.upgrade()?,
                Deed::Replace => self.replace(&self.programs[number % 2])?,
                Deed::FillDisk(lasts) => self.fill_disk(*lasts).map_err(cannot)?,
                Deed::Squeeze(mebibytes, lasts) => {
                    self.memory
                        .map_or(Ok(()), |memory| memory.squeeze(mebibytes << 20, *lasts))
                        .map_err(cannot)?;
                }
                Deed::Lie(fault) => self.image.registry.fail_at(
                    larder_testkit::Target::Blobs,
                    larder_testkit::Times::Next(1),
                    fault.clone(),
                ),
                Deed::Remount(front_end) => {
                    self.daemon.unmount(front_end)?;
                    self.daemon.mount(&self.address(front_end), front_end)?;
                }
            }
        }
        self.bring_back()
    }

    /// Brings a daemon back that has given up, as whoever runs it would; in some rounds it has to come back by itself.
    fn bring_back(&mut self) -> Result<(), Violation> {
        if !self.round.is_looked_after {
            return Ok(());
        }
        for _ in 0..BRING_BACK_MAX {
            if self.daemon.settle()?["gave_up"].is_null() {
                break;
            }
            self.tally.did("brought back");
            // A fault may be in the way; the readers tell whether it is back in the end.
            drop(self.daemon.replace(&self.programs[0])?);
        }
        Ok(())
    }

    /// A program at another place takes over, unless a fault keeps it from that.
    fn replace(&mut self, program: &Path) -> Result<(), Violation> {
        match self.daemon.replace(program)? {
            Err(said) if self.round.is_fair() => {
                Err(Violation::new(Kind::Error, format!("{} does not take over: {said}", program.display())))
            }
            Err(_) => {
                self.tally.did("program not replaced, by a fault");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn fill_disk(&self, lasts: Duration) -> anyhow::Result<()> {
        let Some(disk) = self.disk else { return Ok(()) };
        disk.fill()?;
        std::thread::sleep(lasts);
        disk.drain()
    }

    /// With the causes gone, no error is left: P3.
    fn calm(&mut self) -> Result<(), Violation> {
        self.bring_back()?;
        self.daemon.settle()?;
        if self.round.image_front_ends().next().is_some() {
            self.calm_down(|scene, desk| scene.reader(usize::MAX).start_calm(desk))?;
        }
        if self.round.has_tree() {
            self.calm_down(|scene, desk| scene.tree_reader(usize::MAX).start_calm(desk))?;
        }
        Ok(())
    }

    fn calm_down(
        &mut self,
        start: impl FnOnce(&Self, &Arc<Desk>) -> std::thread::JoinHandle<()>,
    ) -> Result<(), Violation> {
        let desk = Desk::new(1);
        let readers = [start(self, &desk)];
        let waited = desk.wait(&readers, u64::MAX, READ_DEADLINE);
        if waited.is_err() {
            desk.stop();
            self.daemon.end_everything();
        }
        waited.and(self.take(&desk))
    }

    /// Whatever happened, nothing of the round goes on.
    fn end(mut self) -> Tally {
        self.tally.faults = self.state.counts();
        if !self.tally.violations.is_empty() {
            eprintln!("torture: the end of the daemon's log:\n{}", self.daemon.log());
        }
        self.daemon.end_everything();
        self.tally
    }
}

impl From<Violation> for anyhow::Error {
    fn from(violation: Violation) -> Self {
        anyhow::anyhow!("{violation}")
    }
}

/// A violation without more to say.
fn hang(what: impl Into<String>) -> Violation {
    Violation::new(Kind::Hang, what)
}

/// What the torturer itself cannot do.
fn cannot(error: anyhow::Error) -> Violation {
    Violation::new(Kind::Error, format!("the torturer: {error:#}"))
}

/// What a host does not offer is left out, and said.
fn or_say<T>(what: &str, made: anyhow::Result<T>) -> Option<T> {
    made.inspect_err(|error| eprintln!("torture: without {what}: {error:#}")).ok()
}
