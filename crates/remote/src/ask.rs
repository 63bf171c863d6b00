//! [`Ask`]: what is asked for and where, in words, so that every error can say it.

use std::time::Duration;

use reqwest::Url;
use rustix::io::Errno;

use crate::{BlobRange, Error};

/// One question to the far side: its name in messages and its size for the deadline.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Where, without anything secret.
    pub place: String,
    /// What, in words.
    pub what: String,
    /// How many bytes should come at most.
    pub bytes: u64,
}

impl Ask {
    pub(crate) fn new(url: &Url, what: impl Into<String>, bytes: u64) -> Self {
        Self { place: place(url), what: what.into(), bytes }
    }

    pub(crate) fn range(place: &str, range: BlobRange) -> Self {
        Self { place: place.to_owned(), what: range.to_string(), bytes: range.len() }
    }

    /// Returns the same question, now put to `url`, to which the first place redirected.
    pub(crate) fn redirected(&self, url: &Url) -> Self {
        let here = place(url);
        let first = self.place.split(" -> ").next().unwrap_or(&self.place);
        let place = if here == first { here } else { format!("{first} -> {here}") };
        Self { place, ..self.clone() }
    }

    pub(crate) fn timeout(&self, after: Duration) -> Error {
        Error::Timeout { place: self.place.clone(), range: self.what.clone(), after }
    }

    pub(crate) fn length(&self, expected: u64, found: u64) -> Error {
        Error::Length { place: self.place.clone(), range: self.what.clone(), expected, found }
    }

    pub(crate) fn status(&self, status: u16, retry_after: Option<Duration>) -> Error {
        Error::Status { place: self.place.clone(), range: self.what.clone(), status, retry_after }
    }

    pub(crate) fn answer(&self, reason: impl Into<String>) -> Error {
        Error::Answer { place: self.place.clone(), range: self.what.clone(), reason: reason.into() }
    }

    pub(crate) fn redirect(&self, reason: impl Into<String>) -> Error {
        Error::Redirect { place: self.place.clone(), range: self.what.clone(), reason: reason.into() }
    }

    /// What an injected fault does to a connection.
    pub(crate) fn broken(&self, fault: Errno) -> Error {
        let source = Box::new(std::io::Error::from(fault));
        Error::Connection { place: self.place.clone(), range: self.what.clone(), source }
    }

    /// Turns an error of the HTTP library into ours; its URL, which may carry a signature, is taken out.
    pub(crate) fn failed(&self, error: reqwest::Error, connect_timeout: Duration) -> Error {
        if error.is_timeout() {
            return self.timeout(connect_timeout);
        }
        let (place, range) = (self.place.clone(), self.what.clone());
        let source = Box::new(error.without_url());
        if crate::tls::is_refusal(&*source) {
            return Error::Tls { place, source };
        }
        Error::Connection { place, range, source }
    }
}

/// Returns `url` without what may be secret: user, password, query and fragment.
pub(crate) fn place(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for addresses that cannot have a user at all.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_shows_nothing_secret() {
        let url: Url = "https://me:pw@cdn.example/blob?Signature=secret#frag".parse().expect("a URL");
        assert_eq!(place(&url), "https://cdn.example/blob");
    }

    #[test]
    fn a_redirected_question_names_both_places_however_often_it_moves() {
        let parse = |text: &str| -> Url { text.parse().expect("a URL") };
        let first = Ask::new(&parse("https://a.example/x"), "manifest", 1);
        let second = first.redirected(&parse("https://b.example/y?sig=1"));
        assert_eq!(second.place, "https://a.example/x -> https://b.example/y");
        let third = second.redirected(&parse("https://c.example/z"));
        assert_eq!(third.place, "https://a.example/x -> https://c.example/z");
    }
}
