//! [`State`]: where a cookie stands, and every way from one state to another.
//!
//! The states are those of `enum fscache_cookie_state` (include/linux/fscache.h, v6.12), with two differences. There is no
//! CREATING: a backend looks an object up or makes it in one call. And FAILED ends with the next use, which looks
//! again: no error outlives its cause.

/// Where a cookie stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// It has no object open.
    Quiescent,
    /// Its object is being looked up.
    LookingUp,
    /// Its object is open.
    Active,
    /// Its object is being replaced by another, fresh or of another size.
    Invalidating,
    /// It has no object, because the look-up failed. The next use tries again.
    Failed,
    /// Its object was idle for long and is being closed.
    LruDiscarding,
    /// Its object is being taken away under its users.
    Withdrawing,
    /// It is being given back.
    Relinquishing,
    /// It was given back: for good.
    Dropped,
}

/// What happens to a cookie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Event {
    /// Somebody uses it.
    Use,
    /// Its object is to be replaced, whether it is open or not.
    Invalidate,
    /// Its object is to get another size, if it is open.
    Resize,
    /// Its object was idle for long.
    Discard,
    /// The cache is going away.
    Withdraw,
    /// Its owner gives it back.
    Relinquish,
    /// What was under way succeeded.
    Done,
    /// What was under way failed.
    Fail,
}

/// What becomes of a cookie.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Next {
    /// This is the state now.
    To(State),
    /// Nothing changes: there is nothing to do.
    Stay,
    /// Something is under way that has to end first.
    Wait,
}

impl State {
    /// Whether something is under way that ends by itself.
    pub const fn is_busy(self) -> bool {
        matches!(
            self,
            Self::LookingUp
                | Self::Invalidating
                | Self::LruDiscarding
                | Self::Withdrawing
                | Self::Relinquishing
        )
    }

    /// Every transition there is.
    ///
    /// # Panics
    ///
    /// When something ends that is not under way: a bug here.
    pub(crate) fn on(self, event: Event) -> Next {
        use Event as E;
        use State as S;
        match (self, event) {
            (S::LookingUp | S::Invalidating, E::Done) => Next::To(S::Active),
            (S::LookingUp | S::Invalidating, E::Fail) => Next::To(S::Failed),
            (S::LruDiscarding | S::Withdrawing, E::Done | E::Fail) => Next::To(S::Quiescent),
            (S::Relinquishing, E::Done) => Next::To(S::Dropped),
            // It still has its name in the cache, and can be given back again.
            (S::Relinquishing, E::Fail) => Next::To(S::Quiescent),
            (_, E::Done | E::Fail) => panic!("{event:?} in state {self:?}, in which nothing is under way"),
            (S::Dropped, _) => Next::Stay,
            (busy, _) if busy.is_busy() => Next::Wait,
            (S::Quiescent | S::Failed, E::Use) => Next::To(S::LookingUp),
            (S::Quiescent | S::Failed | S::Active, E::Invalidate) => Next::To(S::Invalidating),
            (S::Active, E::Resize) => Next::To(S::Invalidating),
            (S::Active, E::Discard) => Next::To(S::LruDiscarding),
            (S::Active, E::Withdraw) => Next::To(S::Withdrawing),
            (S::Quiescent | S::Failed | S::Active, E::Relinquish) => Next::To(S::Relinquishing),
            (_, E::Use | E::Invalidate | E::Resize | E::Discard | E::Withdraw | E::Relinquish) => Next::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event as E;
    use super::Next::{Stay, To, Wait};
    use super::State as S;

    const STATES: [S; 9] = [
        S::Quiescent,
        S::LookingUp,
        S::Active,
        S::Invalidating,
        S::Failed,
        S::LruDiscarding,
        S::Withdrawing,
        S::Relinquishing,
        S::Dropped,
    ];
    const REQUESTS: [E; 6] = [E::Use, E::Invalidate, E::Resize, E::Discard, E::Withdraw, E::Relinquish];

    #[test]
    fn the_way_of_a_cookie_from_its_first_use_to_its_end() {
        for (state, event, next) in [
            (S::Quiescent, E::Use, To(S::LookingUp)),
            (S::LookingUp, E::Done, To(S::Active)),
            (S::Active, E::Use, Stay),
            (S::Active, E::Invalidate, To(S::Invalidating)),
            (S::Quiescent, E::Invalidate, To(S::Invalidating)),
            (S::Failed, E::Invalidate, To(S::Invalidating)),
            (S::Active, E::Resize, To(S::Invalidating)),
            (S::Quiescent, E::Resize, Stay),
            (S::Invalidating, E::Done, To(S::Active)),
            (S::Active, E::Discard, To(S::LruDiscarding)),
            (S::LruDiscarding, E::Done, To(S::Quiescent)),
            (S::Active, E::Withdraw, To(S::Withdrawing)),
            (S::Withdrawing, E::Done, To(S::Quiescent)),
            (S::Active, E::Relinquish, To(S::Relinquishing)),
            (S::Relinquishing, E::Done, To(S::Dropped)),
        ] {
            assert_eq!(state.on(event), next, "{state:?} on {event:?}");
        }
    }

    #[test]
    fn p3_a_failed_cookie_looks_again_at_the_next_use() {
        for under_way in [S::LookingUp, S::Invalidating] {
            assert_eq!(under_way.on(E::Fail), To(S::Failed));
        }
        assert_eq!(S::Failed.on(E::Use), To(S::LookingUp));
    }

    #[test]
    fn whoever_comes_while_something_is_under_way_waits_for_its_end() {
        for state in STATES.into_iter().filter(|state| state.is_busy()) {
            for event in REQUESTS {
                assert_eq!(state.on(event), Wait, "{state:?} on {event:?}");
            }
            assert!(matches!(state.on(E::Fail), To(next) if !next.is_busy()), "{state:?} ends");
            assert!(matches!(state.on(E::Done), To(next) if !next.is_busy()), "{state:?} ends");
        }
    }

    #[test]
    fn nothing_happens_to_a_dropped_cookie() {
        for event in REQUESTS {
            assert_eq!(S::Dropped.on(event), Stay);
        }
    }

    #[test]
    fn an_end_without_a_beginning_is_a_bug() {
        for state in STATES.into_iter().filter(|state| !state.is_busy()) {
            for event in [E::Done, E::Fail] {
                std::panic::catch_unwind(|| state.on(event)).expect_err("a bug must be heard");
            }
        }
    }
}
