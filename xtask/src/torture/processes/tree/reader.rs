//! [`TreeReader`]: a thread that reads files of the tree while they are overwritten, and tells which version it got.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use super::super::super::desk::Desk;
use super::super::super::dice::{Dice, weighted};
use super::super::super::tally::{TREE_RIGHT, TREE_WRONG, errno_name};
use super::super::super::violation::{Kind, Violation};
use super::super::calm::read_calmly;
use super::super::daemon::{Daemon, TREE};
use super::super::mapped;
use super::super::plan::{Round, STEPS};
use super::super::reader::read_until_end;
use super::plan::choose;
use super::version::version_of;
use super::{DIRECTORIES, FILES, Tree, directory, name, path, size};

/// Longest pause before a step, in milliseconds: without one, readers would be done before the first file is overwritten.
const PAUSE_MS: u64 = 150;

/// A reader of the tree.
pub struct TreeReader {
    number: usize,
    dice: Dice,
    tree: Arc<Tree>,
    target: PathBuf,
    may_fail: bool,
}

/// One step.
struct Step {
    file: u64,
    at: u64,
    len: usize,
    /// Whether the pages are given up first.
    afresh: bool,
    how: How,
}

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// The file is opened, and kept open for what comes.
    Open,
    /// Read from the file that was opened last.
    GoOn,
    /// Another process opens and maps the file.
    Map,
    /// The directory is listed.
    List,
}

/// A file that was opened.
struct Opened {
    file: File,
    number: u64,
    /// What it can be of; one version, once something was read.
    versions: RangeInclusive<u64>,
}

/// What came of a step.
enum Found {
    /// Bytes, and the versions that they can be of.
    Bytes(Vec<u8>, RangeInclusive<u64>),
    Names(BTreeSet<String>),
}

/// Why there are no bytes.
struct Failed {
    error: io::Error,
    /// Whether the file may have been overwritten since it was opened.
    is_overwritten: bool,
}

impl TreeReader {
    /// A reader of the tree that a round has mounted.
    pub fn new(number: usize, dice: Dice, tree: &Arc<Tree>, daemon: &Daemon, round: &Round) -> Self {
        Self {
            number,
            dice: dice.of("tree reader", number as u64),
            tree: Arc::clone(tree),
            target: daemon.target(TREE),
            may_fail: round.tree_may_fail(),
        }
    }

    /// Reads while things go wrong.
    pub fn start(self, desk: &Arc<Desk>) -> JoinHandle<()> {
        let desk = Arc::clone(desk);
        std::thread::spawn(move || {
            let mut opened = None;
            for number in (0..STEPS).take_while(|_| !desk.is_stopped()) {
                std::thread::sleep(Duration::from_millis(
                    self.dice.of("pause", 0).at(number).u64(0..PAUSE_MS),
                ));
                let step = self.step(number, opened.as_ref());
                let found = self.act(&desk, self.number, &step, &mut opened);
                let Err(failed) = self.judge(&desk, &step, found, &mut opened) else { continue };
                if !self.is_expected(&step, &failed) {
                    let why = errno_name(&failed.error);
                    let what = format!("{}: {why}, and nothing had failed", self.words(&step));
                    desk.tally().violate(Violation::new(Kind::Error, what));
                }
            }
        })
    }

    /// Reads when nothing goes wrong and nothing is overwritten any more: all is new.
    pub fn start_calm(self, desk: &Arc<Desk>) -> JoinHandle<()> {
        let desk = Arc::clone(desk);
        std::thread::spawn(move || {
            read_calmly(&desk, |number| {
                let (step, mut opened) = (self.calm_step(number), None);
                let found = self.act(&desk, 0, &step, &mut opened);
                let judged = self.judge(&desk, &step, found, &mut opened);
                judged.map_err(|failed| (self.words(&step), errno_name(&failed.error).to_string()))
            });
        })
    }

    /// Whether an error is one that the round calls for, or that a file has which was overwritten.
    fn is_expected(&self, step: &Step, failed: &Failed) -> bool {
        let errno = Errno::from_io_error(&failed.error);
        // A page fault has one error only.
        let is_stale = errno == Some(Errno::STALE) || (step.how == How::Map && errno == Some(Errno::IO));
        self.may_fail || (failed.is_overwritten && is_stale)
    }

    fn step(&self, number: u64, opened: Option<&Opened>) -> Step {
        let mut rng = self.dice.at(number);
        let how = weighted(&mut rng, &[(6, How::Open), (10, How::GoOn), (2, How::Map), (1, How::List)]);
        let file = choose(&mut rng);
        let (how, file) = match (how, opened) {
            (How::GoOn, Some(opened)) => (how, opened.number),
            (How::GoOn, None) => (How::Open, file),
            _ => (how, file),
        };
        let (size, len) = (size(file, self.tree.oldest(file)), 1usize << rng.u32(0..21));
        Step {
            file,
            at: if rng.u8(0..8) == 0 { size.saturating_sub(100) } else { rng.u64(0..size) },
            len: rng.usize(len / 2 + 1..=len),
            afresh: rng.bool(),
            how,
        }
    }

    /// Each file whole at first, then pieces.
    fn calm_step(&self, number: u64) -> Step {
        let step = self.step(number, None);
        if number >= FILES {
            return step;
        }
        let len = usize::try_from(size(number, self.tree.newest(number))).unwrap_or(0);
        Step { file: number, at: 0, len, how: How::Open, ..step }
    }

    fn act(
        &self,
        desk: &Desk,
        slot: usize,
        step: &Step,
        opened: &mut Option<Opened>,
    ) -> Result<Found, Failed> {
        desk.timed(
            slot,
            || self.words(step),
            || match step.how {
                How::List => self.list(step).map_err(|error| Failed { error, is_overwritten: false }),
                How::Map => self.map(step),
                How::Open => {
                    *opened = None;
                    let now = self.open(step)?;
                    self.read(step, opened.insert(now))
                }
                How::GoOn => match opened {
                    Some(opened) => self.read(step, opened),
                    None => Err(Failed { error: Errno::BADF.into(), is_overwritten: false }),
                },
            },
        )
    }

    fn open(&self, step: &Step) -> Result<Opened, Failed> {
        let oldest = self.tree.oldest(step.file);
        let file = File::open(self.target.join(path(step.file)));
        let newest = self.tree.newest(step.file);
        let file = file.map_err(|error| Failed { error, is_overwritten: newest > oldest })?;
        Ok(Opened { file, number: step.file, versions: oldest..=newest })
    }

    fn read(&self, step: &Step, opened: &Opened) -> Result<Found, Failed> {
        let mut bytes = vec![0; step.len];
        let given_up = if step.afresh { fadvise(&opened.file, 0, None, Advice::DontNeed) } else { Ok(()) };
        let read = given_up.map_err(io::Error::from);
        let read = read.and_then(|()| read_until_end(&opened.file, &mut bytes, step.at));
        let is_overwritten = self.tree.newest(step.file) > *opened.versions.start();
        let len = read.map_err(|error| Failed { error, is_overwritten })?;
        bytes.truncate(len);
        Ok(Found::Bytes(bytes, opened.versions.clone()))
    }

    fn map(&self, step: &Step) -> Result<Found, Failed> {
        let oldest = self.tree.oldest(step.file);
        let read = mapped::read(&self.target.join(path(step.file)), step.at, step.len, step.afresh);
        let newest = self.tree.newest(step.file);
        let bytes = read.map_err(|error| Failed { error, is_overwritten: newest > oldest })?;
        Ok(Found::Bytes(bytes, oldest..=newest))
    }

    fn list(&self, step: &Step) -> io::Result<Found> {
        let entries = std::fs::read_dir(self.target.join(directory(step.file % DIRECTORIES)))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().map(Found::Names)
    }

    /// Counts a step; what is wrong is a violation, an error is the caller's to judge.
    fn judge(
        &self,
        desk: &Desk,
        step: &Step,
        found: Result<Found, Failed>,
        opened: &mut Option<Opened>,
    ) -> Result<(), Failed> {
        let found = found.inspect_err(|failed| {
            desk.tally().read(format!("tree {}", errno_name(&failed.error)), 0);
        })?;
        let (bytes, verdict) = match found {
            Found::Names(names) => (0, self.judge_names(step, &names)),
            Found::Bytes(bytes, versions) => {
                let verdict = version_of(step.file, versions, step.at, step.len, &bytes);
                if let (Ok(version), Some(opened)) = (&verdict, opened)
                    && step.how != How::Map
                    && !bytes.is_empty()
                {
                    opened.versions = *version..=*version;
                }
                (bytes.len(), verdict.map(drop))
            }
        };
        let mut tally = desk.tally();
        match verdict {
            Err(wrong) => {
                tally.read(TREE_WRONG, bytes);
                tally.violate(Violation::new(Kind::WrongBytes, format!("{}: {wrong}", self.words(step))));
            }
            Ok(()) if step.how == How::List => tally.read("tree listed", 0),
            Ok(()) => tally.read(TREE_RIGHT, bytes),
        }
        Ok(())
    }

    fn judge_names(&self, step: &Step, names: &BTreeSet<String>) -> Result<(), String> {
        let is_here = |file: &u64| file % DIRECTORIES == step.file % DIRECTORIES;
        let expected: BTreeSet<_> = (0..FILES).filter(is_here).map(name).collect();
        if *names == expected { Ok(()) } else { Err(format!("{names:?} instead of {expected:?}")) }
    }

    fn words(&self, step: &Step) -> String {
        if step.how == How::List {
            return format!("listing of {}", self.target.join(directory(step.file % DIRECTORIES)).display());
        }
        let afresh = if step.afresh { ", pages dropped first" } else { "" };
        let how = match step.how {
            How::Map => "read through a mapping",
            How::GoOn => "read through an earlier open",
            How::Open | How::List => "read",
        };
        let path = self.target.join(path(step.file));
        format!("{how} of {} bytes at {} of {}{afresh}", step.len, step.at, path.display())
    }
}
