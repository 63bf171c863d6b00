//! [`Ledger`]: how much the cache has, kept without asking the disk.
//!
//! What a write may take is drawn from the ledger *before* the write. Each object is charged with an upper
//! bound of what it takes; whenever it is looked at, the bound is replaced by the figure of `stat`. So
//! the sum is never below what the objects really take, and the quota is never passed.
//!
//! The file system is asked for its free space only when a budget is used up: at most what lies above the stop
//! limit, less what is drawn and not yet written, and at most [`BUDGET_BYTES_MAX`]. As long as nobody else
//! writes to the file system the stop limit is never passed; others can take the rest of one budget unseen.
//!
//! After an unclean end nothing is known but the *reserve*: a figure on the disk that is always raised before
//! the sum may pass it. What of it has not been found again stands as `unknown` until the walk is through.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{Goal, Limits};
use crate::storage::Space;

/// Most bytes, and files, drawn without asking the file system again.
const BUDGET_BYTES_MAX: u64 = 64 << 20;
const BUDGET_FILES_MAX: u64 = 1024;
/// By how much a reserve is raised beyond what is used.
pub(crate) const RESERVE_BYTES: u64 = 64 << 20;

/// The sums. All figures are bytes unless they are named otherwise.
pub(crate) struct Ledger {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Charges of all objects that are known.
    charged: u64,
    /// At most this much is taken by what has not been found yet.
    unknown: u64,
    /// Taken by what waits in the graveyard.
    graves: u64,
    /// On the disk; `used` never passes it.
    reserve: u64,
    in_flight: u64,
    budget: Goal,
    culling: bool,
}

impl State {
    fn used(&self) -> u64 {
        self.charged.saturating_add(self.unknown).saturating_add(self.graves)
    }
}

/// What came of an attempt to draw.
pub(crate) enum Draw<'a> {
    /// Granted; give it back by dropping it when the write has returned.
    Granted(Drawn<'a>),
    /// The reserve on the disk must be raised to this first.
    RaiseReserve(u64),
    /// This much must be freed first.
    Short(Goal),
}

/// Bytes drawn for a write under way. They stay charged.
pub(crate) struct Drawn<'a> {
    ledger: &'a Ledger,
    bytes: u64,
}

impl Drop for Drawn<'_> {
    fn drop(&mut self) {
        self.ledger.lock().in_flight -= self.bytes;
    }
}

impl Ledger {
    /// A ledger of a cache that takes `charged`, and at most `unknown` more.
    pub fn new(limits: Limits, charged: u64, unknown: u64, graves: u64, reserve: u64) -> Self {
        let state = State { charged, unknown, graves, reserve, ..State::default() };
        Self { limits, state: Mutex::new(state) }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Draws `want`, and charges its bytes. Asks for the space of the file system when the budget is used up.
    ///
    /// The lock is held over that question: whoever drew in between would be counted in neither figure.
    pub fn draw(&self, want: Goal, space: impl FnOnce() -> io::Result<Space>) -> io::Result<Draw<'_>> {
        let mut state = self.lock();
        if let Some(quota) = self.limits.quota {
            let used = state.used().saturating_add(want.bytes);
            if used > quota {
                return Ok(Draw::Short(Goal { bytes: used - quota, files: 0 }));
            }
            if used > state.reserve {
                return Ok(Draw::RaiseReserve(used.saturating_add(RESERVE_BYTES)));
            }
        }
        if want.bytes > state.budget.bytes || want.files > state.budget.files {
            let headroom = self.limits.headroom(&space()?);
            let headroom = headroom.less(state.in_flight, 0);
            if want.bytes > headroom.bytes || want.files > headroom.files {
                return Ok(Draw::Short(want.less(headroom.bytes, headroom.files)));
            }
            state.budget = Goal {
                bytes: headroom.bytes.min(BUDGET_BYTES_MAX.max(want.bytes)),
                files: headroom.files.min(BUDGET_FILES_MAX.max(want.files)),
            };
        }
        state.budget = state.budget.less(want.bytes, want.files);
        state.charged = state.charged.saturating_add(want.bytes);
        state.in_flight += want.bytes;
        Ok(Draw::Granted(Drawn { ledger: self, bytes: want.bytes }))
    }

    /// Replaces a charge by another.
    pub fn settle(&self, old: u64, new: u64) {
        let mut state = self.lock();
        state.charged = state.charged.saturating_sub(old).saturating_add(new);
    }

    /// Charges what is found on the disk for the first time.
    pub fn found(&self, charge: u64) {
        let mut state = self.lock();
        state.charged = state.charged.saturating_add(charge);
        state.unknown = state.unknown.saturating_sub(charge);
    }

    /// Everything there is has been found.
    pub fn all_found(&self) {
        self.lock().unknown = 0;
    }

    /// Lowers the reserve to what is used and a little more; returns the new one, to be put on the disk. Until it is
    /// there, more is reserved than has to be.
    pub fn lower_reserve(&self) -> Option<u64> {
        let mut state = self.lock();
        let enough = state.used().saturating_add(RESERVE_BYTES);
        if enough >= state.reserve {
            return None;
        }
        state.reserve = enough;
        Some(enough)
    }

    /// Objects with charges of this sum have gone to the graveyard.
    pub fn buried(&self, charge: u64) {
        let mut state = self.lock();
        state.charged = state.charged.saturating_sub(charge);
        state.graves = state.graves.saturating_add(charge);
    }

    /// This much of the graveyard is gone, or all of it.
    pub fn decayed(&self, bytes: Option<u64>) {
        let mut state = self.lock();
        state.graves = bytes.map_or(0, |bytes| state.graves.saturating_sub(bytes));
    }

    /// The reserve on the disk.
    pub fn reserve(&self) -> u64 {
        self.lock().reserve
    }

    /// The reserve on the disk is now this.
    pub fn set_reserve(&self, reserve: u64) {
        self.lock().reserve = reserve;
    }

    /// Upper bound of what the cache takes.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Charges and graves, for the next start after a clean end.
    pub fn sums(&self) -> (u64, u64) {
        let state = self.lock();
        (state.charged, state.graves)
    }

    /// What upkeep has to cull, and whether that is going on; also lets the budget be asked for anew.
    ///
    /// As long as part of the sum is unknown it may be much too high: upkeep would take away what was used a moment ago.
    /// Then only the disk's own limits count here, while writers are still held to the quota.
    pub fn goal(&self, space: &Space) -> Goal {
        let mut state = self.lock();
        state.budget = Goal::default();
        let used = if state.unknown == 0 { state.used() } else { 0 };
        let goal = self.limits.goal(used, space, state.culling);
        state.culling = !goal.is_reached();
        goal
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn want(bytes: u64) -> Goal {
        Goal { bytes, files: 0 }
    }

    fn plenty() -> io::Result<Space> {
        Ok(Space { bytes: 1 << 40, bytes_free: 1 << 40, files: 0, files_free: 0 })
    }

    fn with_quota(quota: u64, reserve: u64) -> Ledger {
        Ledger::new(Limits { quota: Some(quota), ..Limits::default() }, 0, 0, 0, reserve)
    }

    #[test]
    fn p5_a_quota_is_never_passed_by_a_byte() {
        let ledger = with_quota(10 * MIB, 100 * MIB);
        for _ in 0..10 {
            assert!(matches!(ledger.draw(want(MIB), plenty).expect("space"), Draw::Granted(_)));
        }
        let Draw::Short(short) = ledger.draw(want(1), plenty).expect("space") else { panic!("over quota") };
        assert_eq!((short, ledger.used()), (want(1), 10 * MIB));
        ledger.settle(MIB, 0);
        assert!(matches!(ledger.draw(want(MIB), plenty).expect("space"), Draw::Granted(_)));
    }

    #[test]
    fn p5_what_is_used_never_passes_the_reserve_on_the_disk() {
        let ledger = with_quota(u64::MAX, 0);
        let Draw::RaiseReserve(to) = ledger.draw(want(1), plenty).expect("space") else {
            panic!("no reserve")
        };
        assert_eq!((to, ledger.used()), (1 + RESERVE_BYTES, 0));
        ledger.set_reserve(to);
        assert!(matches!(ledger.draw(want(to), plenty).expect("space"), Draw::Granted(_)));
        assert!(matches!(ledger.draw(want(1), plenty).expect("space"), Draw::RaiseReserve(_)));
    }

    #[test]
    fn p5_the_stop_limit_holds_with_writes_in_flight_and_one_question_a_budget() {
        let ledger = Ledger::new(Limits::default(), 0, 0, 0, 0);
        let space = || Ok(Space { bytes: 100 * MIB, bytes_free: 11 * MIB, files: 0, files_free: 0 });
        let Draw::Granted(first) = ledger.draw(want(6 * MIB), space).expect("asked") else { panic!("room") };
        let unasked = || panic!("the budget suffices");
        let Draw::Granted(second) = ledger.draw(want(4 * MIB), unasked).expect("not asked") else {
            panic!("room")
        };
        // Nothing is written yet, so the file system still says 11 MiB.
        assert!(matches!(ledger.draw(want(1), space).expect("asked"), Draw::Short(_)));
        drop((first, second));
        let after = || Ok(Space { bytes: 100 * MIB, bytes_free: MIB + 1, files: 0, files_free: 0 });
        assert!(matches!(ledger.draw(want(2), after).expect("asked"), Draw::Short(_)));
        assert!(matches!(ledger.draw(want(1), after).expect("asked"), Draw::Granted(_)));
    }

    #[test]
    fn files_have_a_stop_limit_of_their_own() {
        let ledger = Ledger::new(Limits::default(), 0, 0, 0, 0);
        let space = || Ok(Space { bytes: 1 << 40, bytes_free: 1 << 40, files: 1000, files_free: 11 });
        let one = Goal { bytes: 0, files: 1 };
        assert!(matches!(ledger.draw(one, space).expect("asked"), Draw::Granted(_)));
        let Draw::Short(short) = ledger.draw(Goal { files: 2, ..one }, space).expect("asked") else {
            panic!("11 free, 10 to stay")
        };
        assert_eq!(short, Goal { bytes: 0, files: 1 });
    }

    #[test]
    fn p5_upkeep_culls_nothing_for_a_quota_that_only_the_unknown_passes_and_writers_stay_below_it() {
        let limits = Limits { quota: Some(100 * MIB), ..Limits::default() };
        let ledger = Ledger::new(limits, 0, 100 * MIB, 0, 100 * MIB);
        let space = plenty().expect("a figure");
        ledger.found(60 * MIB);
        assert_eq!(ledger.goal(&space), Goal::default());
        assert!(matches!(ledger.draw(want(1), plenty).expect("space"), Draw::Short(_)));
        let full = Space { bytes_free: space.bytes / 100, ..space };
        assert_eq!(
            ledger.goal(&full).bytes,
            space.bytes * 7 / 100 - space.bytes / 100,
            "the disk's limits hold"
        );
        ledger.found(38 * MIB);
        ledger.all_found();
        assert_eq!(ledger.goal(&space).bytes, 5 * MIB);
    }

    #[test]
    fn a_reserve_is_lowered_to_what_is_used_and_never_raised_that_way() {
        let ledger = with_quota(u64::MAX, 200 * MIB);
        ledger.found(10 * MIB);
        assert_eq!((ledger.lower_reserve(), ledger.reserve()), (Some(74 * MIB), 74 * MIB));
        ledger.found(10 * MIB);
        assert_eq!((ledger.lower_reserve(), ledger.reserve()), (None, 74 * MIB));
    }

    #[test]
    fn what_was_unknown_is_found_once_and_then_exact() {
        let ledger = Ledger::new(Limits::default(), 0, 100, 0, 0);
        ledger.found(30);
        assert_eq!(ledger.used(), 100);
        ledger.buried(10);
        assert_eq!((ledger.used(), ledger.sums()), (100, (20, 10)));
        ledger.all_found();
        assert_eq!(ledger.used(), 30);
        ledger.decayed(Some(4));
        assert_eq!(ledger.used(), 26);
        ledger.decayed(None);
        assert_eq!(ledger.used(), 20);
    }
}
