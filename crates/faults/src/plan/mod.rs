//! [`Plan`]: which fault strikes at which visit of which site.

mod text;

use std::path::{Path, PathBuf};

use crate::{Error, Power, Site};

/// Rates are parts of this.
const MILLION: u32 = 1_000_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The call fails with EIO.
    Eio,
    /// The call fails with ENOSPC.
    Enospc,
    /// The call fails with EMFILE.
    Emfile,
    /// The call fails with ENOMEM.
    Enomem,
    /// The call fails with EINTR.
    Eintr,
    /// The call moves fewer bytes than it was asked to.
    Short,
    /// The thread waits a moment, so that others overtake it.
    Pause,
    /// The process kills itself with SIGKILL.
    Die,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: &'static [Self] = &[
        Self::Eio,
        Self::Enospc,
        Self::Emfile,
        Self::Enomem,
        Self::Eintr,
        Self::Short,
        Self::Pause,
        Self::Die,
    ];

    /// The name, as in the text of a plan.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eio => "eio",
            Self::Enospc => "enospc",
            Self::Emfile => "emfile",
            Self::Enomem => "enomem",
            Self::Eintr => "eintr",
            Self::Short => "short",
            Self::Pause => "pause",
            Self::Die => "die",
        }
    }

    /// Finds a kind by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it can strike at `site`.
    pub const fn strikes(self, site: Site) -> bool {
        match self {
            Self::Pause | Self::Die => true,
            Self::Short => matches!(site.power(), Power::Transfer),
            _ => !matches!(site.power(), Power::Step),
        }
    }
}

/// What a plan has in store for one visit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Strike {
    pub kind: Kind,
    /// Decides the size of the fault: how short, how long a pause.
    pub roll: u16,
    /// Whether it happens however much of the budget is spent.
    pub certain: bool,
}

/// Rates of faults by site and kind, visits that are the last, a seed and a budget.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    seed: u64,
    budget: u64,
    state: Option<PathBuf>,
    /// By site and kind, in parts per million of the visits.
    rates: Vec<[u32; Kind::ALL.len()]>,
    deaths: Vec<(Site, u64)>,
}

impl Plan {
    /// A plan without faults.
    pub fn new(seed: u64) -> Self {
        let none = [0; Kind::ALL.len()];
        Self { seed, budget: u64::MAX, state: None, rates: vec![none; Site::ALL.len()], deaths: Vec::new() }
    }

    /// Reads the text that [`install_text`](crate::install_text) describes; `to_string` writes it.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        text::parse(text)
    }

    /// Lets at most `faults` happen, certain deaths apart.
    #[must_use]
    pub fn budget(mut self, faults: u64) -> Self {
        self.budget = faults;
        self
    }

    /// Counts in the file at `path`, which [`State::create`](crate::State::create) has made.
    #[must_use]
    pub fn state(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some(path.into());
        self
    }

    /// Lets `kind` strike at `site` in `rate` of a million visits.
    ///
    /// # Errors
    ///
    /// [`Error::Powerless`] when it cannot, [`Error::Rates`] when the rates of the site add up to more than a million.
    pub fn rate(mut self, site: Site, kind: Kind, rate: u32) -> Result<Self, Error> {
        if !kind.strikes(site) {
            return Err(Error::Powerless { site: site.name(), kind: kind.name() });
        }
        let rates = &mut self.rates[site.index()];
        rates[kind.index()] = rate;
        let sum: u64 = rates.iter().copied().map(u64::from).sum();
        if sum > u64::from(MILLION) {
            return Err(Error::Rates { site: site.name() });
        }
        Ok(self)
    }

    /// Lets the process die at the `nth` visit of `site`, counted from 1, as soon as that is reached.
    #[must_use]
    pub fn die_at(mut self, site: Site, nth: u64) -> Self {
        self.deaths.push((site, nth));
        self
    }

    /// How many faults may happen, certain deaths apart.
    pub(crate) fn limit(&self) -> u64 {
        self.budget
    }

    /// The file with the counters.
    pub(crate) fn state_path(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// What strikes at the `nth` visit of `site`, counted from 1. Pure.
    pub(crate) fn strike(&self, site: Site, nth: u64) -> Option<Strike> {
        let draw = mix(self.seed ^ mix(name_hash(site.name())) ^ mix(nth.wrapping_add(1 << 63)));
        let [low, high, ..] = draw.to_le_bytes();
        let roll = u16::from_le_bytes([low, high]);
        if self.deaths.contains(&(site, nth)) {
            return Some(Strike { kind: Kind::Die, roll, certain: true });
        }
        // The upper 48 bits: those that `roll` does not use.
        let mut point = (draw >> 16) % u64::from(MILLION);
        for kind in Kind::ALL {
            let rate = u64::from(self.rates[site.index()][kind.index()]);
            if point < rate {
                return Some(Strike { kind: *kind, roll, certain: false });
            }
            point -= rate;
        }
        None
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `value`.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// FNV-1a. By name and not by place, so that a new site leaves the decisions at the others as they were.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_strikes_the_same_visits_and_another_seed_others() {
        let plan = |seed| Plan::new(seed).rate(Site::CachefilesPwrite, Kind::Eio, 100_000).expect("possible");
        let struck = |seed| -> Vec<u64> {
            let plan = plan(seed);
            (1..=2000).filter(|nth| plan.strike(Site::CachefilesPwrite, *nth).is_some()).collect()
        };
        assert_eq!(struck(7), struck(7));
        assert_ne!(struck(7), struck(8));
        assert!((150..250).contains(&struck(7).len()), "{} of 2000 at one in ten", struck(7).len());
    }

    #[test]
    fn rates_are_kept_by_kind_and_site() {
        let plan = Plan::new(3)
            .rate(Site::CachefilesPwrite, Kind::Eio, 200_000)
            .and_then(|plan| plan.rate(Site::CachefilesPwrite, Kind::Short, 300_000))
            .expect("possible");
        let count = |site, kind| {
            let hit = |nth: &u64| plan.strike(site, *nth).is_some_and(|strike| strike.kind == kind);
            (1..=10_000).filter(hit).count()
        };
        assert!((1800..2200).contains(&count(Site::CachefilesPwrite, Kind::Eio)));
        assert!((2700..3300).contains(&count(Site::CachefilesPwrite, Kind::Short)));
        assert_eq!(count(Site::CachefilesPwrite, Kind::Die), 0);
        assert_eq!(count(Site::CachefilesPread, Kind::Eio), 0);
    }

    #[test]
    fn how_hard_a_fault_strikes_does_not_follow_from_its_kind() {
        let plan = Plan::new(5).rate(Site::CachefilesPwrite, Kind::Short, 10_000).expect("possible");
        let rolls: Vec<u16> = (1..=100_000)
            .filter_map(|nth| plan.strike(Site::CachefilesPwrite, nth))
            .map(|strike| strike.roll)
            .collect();
        let low = rolls.iter().filter(|roll| **roll < 1 << 15).count();
        assert!((rolls.len() / 3..rolls.len() * 2 / 3).contains(&low), "{low} of {}", rolls.len());
    }

    #[test]
    fn what_a_site_cannot_have_is_refused() {
        let refused = Plan::new(1).rate(Site::OndemandBooked, Kind::Eio, 1).expect_err("a step");
        assert!(matches!(refused, Error::Powerless { site: "ondemand.booked", kind: "eio" }), "{refused:?}");
        let refused = Plan::new(1).rate(Site::CachefilesRename, Kind::Short, 1).expect_err("no transfer");
        assert!(matches!(refused, Error::Powerless { .. }), "{refused:?}");
        let refused = Plan::new(1)
            .rate(Site::CachefilesPread, Kind::Eio, 600_000)
            .and_then(|plan| plan.rate(Site::CachefilesPread, Kind::Short, 600_000))
            .expect_err("more than certain");
        assert!(matches!(refused, Error::Rates { .. }), "{refused:?}");
    }
}
