//! [`Awake`]: keeps the processors from halting while a run of questions lasts.
//!
//! A reader of present bytes sleeps for the few microseconds that its answer takes. Its processor halts meanwhile, and
//! waking a halted one, of a virtual machine above all, takes longer than the answer. /dev/cpu_dma_latency says for how
//! long processors may take to wake (Documentation/power/pm_qos_interface.rst); the kernel takes what was said back when
//! the descriptor is closed, so nothing of it outlives this process.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;

/// Questions of a run before it is worth while: telling all processors costs about as much as one answer.
const QUESTIONS_MIN: u32 = 16;
/// What is said holds for all processors: where there are more of them, one reader is not worth it.
const PROCESSORS_MAX: usize = 8;
const DEVICE: &str = "/dev/cpu_dma_latency";

/// Microseconds that waking may take.
const AT_ONCE: i32 = 0;

/// Whether the processors are kept awake.
#[derive(Debug)]
pub(crate) struct Awake {
    /// None where it is of no use, or not allowed.
    device: Option<PathBuf>,
    /// Open as long as they are.
    said: Option<File>,
    questions: u32,
}

impl Awake {
    /// The processors of this machine.
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self::through((processors <= PROCESSORS_MAX).then(|| DEVICE.into()))
    }

    fn through(device: Option<PathBuf>) -> Self {
        Self { device, said: None, questions: 0 }
    }

    /// A question has come, as one of a run or not.
    pub(crate) fn asked(&mut self, in_run: bool) {
        if !in_run {
            return self.rest();
        }
        self.questions = self.questions.saturating_add(1);
        if self.questions == QUESTIONS_MIN {
            self.say();
        }
    }

    /// Whether the processors are kept awake now, so that the end of the run must not be missed.
    pub(crate) fn is_said(&self) -> bool {
        self.said.is_some()
    }

    /// No run is going on.
    pub(crate) fn rest(&mut self) {
        (self.said, self.questions) = (None, 0);
    }

    fn say(&mut self) {
        let Some(device) = &self.device else { return };
        let said = File::options().write(true).open(device).and_then(|mut file| {
            file.write_all(&AT_ONCE.to_ne_bytes())?;
            Ok(file)
        });
        match said {
            Ok(file) => self.said = Some(file),
            Err(error) => {
                tracing::debug!(%error, "{DEVICE}");
                self.device = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_are_kept_awake_from_the_sixteenth_question_of_a_run_to_its_end() {
        let file = tempfile::NamedTempFile::new().expect("space");
        let said = || std::fs::read(file.path()).expect("there");
        let mut awake = Awake::through(Some(file.path().to_owned()));
        (0..15).for_each(|_| awake.asked(true));
        assert!(!awake.is_said());
        awake.rest();
        (0..15).for_each(|_| awake.asked(true));
        assert_eq!((awake.is_said(), said()), (false, Vec::new()), "too short");
        (0..40).for_each(|_| awake.asked(true));
        assert_eq!((awake.is_said(), said()), (true, AT_ONCE.to_ne_bytes().to_vec()), "said once");
        awake.asked(false);
        assert!(!awake.is_said(), "nothing is open any more");
    }

    #[test]
    fn who_is_not_allowed_to_is_asked_no_more() {
        let dir = tempfile::tempdir().expect("space");
        let path = dir.path().join("device");
        let mut awake = Awake::through(Some(path.clone()));
        (0..16).for_each(|_| awake.asked(true));
        awake.rest();
        std::fs::write(&path, "").expect("space");
        (0..16).for_each(|_| awake.asked(true));
        assert!(!awake.is_said());
    }
}
