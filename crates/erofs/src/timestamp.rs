//! [`Timestamp`]: a point in time as EROFS stores it.

/// Signed seconds since 1970 and nanoseconds within the second.
///
/// The order of the fields makes the derived order the order in time.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC; negative before.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999; they always count forward.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A point in time; hostile images may hold more than 999,999,999 nanoseconds.
    pub const fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds }
    }
}
