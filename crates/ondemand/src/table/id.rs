//! Numbers of objects, handles and requests: 64 bits each, counted up, never used twice.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u64);

        impl $name {
            /// The bare number, for messages and traces.
            pub fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }
    };
}

number! {
    /// One object, from the day it is entered until it is dropped: `obj` in the kernel's traces.
    ObjectId
}
number! {
    /// One opening of an object: `object_id` in the kernel's messages, new at every OPEN.
    HandleId
}
number! {
    /// One request: `msg_id` in the kernel's messages.
    RequestId
}

/// Gives out numbers. At one a nanosecond it lasts for five centuries.
#[derive(Debug, Default)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub fn next<T: From<u64>>(&mut self) -> T {
        self.0 += 1;
        T::from(self.0)
    }
}
