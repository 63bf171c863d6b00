//! [`Step`]: something under way on a cookie, which ends however its author does.

use super::{Cookie, Event, Inner, Next};

/// What a busy state waits for. Dropped without [`done`](Self::done), by an error or a panic, it has failed.
pub(super) struct Step<'a> {
    cookie: &'a Cookie,
    is_over: bool,
}

impl<'a> Step<'a> {
    /// The cookie has just become busy, by the caller.
    pub(super) fn new(cookie: &'a Cookie) -> Self {
        Self { cookie, is_over: false }
    }

    /// It succeeded; `change` what the cookie has in the same instant.
    pub(super) fn done(mut self, change: impl FnOnce(&mut Inner)) {
        self.end(Event::Done, change);
    }

    fn end(&mut self, event: Event, change: impl FnOnce(&mut Inner)) {
        self.is_over = true;
        let mut inner = self.cookie.lock();
        change(&mut inner);
        if let Next::To(next) = inner.state.on(event) {
            inner.state = next;
        }
        drop(inner);
        self.cookie.changed.notify_all();
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(Event::Fail, |_| ());
        }
    }
}
