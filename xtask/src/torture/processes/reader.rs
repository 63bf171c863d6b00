//! [`Reader`]: a thread that reads random pieces of random files and compares each byte with the truth.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::{Advice, fadvise};

use super::super::desk::Desk;
use super::super::dice::{Dice, weighted};
use super::super::tally::errno_name;
use super::super::truth;
use super::super::violation::{Kind, Violation};
use super::calm::read_calmly;
use super::daemon::Daemon;
use super::image::{self, Image};
use super::mapped;
use super::plan::{Round, STEPS};
use super::program;

/// A reader.
pub struct Reader {
    number: usize,
    dice: Dice,
    truths: Vec<u64>,
    sums: Vec<String>,
    targets: Vec<PathBuf>,
    may_fail: bool,
    remounts: bool,
}

/// One read.
struct Piece {
    target: usize,
    file: u64,
    at: u64,
    len: usize,
    /// Whether the pages are given up first.
    afresh: bool,
    how: How,
}

/// Who reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// This thread.
    Read,
    /// A process that maps the file.
    Map,
    /// A program of the image, the whole file.
    Run,
}

/// What came of it.
enum Found {
    Bytes(Vec<u8>),
    /// What the program printed.
    Sum(String),
}

impl Reader {
    /// A reader of the mounts of a round.
    pub fn new(number: usize, dice: Dice, image: &Image, daemon: &Daemon, round: &Round) -> Self {
        Self {
            number,
            dice: dice.of("reader", number as u64),
            truths: (0..image::FILES).map(|file| image.truth_of(file)).collect(),
            sums: (0..image::FILES).map(|file| image.sum_of(file)).collect(),
            targets: round.image_front_ends().map(|front_end| daemon.target(front_end)).collect(),
            may_fail: round.may_fail(),
            remounts: round.remounts(),
        }
    }

    /// Reads while things go wrong.
    pub fn start(self, desk: &Arc<Desk>) -> JoinHandle<()> {
        let desk = Arc::clone(desk);
        std::thread::spawn(move || {
            for step in (0..STEPS).take_while(|_| !desk.is_stopped()) {
                let piece = self.piece(step);
                let read = self.read(&desk, self.number, &piece);
                if let Err(error) = self.judge(&desk, &piece, read) {
                    let expected = self.may_fail || self.remounts;
                    if !expected {
                        let what = format!("{}: {error}, and nothing had failed", self.words(&piece));
                        desk.tally().violate(Violation::new(Kind::Error, what));
                    }
                }
            }
        })
    }

    /// Reads when nothing goes wrong any more.
    pub fn start_calm(self, desk: &Arc<Desk>) -> JoinHandle<()> {
        let desk = Arc::clone(desk);
        std::thread::spawn(move || {
            read_calmly(&desk, |step| {
                let piece = self.piece(step);
                let read = self.read(&desk, 0, &piece);
                self.judge(&desk, &piece, read).map_err(|error| (self.words(&piece), error))
            });
        })
    }

    fn piece(&self, step: u64) -> Piece {
        let mut rng = self.dice.at(step);
        let file = rng.u64(0..image::FILES);
        let size = image::size(file);
        let len = 1usize << rng.u32(0..19);
        Piece {
            target: rng.usize(0..self.targets.len()),
            file,
            at: if rng.u8(0..8) == 0 { size.saturating_sub(100) } else { rng.u64(0..size) },
            len: rng.usize(len / 2 + 1..=len),
            afresh: rng.bool(),
            how: weighted(&mut rng, &[(14, How::Read), (3, How::Map), (2, How::Run)]),
        }
    }

    fn read(&self, desk: &Desk, slot: usize, piece: &Piece) -> io::Result<Found> {
        let path = self.targets[piece.target].join(image::name(piece.file));
        desk.timed(
            slot,
            || self.words(piece),
            || {
                match piece.how {
                    How::Run => {
                        let ran = program::run(&self.targets[piece.target], &image::name(piece.file));
                        return ran.map(Found::Sum);
                    }
                    How::Map => {
                        return mapped::read(&path, piece.at, piece.len, piece.afresh).map(Found::Bytes);
                    }
                    How::Read => {}
                }
                let file = File::open(&path)?;
                if piece.afresh {
                    fadvise(&file, 0, None, Advice::DontNeed)?;
                }
                let mut bytes = vec![0; piece.len];
                let len = read_until_end(&file, &mut bytes, piece.at)?;
                bytes.truncate(len);
                Ok(Found::Bytes(bytes))
            },
        )
    }

    /// Counts a read; wrong bytes are a violation, an error is the caller's to judge.
    fn judge(&self, desk: &Desk, piece: &Piece, read: io::Result<Found>) -> Result<(), String> {
        let bytes = match read {
            Ok(Found::Bytes(bytes)) => bytes,
            Ok(Found::Sum(sum)) => {
                self.judge_sum(desk, piece, &sum);
                return Ok(());
            }
            Err(error) => {
                let name = errno_name(&error);
                desk.tally().read(name.clone(), 0);
                return Err(name);
            }
        };
        let left = image::size(piece.file) - piece.at;
        let expected = (piece.len as u64).min(left);
        let verdict = truth::check(self.truths[usize::try_from(piece.file).unwrap_or(0)], piece.at, &bytes);
        let wrong = match verdict {
            Err(wrong) => Some(wrong.to_string()),
            Ok(()) if bytes.len() as u64 != expected => {
                Some(format!("{} bytes instead of {expected}", bytes.len()))
            }
            Ok(()) => None,
        };
        let mut tally = desk.tally();
        match wrong {
            Some(wrong) => {
                tally.read("wrong", bytes.len());
                tally.violate(Violation::new(Kind::WrongBytes, format!("{}: {wrong}", self.words(piece))));
            }
            None => {
                tally.read("right", bytes.len());
                if piece.how == How::Map {
                    tally.did("piece read through a mapping");
                }
            }
        }
        Ok(())
    }

    fn judge_sum(&self, desk: &Desk, piece: &Piece, found: &str) {
        let expected = &self.sums[usize::try_from(piece.file).unwrap_or(0)];
        let mut tally = desk.tally();
        if found == expected {
            tally.read("right", usize::try_from(image::size(piece.file)).unwrap_or(0));
            tally.did("program run from the image");
            return;
        }
        tally.read("wrong", 0);
        let again = self.look_again(piece);
        let what = format!("{}: {found} instead of {expected}; read again: {again}", self.words(piece));
        tally.violate(Violation::new(Kind::WrongBytes, what));
    }

    /// What is wrong with a whole file, if it still is: what was read stays in the page cache.
    fn look_again(&self, piece: &Piece) -> String {
        let path = self.targets[piece.target].join(image::name(piece.file));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => return error.to_string(),
        };
        let verdict = truth::check(self.truths[usize::try_from(piece.file).unwrap_or(0)], 0, &bytes);
        verdict.map_or_else(|wrong| wrong.to_string(), |()| format!("{} right bytes", bytes.len()))
    }

    fn words(&self, piece: &Piece) -> String {
        let path = self.targets[piece.target].join(image::name(piece.file));
        if piece.how == How::Run {
            return format!("run of {} on {}", program::NAME, path.display());
        }
        let afresh = if piece.afresh { ", pages dropped first" } else { "" };
        let how = if piece.how == How::Map { "read through a mapping" } else { "read" };
        format!("{how} of {} bytes at {} of {}{afresh}", piece.len, piece.at, path.display())
    }
}

/// Reads until `buf` is full or the file has ended; returns how much it was.
pub fn read_until_end(file: &File, mut buf: &mut [u8], mut at: u64) -> io::Result<usize> {
    let asked = buf.len();
    while !buf.is_empty() {
        match file.read_at(buf, at) {
            Ok(0) => break,
            Ok(len) => {
                buf = &mut buf[len..];
                at += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(asked - buf.len())
}
