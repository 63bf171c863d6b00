//! Rows, medians and how they are printed.

use std::fmt;
use std::time::Duration;

/// One figure with its target.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Larder's own figure, in words.
    pub larder: String,
    /// The peer's figure, in words.
    pub peer: String,
    /// What is compared with the target.
    pub figure: f64,
    /// What the figure must reach.
    pub target: Target,
}

/// A limit from one side.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// None: the figure is for information.
    None,
}

impl Row {
    /// Whether the target is met; `None` when there is none.
    pub fn holds(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(limit) => Some(self.figure >= limit),
            Target::AtMost(limit) => Some(self.figure <= limit),
            Target::None => None,
        }
    }

    fn target_words(&self) -> String {
        match self.target {
            Target::AtLeast(limit) => format!("at least {limit}"),
            Target::AtMost(limit) => format!("at most {limit}"),
            Target::None => "none".into(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, larder, peer, figure, .. } = self;
        let holds = match self.holds() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let target = self.target_words();
        write!(f, "{name:<44} {larder:>18} {peer:>18} {figure:>9.3}  {target:<14} {holds}")
    }
}

/// Shows rows as they come, where all of them take long.
pub fn say(rows: &[Row]) {
    rows.iter().for_each(|row| eprintln!("{row}"));
}

/// The middle of the samples.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Megabytes (10^6) in a second.
pub fn megabytes_a_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// Prints a table, or JSON.
pub fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "name": row.name, "larder": row.larder, "peer": row.peer,
                    "figure": row.figure, "target": row.target_words(), "holds": row.holds(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{:<44} {:>18} {:>18} {:>9}  {:<14} holds", "measurement", "larder", "peer", "figure", "target");
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}
