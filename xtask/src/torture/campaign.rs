//! Rounds, until the time is up.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::dice::Dice;
use super::library::Hall;
use super::processes::Stage;
use super::report;
use super::tally::Tally;
use super::violation::{Kind, Violation};
use super::{Args, Layer};

/// What the rounds of a campaign share.
struct Campaign {
    dice: Dice,
    library: Option<Hall>,
    processes: Option<Stage>,
}

/// Runs rounds and prints the report; fails when anything happened that must not.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.how.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("torture: seed {seed}");
    let scratch = tempfile::Builder::new().prefix("larder-torture-").tempdir_in(&args.how.scratch)?;
    let mut campaign = Campaign::new(args, Dice::new(seed), scratch.path())?;
    let (began, until) = (Instant::now(), Duration::from_secs(args.how.seconds));
    let mut tally = Tally::default();
    let mut rounds = 0;
    let mut played = 0;
    let first = args.how.replay.unwrap_or(0);
    while played == 0 || began.elapsed() < until {
        let round = if args.how.replay.is_some() { first } else { rounds };
        rounds += 1;
        let Some(of_round) = campaign.round(round) else { continue };
        played += 1;
        let failed = !of_round.violations.is_empty();
        tally.add(of_round);
        if failed {
            eprintln!("torture: replay it with: cargo xtask torture --seed {seed} --replay {round}");
            break;
        }
    }
    report::print(seed, played, began.elapsed(), &tally, args.how.json)?;
    if !tally.violations.is_empty() {
        bail!("{} violations in {played} rounds of seed {seed}", tally.violations.len());
    }
    Ok(())
}

impl Campaign {
    fn new(args: &Args, dice: Dice, scratch: &std::path::Path) -> anyhow::Result<Self> {
        let is_wanted = |layer| args.only.is_none_or(|only| only == layer);
        let place = |name: &str| -> anyhow::Result<_> {
            let dir = scratch.join(name);
            std::fs::create_dir(&dir)?;
            Ok(dir)
        };
        let library = is_wanted(Layer::Library).then(|| Hall::new(&place("library")?)).transpose()?;
        let stage = || {
            let Some(larder) = &args.how.larder else { bail!("--larder names the binary to torture") };
            Stage::new(larder, &place("processes")?)
        };
        Ok(Self { dice, library, processes: is_wanted(Layer::Processes).then(stage).transpose()? })
    }

    /// Rounds of the layers take turns, so that a number means the same round with and without `--only`; `None` when it is
    /// the turn of one that is not wanted.
    fn round(&mut self, round: u64) -> Option<Tally> {
        let dice = self.dice.of("round", round);
        let result = match (&self.library, &mut self.processes) {
            (Some(library), _) if round.is_multiple_of(2) => library.round(round, dice),
            (_, Some(processes)) if !round.is_multiple_of(2) => processes.round(round, dice),
            _ => return None,
        };
        Some(result.unwrap_or_else(|error| {
            // What the torturer itself needs does not work: that is no verdict about Larder, but none is reached either.
            let mut tally = Tally::default();
            tally.violate(Violation::new(Kind::Error, format!("the round could not be run: {error:#}")));
            tally
        }))
    }
}
