//! Tokens of anonymous readers: public registries want one even from nobody.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, WWW_AUTHENTICATE},
};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    Error, HttpClient, Meter,
    ask::Ask,
    body::read_bounded,
    challenge::Challenge,
    client::parse_url,
    redirect::{Arrival, follow},
    retry_after::retry_after,
};

const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const LIFETIME_UNLESS_TOLD: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The token of one repository, fetched once for all who need it and kept until shortly before it expires.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    current: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    expires: Instant,
    /// How it was had, to have the next one before a request fails for want of it.
    challenge: Challenge,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Gets `url`, following redirects, with a token when the registry wants one.
pub(crate) async fn get(
    client: &HttpClient,
    meter: &Meter,
    tokens: Option<&Tokens>,
    ask: &Ask,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Arrival, Error> {
    let Some(tokens) = tokens else {
        return follow(client, meter, ask, url, headers, None).await;
    };
    let bearer = tokens.current(client, meter, url).await?;
    let arrival = follow(client, meter, ask, url, headers, bearer.as_ref()).await?;
    // Only the registry itself may send for a token, not a place that it redirects to.
    if arrival.response.status().as_u16() != 401 || arrival.url.origin() != url.origin() {
        return Ok(arrival);
    }
    let Some(challenge) = challenge_of(&arrival.response) else { return Ok(arrival) };
    let bearer = tokens.renew(client, meter, url, challenge, bearer.as_ref()).await?;
    follow(client, meter, ask, url, headers, Some(&bearer)).await
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    let values = response.headers().get_all(WWW_AUTHENTICATE);
    values.iter().filter_map(|value| value.to_str().ok()).find_map(Challenge::parse)
}

impl Tokens {
    /// Returns the token at hand, a new one when it has expired, or nothing when none was ever wanted.
    async fn current(
        &self,
        client: &HttpClient,
        meter: &Meter,
        registry: &Url,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut current = self.current.lock().await;
        let Some(token) = &*current else { return Ok(None) };
        if Instant::now() < token.expires {
            return Ok(Some(token.header.clone()));
        }
        let challenge = token.challenge.clone();
        let token = fetch(client, meter, registry, challenge).await?;
        Ok(Some(current.insert(token).header.clone()))
    }

    /// Returns a token other than `refused`; whoever asks while it is being fetched gets the same one.
    async fn renew(
        &self,
        client: &HttpClient,
        meter: &Meter,
        registry: &Url,
        challenge: Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let mut current = self.current.lock().await;
        if let Some(token) = &*current
            && Some(&token.header) != refused
        {
            return Ok(token.header.clone());
        }
        let token = fetch(client, meter, registry, challenge).await?;
        Ok(current.insert(token).header.clone())
    }
}

/// Asks the realm of `challenge` for a token.
async fn fetch(
    client: &HttpClient,
    meter: &Meter,
    registry: &Url,
    challenge: Challenge,
) -> Result<Token, Error> {
    let url = token_url(registry, &challenge)?;
    let ask = Ask::new(&url, "token", ANSWER_BYTES_MAX);
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    let Arrival { response, ask, .. } = follow(client, meter, &ask, &url, &headers, None).await?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(ask.status(status, retry_after(response.headers(), std::time::SystemTime::now())));
    }
    let body = read_bounded(response, client.policy(), meter, &ask).await?;
    let (header, lifetime) = read_answer(&body).map_err(|reason| ask.answer(reason))?;
    Ok(Token { header, expires: Instant::now() + lifetime, challenge })
}

/// Returns the address to ask: the realm with service and scope. A registry on https cannot send us to http.
fn token_url(registry: &Url, challenge: &Challenge) -> Result<Url, Error> {
    let mut url = parse_url(&challenge.realm)?;
    if registry.scheme() == "https" && url.scheme() != "https" {
        let reason = "the registry names a token server without https".into();
        return Err(Error::Address { place: crate::ask::place(&url), reason });
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &challenge.service {
            query.append_pair("service", service);
        }
        for scope in challenge.scope.iter().flat_map(|scope| scope.split_ascii_whitespace()) {
            query.append_pair("scope", scope);
        }
    }
    Ok(url)
}

/// Reads the answer of a token server: the header to send and how long it holds, a tenth taken off.
fn read_answer(body: &[u8]) -> Result<(HeaderValue, Duration), &'static str> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the token server's answer is not understood")?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or("the token server's answer has no token")?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token server's answer is no token");
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| "the token server's answer is no token")?;
    header.set_sensitive(true);
    let lifetime = answer.expires_in.map_or(LIFETIME_UNLESS_TOLD, Duration::from_secs).min(LIFETIME_MAX);
    Ok((header, lifetime - lifetime / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_under_either_name_and_kept_out_of_debug_output() {
        let body = br#"{"token":"abc.DEF-1","expires_in":300,"issued_at":"now"}"#;
        let (header, lifetime) = read_answer(body).expect("sound");
        assert_eq!((header.as_bytes(), lifetime.as_secs()), (&b"Bearer abc.DEF-1"[..], 270));
        assert!(!format!("{header:?}").contains("abc"));
        let (header, lifetime) = read_answer(br#"{"access_token":"x"}"#).expect("sound");
        assert_eq!((header.as_bytes(), lifetime.as_secs()), (&b"Bearer x"[..], 54));
        let (_, lifetime) =
            read_answer(br#"{"token":"x","expires_in":18446744073709551615}"#).expect("sound");
        assert!(lifetime < LIFETIME_MAX);
    }

    #[test]
    fn an_answer_without_a_token_is_refused() {
        for body in
            ["", "{}", "[]", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":"x","expires_in":-1}"#]
        {
            read_answer(body.as_bytes()).expect_err(body);
        }
    }

    #[test]
    fn the_realm_gets_service_and_every_scope() {
        let challenge = |realm: &str| Challenge {
            realm: realm.into(),
            service: Some("a b".into()),
            scope: Some("repository:x:pull repository:y:pull".into()),
        };
        let registry: Url = "https://r.example/v2/x".parse().expect("a URL");
        let url = token_url(&registry, &challenge("https://t.example/token?a=1")).expect("sound");
        let expected = "a=1&service=a+b&scope=repository%3Ax%3Apull&scope=repository%3Ay%3Apull";
        assert_eq!(url.query(), Some(expected));
        for realm in ["http://t.example/token", "token", "file:///x"] {
            assert!(matches!(token_url(&registry, &challenge(realm)), Err(Error::Address { .. })), "{realm}");
        }
    }
}
