//! [`RequestState`]: what a request can go through.

use std::fmt;

/// What a request asks for: the opcodes of the kernel's interface (`enum cachefiles_opcode`, v6.12).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Make the object known; answered with its size.
    Open,
    /// Forget the handle. Not answered: it is done when it is delivered.
    Close,
    /// Bring a range.
    Read,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Close => "CLOSE",
            Self::Read => "READ",
        })
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestState {
    /// It waits for somebody to take it.
    New,
    /// It is in hand.
    Delivered,
    /// It was answered. Nothing leads out of here.
    Done,
    /// It ended without an answer. Nothing leads out of here.
    Cancelled,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestEvent {
    /// It is handed to the daemon.
    Deliver,
    /// The daemon answers it.
    Answer,
    /// Whoever had it in hand is gone, and the next one gets it.
    Restore,
    /// Its waiter, its object or the cache is gone.
    Cancel,
}

/// The state in which an event cannot happen.
pub type Unmoved = RequestState;

impl RequestState {
    /// The state after `event`.
    ///
    /// # Errors
    ///
    /// The state as it is, when `event` cannot happen in it.
    pub fn on(self, event: RequestEvent) -> Result<Self, Unmoved> {
        use {RequestEvent as E, RequestState as S};
        match (self, event) {
            (S::New, E::Deliver) => Ok(S::Delivered),
            (S::Delivered, E::Answer) => Ok(S::Done),
            (S::New | S::Delivered, E::Restore) => Ok(S::New),
            (S::New | S::Delivered, E::Cancel) => Ok(S::Cancelled),
            (S::New, E::Answer) | (S::Delivered, E::Deliver) | (S::Done | S::Cancelled, _) => Err(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RequestEvent as E, RequestState as S};

    #[test]
    fn every_state_and_every_event() {
        let table = [
            //               Deliver           Answer            Restore           Cancel
            (S::New, [Ok(S::Delivered), Err(S::New), Ok(S::New), Ok(S::Cancelled)]),
            (S::Delivered, [Err(S::Delivered), Ok(S::Done), Ok(S::New), Ok(S::Cancelled)]),
            (S::Done, [Err(S::Done); 4]),
            (S::Cancelled, [Err(S::Cancelled); 4]),
        ];
        for (state, expected) in table {
            let got = [E::Deliver, E::Answer, E::Restore, E::Cancel].map(|event| state.on(event));
            assert_eq!(got, expected, "{state:?}");
        }
    }
}
