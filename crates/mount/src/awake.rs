//! [`Awake`]: keeps the processors from halting while a run of questions lasts.
//!
//! A reader of present bytes sleeps for the few microseconds that its answer takes. Its processor halts meanwhile, and
//! waking a halted one, of a virtual machine above all, takes longer than the answer. /dev/cpu_dma_latency says for how
//! long processors may take to wake (Documentation/power/pm_qos_interface.rst); the kernel takes what was said back when
//! the descriptor is closed, so nothing of it outlives this process.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZero;
use std::thread::available_parallelism;

/// Questions of a run before it is worth while: telling all processors costs about as much as one answer.
const QUESTIONS_MIN: u32 = 16;
/// What is said holds for all processors: where there are more of them, one reader is not worth it.
const PROCESSORS_MAX: usize = 8;
const DEVICE: &str = "/dev/cpu_dma_latency";

/// Microseconds that waking may take.
const AT_ONCE: i32 = 0;
/// As if nothing had been said: PM_QOS_DEFAULT_VALUE.
const AS_LONG_AS_IT_TAKES: i32 = -1;

/// Whether the processors are kept awake.
#[derive(Debug)]
pub(crate) struct Awake {
    /// None where it is of no use, or not allowed.
    device: Option<File>,
    questions: u32,
}

impl Awake {
    /// The processors of this machine.
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let device = (processors <= PROCESSORS_MAX)
            .then(|| File::options().write(true).open(DEVICE))
            .and_then(|opened| opened.inspect_err(|error| tracing::debug!(%error, "{DEVICE}")).ok());
        Self { device, questions: 0 }
    }

    /// A question has come, as one of a run or not.
    pub(crate) fn asked(&mut self, in_run: bool) {
        if !in_run {
            return self.rest();
        }
        self.questions = self.questions.saturating_add(1);
        if self.questions == QUESTIONS_MIN {
            self.say(AT_ONCE);
        }
    }

    /// Whether the processors are kept awake now, so that the end of the run must not be missed.
    pub(crate) fn is_said(&self) -> bool {
        self.questions >= QUESTIONS_MIN && self.device.is_some()
    }

    /// No run is going on.
    pub(crate) fn rest(&mut self) {
        if self.questions >= QUESTIONS_MIN {
            self.say(AS_LONG_AS_IT_TAKES);
        }
        self.questions = 0;
    }

    fn say(&mut self, microseconds: i32) {
        let Some(device) = &mut self.device else { return };
        if let Err(error) = device.write_all(&microseconds.to_ne_bytes()) {
            tracing::debug!(%error, "{DEVICE}");
            self.device = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_are_kept_awake_from_the_sixteenth_question_of_a_run_to_its_end() {
        let file = tempfile::NamedTempFile::new().expect("space");
        let said = || {
            let bytes = std::fs::read(file.path()).expect("there");
            bytes.chunks(4).map(|four| i32::from_ne_bytes(four.try_into().expect("four"))).collect::<Vec<_>>()
        };
        let device = File::options().write(true).open(file.path()).expect("there");
        let mut awake = Awake { device: Some(device), questions: 0 };
        (0..15).for_each(|_| awake.asked(true));
        awake.rest();
        assert_eq!(said(), Vec::<i32>::new(), "too short");
        (0..40).for_each(|_| awake.asked(true));
        assert_eq!(said(), [AT_ONCE], "said once");
        awake.asked(false);
        awake.rest();
        assert_eq!(said(), [AT_ONCE, AS_LONG_AS_IT_TAKES]);
    }
}
