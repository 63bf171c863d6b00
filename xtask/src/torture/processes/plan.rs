//! [`Round`]: everything that is decided about a round before it begins.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use larder_faults::{Plan, Site};
use larder_testkit::Fault;

use super::super::dice::{Dice, weighted};
use super::super::plan::{self, Weather};
use super::daemon::TREE;
use super::tree::Server;

/// Steps that each reader does.
pub const STEPS: u64 = 40;

/// Deeds of a round, the second one excluded. Most of what a round takes is its beginning and its end.
const DEEDS: std::ops::Range<u8> = 2..48;

/// Faults of a round, deaths apart.
const BUDGET: u64 = 200;

/// What somebody does to Larder from outside.
#[derive(Clone, Debug)]
pub enum Deed {
    /// `kill -9` of the worker.
    KillWorker,
    /// `kill -9` of the keeper.
    KillKeeper,
    /// SIGHUP: the worker makes way for another.
    Upgrade,
    /// The registry meets the next request for a blob with this.
    Lie(Fault),
    /// `larder daemon --replace`, said by a program at another place.
    Replace,
    /// The disk is full for so long.
    FillDisk(Duration),
    /// The daemon may have only so many mebibytes of memory, for so long.
    Squeeze(u64, Duration),
    /// Unmounted, lazily, and mounted again.
    Remount(&'static str),
}

impl Deed {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::KillWorker => "worker killed",
            Self::KillKeeper => "keeper killed",
            Self::Upgrade => "worker replaced",
            Self::Replace => "program replaced",
            Self::FillDisk(_) => "disk filled",
            Self::Squeeze(..) => "memory squeezed",
            Self::Lie(_) => "registry misbehaved",
            Self::Remount(_) => "remounted while read",
        }
    }
}

/// Who dies in a round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mood {
    Nobody,
    Worker,
    Keeper,
    /// Worker, by what is short: the disk, the memory.
    Scarce,
}

/// A round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The front ends, one mount each; a tree counts as one.
    pub front_ends: Vec<&'static str>,
    /// The tree's server.
    pub server: Server,
    /// Which image.
    pub image: usize,
    /// Whether the cache is emptied first.
    pub wipe: bool,
    /// How long the registry takes for each answer.
    pub latency: Duration,
    /// How far the daemon's clocks, those that do not tell the time of day, are ahead of the host's, in seconds.
    pub clock_ahead: u32,
    /// How many threads read.
    pub readers: usize,
    /// What happens after how many steps of all readers together.
    pub script: Vec<(u64, Deed)>,
    /// The last thing that some process does, and at which visit.
    death: Option<(Site, u64)>,
    weather: Weather,
    /// Whether faults strike while everything is unmounted.
    pub faults_at_the_end: bool,
    /// Whether somebody brings a daemon back that has given up.
    pub is_looked_after: bool,
}

/// Every set of front ends that is used.
pub fn sets(works: &[&'static str]) -> Vec<Vec<&'static str>> {
    // A tree needs what `fuse` needs.
    let trees = works.contains(&"fuse").then_some(TREE);
    let all: Vec<_> = works.iter().copied().chain(trees).collect();
    let mut sets: Vec<_> = all.iter().map(|one| vec![*one]).collect();
    if all.len() > 1 {
        sets.push(all);
    }
    sets
}

impl Round {
    /// A round in which nothing goes wrong.
    pub fn quiet(front_ends: Vec<&'static str>) -> Self {
        Self {
            front_ends,
            server: Server::default(),
            image: 0,
            wipe: true,
            latency: Duration::ZERO,
            clock_ahead: 0,
            readers: 4,
            script: Vec::new(),
            death: None,
            weather: Weather { errors: false, pauses: false },
            faults_at_the_end: false,
            is_looked_after: false,
        }
    }

    /// Decides a round.
    pub fn decide(dice: Dice, works: &[&'static str], images: u64) -> Self {
        let mut rng = dice.of("round", 0).at(0);
        let sets = sets(works);
        let front_ends = sets[rng.usize(0..sets.len())].clone();
        let mood =
            weighted(&mut rng, &[(2, Mood::Nobody), (6, Mood::Worker), (3, Mood::Keeper), (3, Mood::Scarce)]);
        let readers = rng.usize(3..8);
        let mut round = Self {
            image: usize::try_from(rng.u64(0..images)).unwrap_or(0),
            wipe: rng.u8(0..3) > 0,
            latency: Duration::from_millis(weighted(&mut rng, &[(1, 0), (2, 2), (2, 10), (1, 40)])),
            clock_ahead: if rng.u8(0..4) == 0 { rng.u32(1..100_000_000) } else { 0 },
            readers,
            script: Vec::new(),
            death: death(&mut rng, mood),
            weather: Weather { errors: rng.bool(), pauses: rng.bool() },
            faults_at_the_end: rng.bool(),
            is_looked_after: dice.of("round", 1).at(0).u8(0..4) > 0,
            front_ends,
            server: Server::default(),
        };
        // Once for all: a round in which nothing at all may fail would be rare otherwise.
        let (lies, remounts) = (rng.bool(), rng.bool());
        let total = STEPS * readers as u64;
        for _ in 0..rng.u8(DEEDS) {
            let deed = match mood {
                _ if lies && rng.u8(0..3) == 0 => Deed::Lie(plan::lie(&mut rng)),
                Mood::Worker if rng.u8(0..6) == 0 => Deed::Upgrade,
                Mood::Worker if rng.u8(0..6) == 0 => Deed::Replace,
                Mood::Worker => Deed::KillWorker,
                Mood::Keeper => Deed::KillKeeper,
                Mood::Scarce => scarcity(&mut rng),
                Mood::Nobody if rng.bool() => Deed::Upgrade,
                Mood::Nobody if !remounts || rng.bool() => Deed::Replace,
                Mood::Nobody => Deed::Remount(round.front_ends[rng.usize(0..round.front_ends.len())]),
            };
            round.script.push((rng.u64(0..total), deed));
        }
        if round.has_tree() {
            round.server = Server::decide(&mut dice.of("tree", 0).at(0), round.latency, total);
        }
        round.script.sort_by_key(|(step, _)| *step);
        round
    }

    /// Whether a tree is mounted.
    pub fn has_tree(&self) -> bool {
        self.front_ends.contains(&TREE)
    }

    /// The front ends through which the image is mounted.
    pub fn image_front_ends(&self) -> impl Iterator<Item = &'static str> {
        self.front_ends.iter().copied().filter(|front_end| *front_end != TREE)
    }

    /// Whether a reader reads the tree, and not the image: where both are mounted, every second one does.
    pub fn reads_tree(&self, reader: usize) -> bool {
        self.has_tree() && (self.front_ends.len() == 1 || reader % 2 == 1)
    }

    /// Whether no call fails and nobody dies at a point of its own: what is asked of the daemon must work then.
    pub fn is_fair(&self) -> bool {
        !self.weather.errors && self.death.is_none()
    }

    /// Whether a mount can be away while it is read.
    pub fn remounts(&self) -> bool {
        self.script.iter().any(|(_, deed)| matches!(deed, Deed::Remount(_)))
    }

    /// Whether a reader of the image may get an error while the round lasts.
    pub fn may_fail(&self) -> bool {
        let is_harmless = |deed: &Deed| matches!(deed, Deed::Upgrade | Deed::Replace);
        !self.is_fair() || self.script.iter().any(|(_, deed)| !is_harmless(deed))
    }

    /// Whether a reader of the tree may get an error whose cause is not that the file was overwritten. A full disk is none:
    /// what cannot be cached is read all the same.
    pub fn tree_may_fail(&self) -> bool {
        let is_harmless =
            |deed: &Deed| matches!(deed, Deed::Upgrade | Deed::Replace | Deed::Lie(_) | Deed::FillDisk(_));
        let is_harmful = |(_, deed): &(u64, Deed)| !is_harmless(deed);
        !self.is_fair() || self.server.misbehaves() || self.script.iter().any(is_harmful)
    }

    /// The plan for the fault points.
    pub fn faults(&self, dice: Dice, state: &Path) -> anyhow::Result<Plan> {
        let plan = Plan::new(dice.of("faults", 0).seed()).budget(BUDGET).state(state);
        let plan = plan::faults(plan, self.weather)?;
        Ok(match self.death {
            Some((site, nth)) => plan.die_at(site, nth),
            None => plan,
        })
    }
}

fn scarcity(rng: &mut fastrand::Rng) -> Deed {
    let lasts = Duration::from_millis(rng.u64(200..2000));
    match rng.u8(0..3) {
        0 => Deed::FillDisk(lasts),
        // Some of these are less than a worker has, some are about what it needs.
        1 => Deed::Squeeze(1 << rng.u32(3..7), lasts),
        _ => Deed::KillWorker,
    }
}

/// Sites at which keepers may die. Not while none of its workers lives: that would be a second death.
const KEEPER_SITES: [Site; 2] = [Site::KeeperReceive, Site::KeeperStored];

/// Layers that live in the worker.
const WORKER_LAYERS: [&str; 6] = ["cachefiles", "remote", "ondemand", "netfs", "mount", "larder"];

fn death(rng: &mut fastrand::Rng, mood: Mood) -> Option<(Site, u64)> {
    let sites: Vec<Site> = match mood {
        Mood::Nobody | Mood::Scarce => return None,
        Mood::Keeper => KEEPER_SITES.to_vec(),
        Mood::Worker => {
            Site::ALL.iter().copied().filter(|site| WORKER_LAYERS.contains(&site.layer())).collect()
        }
    };
    let site = sites[rng.usize(0..sites.len())];
    // Most sites see few visits, some thousands: small numbers reach the one, large ones the middle of the other.
    let reach = 1 << rng.u32(0..9);
    Some((site, rng.u64(1..=reach)))
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "processes, {}, image {}, {} readers",
            self.front_ends.join("+"),
            self.image,
            self.readers
        )?;
        for (is_so, words) in [(self.wipe, ", empty cache"), (self.faults_at_the_end, ", faults to the end")]
        {
            f.write_str(if is_so { words } else { "" })?;
        }
        write!(f, ", latency {:?}{}", self.latency, self.weather)?;
        if self.clock_ahead > 0 {
            write!(f, ", clocks {} s ahead", self.clock_ahead)?;
        }
        if let Some((site, nth)) = self.death {
            write!(f, ", death at {}@{nth}", site.name())?;
        }
        for (step, deed) in &self.script {
            write!(f, ", {}@{step}", deed.name())?;
        }
        write!(f, "{}", self.server)
    }
}
