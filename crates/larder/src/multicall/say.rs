//! [`Say`]: messages as erofs-utils has them, with a letter for how important they are.

use std::io::Write as _;

/// How much is said unless `-d` asks otherwise: errors and warnings.
const DEFAULT: u64 = 2;

/// Says what is important enough.
#[derive(Clone, Copy, Debug)]
pub struct Say {
    level: u64,
}

impl Default for Say {
    fn default() -> Self {
        Self { level: DEFAULT }
    }
}

impl Say {
    /// Says all up to `level`: 0 nothing, 1 errors, 2 warnings, 3 remarks, 9 everything.
    ///
    /// # Errors
    ///
    /// When there is no such level.
    pub fn at(level: u64) -> Result<Self, String> {
        match level {
            0..=9 => Ok(Self { level }),
            _ => Err(format!("invalid debug level {level}: 0 to 9")),
        }
    }

    /// An error, on standard error.
    pub fn error(self, text: impl std::fmt::Display) {
        if self.level >= 1 {
            to_stderr(&format!("<E> erofs: {text}"));
        }
    }

    /// A warning, on standard error.
    pub fn warning(self, text: impl std::fmt::Display) {
        if self.level >= 2 {
            to_stderr(&format!("<W> erofs: {text}"));
        }
    }

    /// A remark, on standard output.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn remark(self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        if self.level >= 3 { crate::output::line(format!("<I> erofs: {text}")) } else { Ok(()) }
    }

    /// An error with its causes.
    pub fn failure(self, error: &anyhow::Error) {
        self.error(format!("{error:#}"));
    }
}

/// Writes a line to standard error; nobody may be there to read it.
pub fn to_stderr(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
