//! [`ObjectState`]: what an object can go through.
//!
//! Source of truth: `enum cachefiles_object_state` and its uses in fs/cachefiles/ondemand.c (v6.12).

/// Where an object is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectState {
    /// Nobody has a handle of it.
    Closed,
    /// An OPEN is queued or in hand; its READs are hidden until that is answered.
    Reopening,
    /// A handle of it is out, and its READs are delivered.
    Open,
    /// It is going: its requests have ended, new ones are refused. Nothing leads out of here.
    Dropping,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectEvent {
    /// It is to be open, because somebody reads it or asked for it.
    Wanted,
    /// Its OPEN was answered with a size.
    Opened,
    /// Its OPEN was answered with an error.
    OpenFailed,
    /// The daemon gave its handle back.
    Released,
    /// Another daemon took over; the handles died with the old one.
    Restored,
    /// It was withdrawn.
    Dropped,
}

/// An event that cannot happen in the state it met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Impossible;

impl ObjectState {
    /// The state after `event`.
    ///
    /// # Errors
    ///
    /// [`Impossible`] when it cannot happen now: an answer that nobody waits for, anything new for what is going.
    pub fn on(self, event: ObjectEvent) -> Result<Self, Impossible> {
        use {ObjectEvent as E, ObjectState as S};
        match (self, event) {
            (S::Open, E::Wanted) | (S::Reopening, E::Opened) => Ok(S::Open),
            (S::Closed | S::Reopening, E::Wanted) | (S::Reopening, E::Restored) => Ok(S::Reopening),
            (S::Reopening, E::OpenFailed)
            | (S::Open | S::Reopening, E::Released)
            | (S::Closed | S::Open, E::Restored) => Ok(S::Closed),
            (_, E::Dropped) | (S::Dropping, E::Released | E::Restored) => Ok(S::Dropping),
            (S::Closed, E::Opened | E::OpenFailed | E::Released)
            | (S::Open, E::Opened | E::OpenFailed)
            | (S::Dropping, E::Wanted | E::Opened | E::OpenFailed) => Err(Impossible),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ObjectEvent as E, ObjectState as S, *};

    #[test]
    fn every_state_and_every_event() {
        let no = Err(Impossible);
        let table = [
            //            Wanted            Opened        OpenFailed      Released         Restored          Dropped
            (S::Closed, [Ok(S::Reopening), no, no, no, Ok(S::Closed), Ok(S::Dropping)]),
            (
                S::Reopening,
                [
                    Ok(S::Reopening),
                    Ok(S::Open),
                    Ok(S::Closed),
                    Ok(S::Closed),
                    Ok(S::Reopening),
                    Ok(S::Dropping),
                ],
            ),
            (S::Open, [Ok(S::Open), no, no, Ok(S::Closed), Ok(S::Closed), Ok(S::Dropping)]),
            (S::Dropping, [no, no, no, Ok(S::Dropping), Ok(S::Dropping), Ok(S::Dropping)]),
        ];
        let events = [E::Wanted, E::Opened, E::OpenFailed, E::Released, E::Restored, E::Dropped];
        for (state, expected) in table {
            let got = events.map(|event| state.on(event));
            assert_eq!(got, expected, "{state:?}");
        }
    }
}
