//! [`Server`]: everything that is decided about the tree's server before a round begins.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use larder_testkit::Behaviour;

use super::FILES;

/// Deeds of a round. Many: what is cached of a version can be read on, so that only the first reads of each have anything to
/// mix.
const DEEDS: Range<u8> = 16..64;

/// What happens to the server.
#[derive(Clone, Debug)]
pub enum Deed {
    /// It gets the next version of this file.
    Overwrite(u64),
    /// It treats the next so many requests so.
    Misbehave(usize, Behaviour),
}

impl Deed {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Overwrite(_) => "file of the tree overwritten",
            Self::Misbehave(..) => "tree's server misbehaved",
        }
    }
}

/// The server of a round.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// How it is.
    pub usual: Behaviour,
    /// What happens after how many steps of all readers together.
    pub script: Vec<(u64, Deed)>,
}

impl Server {
    /// Decides about a round of so many steps.
    pub fn decide(rng: &mut Rng, latency: Duration, steps: u64) -> Self {
        let usual = Behaviour {
            no_etag: rng.u8(0..3) == 0,
            ignores_conditions: rng.u8(0..3) == 0,
            delays_ms: u64::try_from(latency.as_millis()).unwrap_or(0),
            ..Behaviour::default()
        };
        let misbehaves = rng.bool();
        let deed = |rng: &mut Rng| {
            if misbehaves && rng.u8(0..3) == 0 {
                return Deed::Misbehave(rng.usize(1..8), misbehaviour(rng, usual));
            }
            Deed::Overwrite(choose(rng))
        };
        let mut script: Vec<_> = (0..rng.u8(DEEDS)).map(|_| (rng.u64(0..steps), deed(rng))).collect();
        script.sort_by_key(|(step, _)| *step);
        Self { usual, script }
    }

    /// Whether it does what a reader may get an error for.
    pub fn misbehaves(&self) -> bool {
        self.script.iter().any(|(_, deed)| matches!(deed, Deed::Misbehave(..)))
    }
}

/// A file for whoever reads or overwrites one. Every second time it is the same, so that they meet.
pub fn choose(rng: &mut Rng) -> u64 {
    if rng.bool() { 0 } else { rng.u64(0..FILES) }
}

/// One of the ways in which a web server fails, of those that end by themselves.
fn misbehaviour(rng: &mut Rng, usual: Behaviour) -> Behaviour {
    match rng.u8(0..8) {
        0 => Behaviour { refuses: Some("503 Service Unavailable"), ..usual },
        1 => Behaviour { refuses: Some("500 Internal Server Error"), ..usual },
        2 => Behaviour { refuses: Some("404 Not Found"), ..usual },
        3 => Behaviour { ignores_ranges: true, ..usual },
        4 => Behaviour { delays_ms: rng.u64(10..500), ..usual },
        _ => Behaviour { cuts_after: Some(rng.usize(0..1_000_000)), ..usual },
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.usual.no_etag { ", no ETag" } else { "" })?;
        f.write_str(if self.usual.ignores_conditions { ", no conditions" } else { "" })?;
        for (step, deed) in &self.script {
            write!(f, ", {}@{step}", deed.name())?;
        }
        Ok(())
    }
}
