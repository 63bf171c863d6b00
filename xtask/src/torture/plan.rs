//! What both layers decide alike: the rates of faults, and how a registry lies.

use std::fmt;
use std::time::Duration;

use larder_faults::{Kind, Plan, Power, Site};
use larder_testkit::Fault;

/// What the fault points do, deaths apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weather {
    /// Whether calls fail and are short.
    pub errors: bool,
    /// Whether threads pause at the points.
    pub pauses: bool,
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.errors { ", calls fail" } else { "" })?;
        f.write_str(if self.pauses { ", threads pause" } else { "" })
    }
}

/// Adds the rates of this weather to a plan.
pub fn faults(mut plan: Plan, weather: Weather) -> anyhow::Result<Plan> {
    for site in Site::ALL {
        if weather.pauses {
            plan = plan.rate(*site, Kind::Pause, 20_000)?;
        }
        if weather.errors && site.power() != Power::Step {
            for (kind, rate) in [
                (Kind::Eio, 8_000),
                (Kind::Enospc, 4_000),
                (Kind::Eintr, 2_000),
                (Kind::Emfile, 2_000),
                (Kind::Enomem, 1_000),
            ] {
                plan = plan.rate(*site, kind, rate)?;
            }
        }
        if weather.errors && site.power() == Power::Transfer {
            plan = plan.rate(*site, Kind::Short, 30_000)?;
        }
    }
    Ok(plan)
}

/// One of the ways in which a registry fails or lies, of those that end by themselves.
pub fn lie(rng: &mut fastrand::Rng) -> Fault {
    let after = rng.u64(0..100_000);
    match rng.u8(0..9) {
        0 => Fault::Status(503),
        1 => Fault::Status(500),
        2 => Fault::RetryAfter { status: 429, value: "1".into() },
        3 => Fault::Hangup,
        4 => Fault::CloseEarly { after },
        5 => Fault::WrongLength { by: -1 - i64::from(rng.u16(..)), announced: rng.bool() },
        6 => Fault::IgnoreRange,
        7 => Fault::Stall(Duration::from_millis(rng.u64(10..500))),
        _ => Fault::SlowDrip { piece: 8192, every: Duration::from_millis(2) },
    }
}
