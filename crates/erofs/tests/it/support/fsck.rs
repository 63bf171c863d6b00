//! Debian's `fsck.erofs` as a judge.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A `fsck.erofs`.
#[derive(Debug)]
pub struct Fsck(PathBuf);

/// What it says of an image.
#[derive(Debug)]
pub enum Verdict {
    Clean,
    /// It does not know what the image needs.
    TooOld(String),
    Faulty(String),
}

impl Fsck {
    /// Finds the newest at hand: in `$EROFS_UTILS`, or on the path.
    pub fn find() -> Option<Self> {
        let at_hand = std::env::var_os("EROFS_UTILS").map(|dir| PathBuf::from(dir).join("fsck.erofs"));
        let programs = at_hand.into_iter().chain([PathBuf::from("fsck.erofs")]);
        let runs = |program: &PathBuf| Command::new(program).arg("-V").output().is_ok();
        let found = programs.filter(runs).map(Self).next();
        if found.is_none() {
            eprintln!(
                "SKIPPED: fsck.erofs cannot run here; install erofs-utils, or name a folder in EROFS_UTILS"
            );
        }
        found
    }

    /// Has all data of an image checked.
    pub fn check(&self, image: &Path) -> Verdict {
        let output = Command::new(&self.0).arg("--extract").arg(image).output().expect("it ran before");
        if output.status.success() {
            return Verdict::Clean;
        }
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // That of Debian 13, for one, at the checksum of a superblock that does not begin in the first block.
        if output.status.signal().is_some() && self.is_before_1_9() {
            return Verdict::TooOld(format!("it ended by {}", output.status));
        }
        let too_old = [
            "unidentified incompatible feature",
            "unsupported",
            "Unsupported",
            "Unknown compression",
            "unknown compression",
            "unidentified algorithms",
            "Operation not supported",
            "isn't supported",
        ];
        match text.lines().find(|line| too_old.iter().any(|words| line.contains(words))) {
            Some(line) => Verdict::TooOld(line.to_owned()),
            None => Verdict::Faulty(text),
        }
    }

    fn is_before_1_9(&self) -> bool {
        let output = Command::new(&self.0).arg("-V").output().expect("it ran before");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) < (Some(1), Some(9))
    }
}
