//! [`Violation`]: what must never happen.

use std::fmt;

/// What must never happen.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A reader got a byte that is not the image's.
    WrongBytes,
    /// A reader or a command did not end in time.
    Hang,
    /// Something is left that was not there before: a descriptor, a thread, a mount, a process, space.
    Leak,
    /// The cache took more of the disk than it may.
    Space,
    /// An error without a cause, or one that outlived it.
    Error,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::WrongBytes, Self::Hang, Self::Leak, Self::Space, Self::Error];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongBytes => "wrong bytes",
            Self::Hang => "hangs",
            Self::Leak => "leaks",
            Self::Space => "limits passed",
            Self::Error => "errors without cause",
        }
    }
}

/// One case of it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What sort.
    pub kind: Kind,
    /// What exactly.
    pub what: String,
}

impl Violation {
    /// Says what exactly.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.what)
    }
}
