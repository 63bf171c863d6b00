//! Redirects, followed by hand: the last address is wanted, and a token must not leave its host.

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, LOCATION},
};
use reqwest::{Response, Url};

use crate::{Error, HttpClient, Meter, ask::Ask};

const REDIRECTS_MAX: usize = 5;

/// An answer that is no redirect, and where it came from.
pub(crate) struct Arrival {
    pub response: Response,
    pub url: Url,
    /// The question, naming the last place.
    pub ask: Ask,
}

/// Sends a GET to `first` and follows redirects. `bearer` goes to that origin only, and not again once it was left.
pub(crate) async fn follow(
    client: &HttpClient,
    meter: &Meter,
    ask: &Ask,
    first: &Url,
    headers: &HeaderMap,
    bearer: Option<&HeaderValue>,
) -> Result<Arrival, Error> {
    let (mut url, mut ask, mut bearer) = (first.clone(), ask.clone(), bearer);
    for _ in 0..=REDIRECTS_MAX {
        let mut headers = headers.clone();
        if let Some(bearer) = bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        let response = client.send(meter, &ask, &url, headers).await?;
        if !is_redirect(response.status().as_u16()) {
            return Ok(Arrival { response, url, ask });
        }
        let next = next_url(&url, response.headers()).map_err(|reason| ask.redirect(reason))?;
        if next.origin() != first.origin() {
            bearer = None;
        }
        ask = ask.redirected(&next);
        url = next;
    }
    Err(ask.redirect(format!("redirected more than {REDIRECTS_MAX} times")))
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns where a redirect leads, seen from `url`, or why it is not followed.
pub(crate) fn next_url(url: &Url, headers: &HeaderMap) -> Result<Url, &'static str> {
    let location = headers.get(LOCATION).ok_or("a redirect without Location")?;
    let location = location.to_str().map_err(|_| "a redirect whose Location is not text")?;
    let next = url.join(location).map_err(|_| "a redirect whose Location is no address")?;
    match (url.scheme(), next.scheme()) {
        ("https", "http") => Err("a redirect from https to http"),
        (_, "http" | "https") if next.host().is_some() => Ok(next),
        _ => Err("a redirect to something that is neither http nor https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(from: &str, location: &str) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().expect("a header value"));
        next_url(&from.parse().expect("a URL"), &headers).map(Into::into)
    }

    #[test]
    fn a_relative_location_is_seen_from_where_it_was_said() {
        let from = "https://a.example/v2/r/blobs/x?q=1";
        for (location, expected) in [
            ("/cdn/x", "https://a.example/cdn/x"),
            ("y", "https://a.example/v2/r/blobs/y"),
            ("//b.example/x", "https://b.example/x"),
            ("https://c.example:8443/x?sig=1", "https://c.example:8443/x?sig=1"),
        ] {
            assert_eq!(next(from, location).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn an_unsafe_location_is_refused() {
        assert_eq!(next("https://a.example/x", "http://a.example/x"), Err("a redirect from https to http"));
        next("http://a.example/x", "https://a.example/x").expect("upwards is fine");
        for location in ["file:///etc/passwd", "ftp://a.example/x", "data:text/plain,x", "http://"] {
            next("http://a.example/x", location).expect_err(location);
        }
        let nothing = next_url(&"http://a.example/".parse().expect("a URL"), &HeaderMap::new());
        assert_eq!(nothing, Err("a redirect without Location"));
    }
}
