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
    /// A recorded access profile says that it will be wanted.
    Profile,
    /// Somebody asked for it to be brought at leisure.
    Prefetch,
}

impl Cause {
    /// The word for reports: `demand`, `readahead`, `profile` or `prefetch`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Demand { .. } => "demand",
            Self::Readahead => "readahead",
            Self::Profile => "profile",
            Self::Prefetch => "prefetch",
        }
    }

    pub(crate) fn priority(self) -> Priority {
        match self {
            Self::Demand { .. } => Priority::Demand,
            Self::Readahead => Priority::Readahead,
            Self::Profile => Priority::Profile,
            Self::Prefetch => Priority::Prefetch,
        }
    }
}

/// Who goes first; the greater one overtakes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Priority {
    Prefetch,
    Profile,
    Readahead,
    Demand,
}

impl Priority {
    pub const MOST_URGENT_FIRST: [Self; 4] = [Self::Demand, Self::Readahead, Self::Profile, Self::Prefetch];
}

/// One value for each [`Priority`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerPriority<T> {
    pub prefetch: T,
    pub profile: T,
    pub readahead: T,
    pub demand: T,
}

impl<T> PerPriority<T> {
    pub fn of(&self, priority: Priority) -> &T {
        match priority {
            Priority::Prefetch => &self.prefetch,
            Priority::Profile => &self.profile,
            Priority::Readahead => &self.readahead,
            Priority::Demand => &self.demand,
        }
    }

    pub fn of_mut(&mut self, priority: Priority) -> &mut T {
        match priority {
            Priority::Prefetch => &mut self.prefetch,
            Priority::Profile => &mut self.profile,
            Priority::Readahead => &mut self.readahead,
            Priority::Demand => &mut self.demand,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_reader_goes_before_readahead_that_before_a_profile_and_that_before_prefetch() {
        assert!(Priority::MOST_URGENT_FIRST.is_sorted_by(|more, less| more > less));
    }
}
