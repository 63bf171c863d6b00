//! [`Round`]: everything that is decided about a round before it begins.

use std::fmt;
use std::time::Duration;

use larder_faults::Plan;
use larder_testkit::Fault;

use super::super::dice::{Dice, weighted};
use super::super::plan::{self, Weather};
use super::contents::{OBJECTS, VERSIONS};
use super::disk;

/// Steps that each reader does.
pub const STEPS: u64 = 150;

/// The largest object, its map, and what culling keeps free fit into this.
const QUOTA_MIN: u64 = 3 << 20;

/// Faults of a round.
const BUDGET: u64 = 400;

/// How a cache is opened again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Everything was made durable.
    Clean,
    /// The worker died: a keeper has its live maps.
    Death,
    /// The machine started again: only what is durable counts.
    Boot,
}

/// What is done to the cache while it is read.
#[derive(Clone, Debug)]
pub enum Deed {
    /// The registry meets the next request with this.
    Lie(Fault),
    /// An object is closed and given back.
    Close(usize),
    /// And its bytes are removed.
    Retire(usize),
    /// Its bytes are dropped while it is used.
    Invalidate(usize),
    /// It becomes another version.
    Replace(usize, usize),
    /// It gets shorter and as long again.
    Resize(usize),
    /// It is brought at leisure.
    Prefetch(usize),
    /// What it has becomes durable.
    Commit(usize),
    /// Objects that nobody uses are closed.
    DiscardIdle,
    /// Everything is taken away under its users, and opened again.
    Withdraw,
    /// The cache is opened again.
    Reopen(Ending),
    /// So many bytes of what nobody uses are removed.
    Cull(u64),
    /// Upkeep: limits, graveyard, index.
    Maintain,
    /// An object is kept from being culled, or not any more.
    Pin(usize, bool),
    /// Another program takes the disk.
    Squeeze(u64),
    /// And gives it back.
    Relax,
}

impl Deed {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lie(_) => "registry misbehaved",
            Self::Close(_) => "object closed",
            Self::Retire(_) => "object retired",
            Self::Invalidate(_) => "object invalidated",
            Self::Replace(..) => "object replaced by another version",
            Self::Resize(_) => "object resized",
            Self::Prefetch(_) => "object prefetched",
            Self::Commit(_) => "object committed",
            Self::DiscardIdle => "idle objects closed",
            Self::Withdraw => "cache withdrawn",
            Self::Reopen(Ending::Clean) => "cache opened again after a clean end",
            Self::Reopen(Ending::Death) => "cache opened again after a death",
            Self::Reopen(Ending::Boot) => "cache opened again after a boot",
            Self::Cull(_) => "cache culled",
            Self::Maintain => "cache maintained",
            Self::Pin(_, true) => "object pinned",
            Self::Pin(_, false) => "object unpinned",
            Self::Squeeze(_) => "disk filled by others",
            Self::Relax => "disk relieved",
        }
    }
}

/// A round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Where the cache lies.
    pub disk: disk::Kind,
    /// The most bytes that objects may take: less than all of them together.
    pub quota: Option<u64>,
    /// How many threads read.
    pub readers: usize,
    /// How long the registry takes for each answer.
    pub latency: Duration,
    /// What happens after how many steps of all readers together.
    pub script: Vec<(u64, Deed)>,
    weather: Weather,
}

impl Round {
    /// A round in which nothing goes wrong.
    pub fn quiet() -> Self {
        let weather = Weather { errors: false, pauses: false };
        Self {
            disk: disk::Kind::Directory,
            quota: None,
            readers: 3,
            latency: Duration::ZERO,
            script: Vec::new(),
            weather,
        }
    }

    /// Decides a round.
    pub fn decide(dice: Dice, disks: &[disk::Kind]) -> Self {
        let mut rng = dice.of("library", 0).at(0);
        let readers = rng.usize(2..9);
        let total = STEPS * readers as u64;
        let mut script: Vec<(u64, Deed)> =
            (0..rng.u8(5..40)).map(|_| (rng.u64(0..total), deed(&mut rng))).collect();
        script.sort_by_key(|(step, _)| *step);
        Self {
            disk: disks[rng.usize(0..disks.len())],
            quota: (rng.u8(0..3) == 0).then(|| rng.u64(QUOTA_MIN..2 * QUOTA_MIN)),
            readers,
            latency: Duration::from_millis(weighted(&mut rng, &[(2, 0), (2, 1), (1, 10)])),
            script,
            weather: Weather { errors: rng.u8(0..3) > 0, pauses: rng.bool() },
        }
    }

    /// Whether a reader may get an error while the round lasts.
    pub fn may_fail(&self) -> bool {
        self.weather.errors
            || !self.script.is_empty()
            || self.quota.is_some()
            || self.disk != disk::Kind::Directory
    }

    /// The plan for the fault points.
    pub fn faults(&self, dice: Dice) -> anyhow::Result<Plan> {
        plan::faults(Plan::new(dice.of("faults", 0).seed()).budget(BUDGET), self.weather)
    }
}

fn deed(rng: &mut fastrand::Rng) -> Deed {
    let object = rng.usize(0..OBJECTS);
    match rng.u8(0..36) {
        0..4 => Deed::Lie(lie(rng)),
        4..6 => Deed::Close(object),
        6..8 => Deed::Retire(object),
        8..11 => Deed::Invalidate(object),
        11..14 => Deed::Replace(object, rng.usize(0..VERSIONS)),
        14..16 => Deed::Resize(object),
        16 => Deed::Prefetch(object),
        17..20 => Deed::Commit(object),
        20 => Deed::DiscardIdle,
        21 => Deed::Withdraw,
        22 => Deed::Reopen(Ending::Clean),
        23 => Deed::Reopen(Ending::Death),
        24 => Deed::Reopen(Ending::Boot),
        25 => Deed::Squeeze(rng.u64(1 << 20..16 << 20)),
        28..31 => Deed::Cull(rng.u64(1..4 << 20)),
        31..33 => Deed::Maintain,
        33 => Deed::Pin(object, true),
        34 => Deed::Pin(object, false),
        _ => Deed::Relax,
    }
}

fn lie(rng: &mut fastrand::Rng) -> Fault {
    match rng.u8(0..5) {
        0 => Fault::StallBody { after: rng.u64(0..50_000) },
        1 => Fault::ContentEncoding("gzip".into()),
        _ => plan::lie(rng),
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "library on {:?}, quota {:?}, {} readers, latency {:?}{}",
            self.disk, self.quota, self.readers, self.latency, self.weather
        )?;
        for (step, deed) in &self.script {
            write!(f, ", {}@{step}", deed.name())?;
        }
        Ok(())
    }
}
