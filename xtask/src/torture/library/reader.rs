//! [`Reader`]: a thread that reads random pieces of random objects and compares each byte with the truth.

use std::sync::Arc;
use std::thread::JoinHandle;

use larder_fscache::ObjectRange;

use super::super::desk::Desk;
use super::super::dice::{Dice, weighted};
use super::super::truth;
use super::super::violation::{Kind, Violation};
use super::contents::{Contents, OBJECTS, size, truth_of};
use super::plan::{Round, STEPS};
use super::play::Room;
use super::world::{Failure, Manner, World};

/// The granule of presence: with holes as zeros, a block is there or it is not.
const BLOCK_BYTES: u64 = 4096;

/// A reader.
pub struct Reader {
    number: usize,
    dice: Dice,
    contents: Arc<Contents>,
    may_fail: bool,
    /// Whether objects are closed now and then, so that they can be culled.
    closes: bool,
}

/// One read.
struct Piece {
    object: usize,
    want: ObjectRange,
    manner: Manner,
    /// Whether the object is closed afterwards.
    closes: bool,
}

impl Reader {
    /// A reader.
    pub fn new(number: usize, dice: Dice, contents: &Arc<Contents>, round: &Round) -> Self {
        let dice = dice.of("reader", number as u64);
        Self {
            number,
            dice,
            contents: Arc::clone(contents),
            may_fail: round.may_fail(),
            closes: round.quota.is_some(),
        }
    }

    /// Reads while things go wrong.
    pub fn start(self, desk: &Arc<Desk>, room: &Arc<Room>) -> JoinHandle<()> {
        let (desk, room) = (Arc::clone(desk), Arc::clone(room));
        std::thread::spawn(move || {
            for step in (0..STEPS).take_while(|_| !desk.is_stopped()) {
                let piece = self.piece(step);
                let words = || format!("reader {} at step {step}: {}", self.number, piece.words());
                let read = desk.timed(self.number, words, || {
                    let Some(world) = room.enter(&desk) else { return Ok(()) };
                    let read = self.read(&world, &desk, &piece);
                    if piece.closes {
                        world.make_idle(piece.object);
                    }
                    read
                });
                let Err(error) = read else { continue };
                desk.tally().read(error.name.clone(), 0);
                if !self.may_fail && piece.manner == Manner::Fill {
                    let what = format!("{}: {error}, and nothing had failed", words());
                    desk.tally().violate(Violation::new(Kind::Error, what));
                }
            }
        })
    }

    fn piece(&self, step: u64) -> Piece {
        let mut rng = self.dice.at(step);
        let object = rng.usize(0..OBJECTS);
        let size = size(object);
        let at = rng.u64(0..size);
        let reach = 1 << rng.u32(1..19);
        let len = rng.u64(1..=reach);
        let closes = self.closes && rng.bool();
        let manner = weighted(&mut rng, &[(8, Manner::Fill), (1, Manner::Present), (1, Manner::Clear)]);
        Piece { object, want: ObjectRange::at(at, len.min(size - at)), manner, closes }
    }

    fn read(&self, world: &World, desk: &Desk, piece: &Piece) -> Result<(), Failure> {
        let opened = world.blob(piece.object, &self.contents)?;
        let bytes = world.read(&opened, piece.want, piece.manner)?;
        let found = check(truth_of(piece.object, opened.version), piece, bytes.as_slice());
        let mut tally = desk.tally();
        match found {
            Ok(()) => tally.read("right", bytes.len()),
            Err(wrong) => {
                tally.read("wrong", bytes.len());
                let what = format!(
                    "reader {}: version {} of {}: {wrong}",
                    self.number,
                    opened.version,
                    piece.words()
                );
                tally.violate(Violation::new(Kind::WrongBytes, what));
            }
        }
        Ok(())
    }
}

impl Piece {
    fn words(&self) -> String {
        format!("object {}, {}, {:?}", self.object, self.want, self.manner)
    }
}

/// Compares; where holes are zeros, each block by itself.
fn check(number: u64, piece: &Piece, bytes: &[u8]) -> Result<(), String> {
    if bytes.len() as u64 != piece.want.len() {
        return Err(format!("{} bytes", bytes.len()));
    }
    if piece.manner != Manner::Clear {
        return truth::check(number, piece.want.start(), bytes).map_err(|wrong| wrong.to_string());
    }
    let (mut at, mut rest) = (piece.want.start(), bytes);
    while !rest.is_empty() {
        let len = usize::try_from(BLOCK_BYTES - at % BLOCK_BYTES).unwrap_or(rest.len()).min(rest.len());
        let (block, later) = rest.split_at(len);
        if block.iter().any(|byte| *byte != 0) {
            truth::check(number, at, block)
                .map_err(|wrong| format!("in a block that is no hole: {wrong}"))?;
        }
        at += len as u64;
        rest = later;
    }
    Ok(())
}

/// Reads an object whole; used when nothing goes wrong any more.
pub fn read_whole(
    world: &World,
    contents: &Contents,
    object: usize,
    manner: Manner,
) -> Result<Option<Violation>, Failure> {
    let opened = world.blob(object, contents)?;
    let piece = Piece { object, want: ObjectRange::at(0, size(object)), manner, closes: false };
    let bytes = world.read(&opened, piece.want, manner)?;
    let found = check(truth_of(object, opened.version), &piece, &bytes);
    Ok(found.err().map(|wrong| {
        Violation::new(
            Kind::WrongBytes,
            format!("afterwards: version {} of {}: {wrong}", opened.version, piece.words()),
        )
    }))
}
