//! The plan in force: one a process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::io::Errno;

use crate::counts::{WORDS, Words};
use crate::plan::Strike;
use crate::sys::die;
use crate::{Counts, Error, Kind, Plan, Share, Site, State, Verdict};

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(5);

static ACTIVE: RwLock<Option<Arc<Active>>> = RwLock::new(None);

/// Whether there is a plan, so that a point without one costs a load.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);

struct Active {
    plan: Plan,
    counters: Counters,
}

enum Counters {
    Own(Vec<AtomicU64>),
    Shared(State),
}

impl Counters {
    fn words(&self) -> Words<'_> {
        match self {
            Self::Own(words) => Words::new(words),
            Self::Shared(state) => state.words(),
        }
    }
}

/// Puts a plan in force, in place of any other. Without a file of its own it counts from zero.
///
/// # Errors
///
/// [`Error::State`] and [`Error::ForeignState`] when the plan's file with the counters cannot be used.
pub fn install(plan: Plan) -> Result<(), Error> {
    let counters = match plan.state_path() {
        Some(path) => Counters::Shared(State::open(path)?),
        None => {
            let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
            Words::new(&words).begin();
            Counters::Own(words)
        }
    };
    set(Some(Arc::new(Active { plan, counters })));
    Ok(())
}

/// Takes the plan out of force and returns what it did: from now on every point says go.
pub fn clear() -> Counts {
    let counts = counts();
    set(None);
    counts
}

/// What the plan in force has done so far; nothing when there is none.
pub fn counts() -> Counts {
    current().map_or_else(Counts::default, |active| active.counters.words().read())
}

fn set(active: Option<Arc<Active>>) {
    let is_active = active.is_some();
    *ACTIVE.write().unwrap_or_else(PoisonError::into_inner) = active;
    IS_ACTIVE.store(is_active, Ordering::Release);
}

fn current() -> Option<Arc<Active>> {
    ACTIVE.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Visits a site: counts, pauses, dies, or returns what the caller is to do.
pub(crate) fn visit(site: Site) -> Verdict {
    if !IS_ACTIVE.load(Ordering::Acquire) {
        return Verdict::Go;
    }
    let Some(active) = current() else { return Verdict::Go };
    let Some(strike) = active.next(site) else { return Verdict::Go };
    verdict(strike)
}

impl Active {
    /// Counts a visit and the fault that strikes at it.
    fn next(&self, site: Site) -> Option<Strike> {
        let words = self.counters.words();
        if !words.are_armed() {
            return None;
        }
        let strike = self.plan.strike(site, words.visit(site))?;
        if !strike.certain && !words.spend(self.plan.limit()) {
            return None;
        }
        words.count(site, strike.kind);
        Some(strike)
    }
}

fn verdict(strike: Strike) -> Verdict {
    match strike.kind {
        Kind::Eio => Verdict::Fail(Errno::IO),
        Kind::Enospc => Verdict::Fail(Errno::NOSPC),
        Kind::Emfile => Verdict::Fail(Errno::MFILE),
        Kind::Enomem => Verdict::Fail(Errno::NOMEM),
        Kind::Eintr => Verdict::Fail(Errno::INTR),
        Kind::Short => Verdict::Short(Share(strike.roll)),
        Kind::Pause => {
            std::thread::sleep(PAUSE_MAX.mul_f64(f64::from(strike.roll) / f64::from(u16::MAX)));
            Verdict::Go
        }
        Kind::Die => die(),
    }
}
