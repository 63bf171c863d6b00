//! `larder cache verify`: read what is present again, and check it.

use std::process::ExitCode;

use super::access::Access;
use crate::api::cache_types::{VerifiedObject, VerifyLine, VerifyRequest, VerifyState};
use crate::commands::mount::image_name;
use crate::output;
use crate::output::bytes::mebibytes;
use crate::output::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  larder cache verify                                 everything
  larder cache verify registry.example/app:1          one image
  larder cache verify --no-repair --json              report damage only, an object a line";

/// Arguments of `larder cache verify`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Images by reference or manifest digest, or keys of objects of volume default; everything without any
    #[arg(value_name = "REF|KEY")]
    name: Vec<String>,
    /// Report damage and leave it
    ///
    /// Without this, damaged chunks are given up, or fetched again where a mount uses them. Either way the status is 1
    /// when damage was found.
    #[arg(long)]
    no_repair: bool,
}

/// Runs `larder cache verify`.
///
/// # Errors
///
/// When the cache cannot be read. Damage is none of this: it is the exit status 1.
pub async fn run(args: Args, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let names = args.name.iter().map(|name| image_name(name)).collect::<Result<_, _>>()?;
    let request = VerifyRequest { names, no_repair: args.no_repair };
    let mut progress: Option<Progress> = None;
    let (mut damaged, mut unchecked, mut objects) = (0_u64, 0_u64, 0_u64);
    if !json {
        output::line("STATE       GOOD MiB  DAMAGED MiB  REPAIRED MiB  UNCHECKED MiB  COOKIE, IMAGE")?;
    }
    let mut each = |line: VerifyLine| match line {
        VerifyLine::Progress { done_bytes, total_bytes } => {
            let bar = progress.get_or_insert_with(|| Progress::bytes("verifying", Some(total_bytes)));
            bar.set(done_bytes);
            Ok(())
        }
        VerifyLine::Object(object) => {
            objects += 1;
            match object.state {
                VerifyState::Good => {}
                VerifyState::Damaged => damaged += 1,
                VerifyState::Unchecked | VerifyState::Unknown => unchecked += 1,
            }
            if json { output::write(&json_line(&object)?) } else { print(&object) }
        }
    };
    access.verify(&request, &mut each).await?;
    drop(progress);
    output::note(verdict(objects, damaged, unchecked));
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of it: what could not be checked is not called good.
fn verdict(objects: u64, damaged: u64, unchecked: u64) -> String {
    let found = match damaged {
        0 => format!("{objects} objects, no damage found"),
        _ => format!("{damaged} of {objects} objects are damaged"),
    };
    match unchecked {
        0 => found,
        _ => format!("{found}; {unchecked} could not be checked"),
    }
}

fn json_line(object: &VerifiedObject) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(object)?;
    text.push(b'\n');
    Ok(text)
}

fn print(object: &VerifiedObject) -> anyhow::Result<()> {
    let state = match object.state {
        VerifyState::Good => "good",
        VerifyState::Damaged => "damaged",
        VerifyState::Unchecked => "unchecked",
        VerifyState::Unknown => "unknown",
    };
    let sums = [object.good_bytes, object.damaged_bytes, object.repaired_bytes, object.unchecked_bytes];
    let [good, damaged, repaired, unchecked] = sums.map(mebibytes);
    let image = object.image.as_deref().unwrap_or("no known image");
    let cookie = &object.cookie;
    output::line(format!(
        "{state:<9}  {good:>9}  {damaged:>11}  {repaired:>12}  {unchecked:>13}  {cookie}, {image}"
    ))?;
    if let Some(error) = &object.error {
        output::note(format!("{cookie}: {error}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_checked_is_not_called_good() {
        assert_eq!(verdict(3, 0, 0), "3 objects, no damage found");
        assert_eq!(verdict(3, 0, 1), "3 objects, no damage found; 1 could not be checked");
        assert_eq!(verdict(3, 2, 1), "2 of 3 objects are damaged; 1 could not be checked");
    }
}
