//! [`Cause`]: why bytes are brought, and with it who goes first.

/// Why a range is brought.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// A reader waits for it.
    Demand {
        /// The process that reads, where the front end knows it.
        pid: Option<u32>,
    },
    /// A sequential reader will probably want it next.
    Readahead,
    /// Somebody asked for it to be brought at leisure.
    Prefetch,
}

impl Cause {
    /// The word for reports: `demand`, `readahead` or `prefetch`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Demand { .. } => "demand",
            Self::Readahead => "readahead",
            Self::Prefetch => "prefetch",
        }
    }

    pub(crate) fn priority(self) -> Priority {
        match self {
            Self::Demand { .. } => Priority::Demand,
            Self::Readahead => Priority::Readahead,
            Self::Prefetch => Priority::Prefetch,
        }
    }
}

/// Who goes first; the greater one overtakes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Priority {
    Prefetch,
    Readahead,
    Demand,
}

/// One value for each [`Priority`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerPriority<T> {
    pub prefetch: T,
    pub readahead: T,
    pub demand: T,
}

impl<T> PerPriority<T> {
    pub fn of(&self, priority: Priority) -> &T {
        match priority {
            Priority::Prefetch => &self.prefetch,
            Priority::Readahead => &self.readahead,
            Priority::Demand => &self.demand,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_reader_goes_before_readahead_and_readahead_before_prefetch() {
        assert!(Priority::Demand > Priority::Readahead);
        assert!(Priority::Readahead > Priority::Prefetch);
    }
}
