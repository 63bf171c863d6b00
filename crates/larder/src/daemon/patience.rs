//! [`Patience`]: how long somebody waits for a daemon that he has started to answer.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_mount::keeper;

/// How long a daemon may say nothing until it answers. A worker that takes up many mounts says so for each, and answers when
/// it has done with all.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// How long it may take in all, whatever it says meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// So many workers may die: a keeper that keeps something has a stand-in answer then; one that keeps nothing tries on.
const DEATHS_MAX: usize = 8;

/// Waits for a daemon by what it says in its log.
pub(super) struct Patience {
    log: PathBuf,
    begun: Instant,
    heard: Instant,
    read: u64,
    deaths: usize,
}

/// Why nobody waits any longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Over {
    /// It has said nothing for so long.
    Silent(Duration),
    /// It has taken so long.
    TooLong(Duration),
    /// So many workers have died.
    Deaths(usize),
}

impl Patience {
    /// To be called before the daemon is started, which writes to the end of `log`.
    pub(super) fn new(log: &Path) -> Self {
        let (now, read) = (Instant::now(), length(log).unwrap_or(0));
        Self { log: log.to_owned(), begun: now, heard: now, read, deaths: 0 }
    }

    /// Whether it is over, and why.
    pub(super) fn is_over(&mut self) -> Option<Over> {
        self.listen();
        if self.deaths >= DEATHS_MAX {
            return Some(Over::Deaths(self.deaths));
        }
        if self.heard.elapsed() > SILENT_MAX {
            return Some(Over::Silent(SILENT_MAX));
        }
        (self.begun.elapsed() > WAIT_MAX).then_some(Over::TooLong(WAIT_MAX))
    }

    /// Reads what was said since the last time.
    fn listen(&mut self) {
        let Some(length) = length(&self.log).filter(|length| *length != self.read) else { return };
        self.heard = Instant::now();
        let mut said = Vec::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.read))?;
            log.take(length.saturating_sub(self.read)).read_to_end(&mut said)
        });
        self.read = length;
        if read.is_ok() {
            self.deaths += String::from_utf8_lossy(&said).matches(keeper::WORKER_ENDED).count();
        }
    }
}

fn length(log: &Path) -> Option<u64> {
    Some(fs::metadata(log).ok()?.len())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn log() -> tempfile::NamedTempFile {
        let mut log = tempfile::NamedTempFile::new().expect("a file");
        writeln!(log, "{} long ago", keeper::WORKER_ENDED).expect("it can be written");
        log
    }

    fn ago(duration: Duration) -> Instant {
        Instant::now().checked_sub(duration).expect("this machine runs for longer")
    }

    #[test]
    fn workers_that_die_one_after_the_other_are_not_waited_for() {
        let mut log = log();
        let mut patience = Patience::new(log.path());
        for n in 1..=DEATHS_MAX {
            assert_eq!(patience.is_over(), None, "after {} deaths", n - 1);
            writeln!(log, "{} with status 1", keeper::WORKER_ENDED).expect("it can be written");
        }
        assert_eq!(patience.is_over(), Some(Over::Deaths(DEATHS_MAX)));
    }

    #[test]
    fn a_daemon_that_says_something_is_waited_for_but_not_for_ever() {
        let mut log = log();
        let mut patience = Patience::new(log.path());
        patience.heard = ago(SILENT_MAX + PAUSE);
        assert_eq!(patience.is_over(), Some(Over::Silent(SILENT_MAX)));
        writeln!(log, "resumed").expect("it can be written");
        assert_eq!(patience.is_over(), None);
        // As if it had begun so long ago: a machine that runs for less cannot tell.
        let Some(begun) = Instant::now().checked_sub(WAIT_MAX + PAUSE) else {
            return println!("skipped: just started");
        };
        patience.begun = begun;
        assert_eq!(patience.is_over(), Some(Over::TooLong(WAIT_MAX)));
    }

    const PAUSE: Duration = Duration::from_millis(1);
}
