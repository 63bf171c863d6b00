//! What is said to a request: the distribution API, or the fault that is due.

use std::{
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use http::{
    HeaderMap, HeaderName, Method, Request, Response,
    header::{
        ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
        LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use hyper::body::Incoming;

use crate::{
    Fault, Logged,
    body::{Finally, Plan, Sending},
    content::Stored,
    registry::Shared,
};

type Answer = Response<Sending>;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a path leads to.
struct Found {
    digest: String,
    media_type: String,
    stored: Stored,
}

/// Answers one request and notes it in the ledger. An error cuts the connection.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Answer> {
    tokio::time::sleep(shared.latency()).await;
    let text = |name| {
        request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let answer = choose(&shared, &request).await;
    let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().map(str::to_owned));
    let logged = Logged {
        path,
        query,
        range: text(RANGE),
        accept: text(ACCEPT),
        authorization: text(AUTHORIZATION),
        status,
    };
    shared.ledger().requests.push(logged);
    answer
}

async fn choose(shared: &Arc<Shared>, request: &Request<Incoming>) -> io::Result<Answer> {
    let path = request.uri().path();
    if let Some(refusal) = want_token(shared, request) {
        return Ok(refusal);
    }
    let found = find(shared, path);
    let len = found.as_ref().map_or(0, |found| found.stored.len());
    let range = asked_range(request.headers(), len);
    let (start, end) = range.unwrap_or((0, len));
    let fault = shared.script.take(path, start, end);
    match &fault {
        Some(Fault::Status(status)) => return Ok(plain(*status, "as told")),
        Some(Fault::RetryAfter { status, value }) => {
            return Ok(with(plain(*status, "later"), RETRY_AFTER, value));
        }
        Some(Fault::Hangup) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Fault::Stall(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Redirect { status, location }) => {
            let digest = found.as_ref().map_or("", |found| &found.digest);
            return Ok(with(plain(*status, ""), LOCATION, &location.replace("{digest}", digest)));
        }
        _ => {}
    }
    match found {
        _ if path == "/token" => Ok(plain(200, &token_answer(shared))),
        _ if path == "/v2/" => Ok(plain(200, "{}")),
        None => Ok(plain(404, r#"{"errors":[{"code":"NOT_FOUND"}]}"#)),
        Some(_) if start >= len && range.is_some() => {
            Ok(with(plain(416, ""), CONTENT_RANGE, &format!("bytes */{len}")))
        }
        Some(found) => Ok(send(shared, request.method(), found, range, fault)),
    }
}

/// Sends the bytes found, with whatever `fault` makes of them.
fn send(
    shared: &Arc<Shared>,
    method: &Method,
    found: Found,
    range: Option<(u64, u64)>,
    fault: Option<Fault>,
) -> Answer {
    let len = found.stored.len();
    let range = range.filter(|_| fault != Some(Fault::IgnoreRange));
    let (start, end) = range.unwrap_or((0, len));
    let mut plan = Plan::new(found.digest.clone(), found.stored, start, end);
    let mut content_range = range.map(|(start, end)| format!("bytes {start}-{}/{len}", end - 1));
    let (mut announced, mut encoding) = (Some(end - start), None);
    match fault {
        Some(Fault::CloseEarly { after }) => plan.stop_after(after, Finally::Cut),
        Some(Fault::StallBody { after }) => plan.stop_after(after, Finally::Silence),
        Some(Fault::FlipBit { offset, .. }) => plan.flip = Some(offset),
        Some(Fault::WrongLength { by, announced: told }) => {
            let sent = (end - start).saturating_add_signed(by);
            plan.extra = sent.saturating_sub(end - start);
            plan.stop_after(sent, Finally::End);
            announced = told.then_some(sent);
        }
        Some(Fault::WrongContentRange(value)) => {
            content_range = Some(value).filter(|value| !value.is_empty())
        }
        Some(Fault::ContentEncoding(value)) => encoding = Some(value),
        Some(Fault::SlowDrip { piece, every }) => (plan.piece, plan.pause) = ((piece as u64).max(1), every),
        _ => {}
    }
    let status = if range.is_some() { 206 } else { 200 };
    let body = if method == Method::HEAD { Sending::of("") } else { plan.send(Arc::clone(shared)) };
    let mut answer = Response::builder().status(status).body(body).expect("a sound status");
    for (name, value) in [
        (ACCEPT_RANGES, Some("bytes".to_owned())),
        (CONTENT_TYPE, Some(found.media_type)),
        (DIGEST, Some(found.digest)),
        (CONTENT_RANGE, content_range),
        (CONTENT_ENCODING, encoding),
        (CONTENT_LENGTH, announced.map(|len| len.to_string())),
    ] {
        if let Some(value) = value {
            answer = with(answer, name, &value);
        }
    }
    answer
}

fn find(shared: &Shared, path: &str) -> Option<Found> {
    let blob = |digest: &str| {
        let stored = shared.content.blob(digest)?.clone();
        Some(Found { digest: digest.to_owned(), media_type: "application/octet-stream".into(), stored })
    };
    if let Some(digest) = path.strip_prefix("/cdn/") {
        return blob(digest);
    }
    let rest = path.strip_prefix("/v2/")?;
    if let Some((_, digest)) = rest.rsplit_once("/blobs/") {
        return blob(digest);
    }
    let (_, reference) = rest.rsplit_once("/manifests/")?;
    let (digest, media_type, stored) = shared.content.manifest(reference)?;
    Some(Found { digest, media_type, stored })
}

/// Reads `Range: bytes=a-b` or `bytes=a-`, cut to `len`; anything else counts as absent.
fn asked_range(headers: &HeaderMap, len: u64) -> Option<(u64, u64)> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) =
        (first.parse().ok()?, if last.is_empty() { u64::MAX } else { last.parse().ok()? });
    (first <= last).then(|| (first, last.saturating_add(1).min(len)))
}

/// Returns the 401 that sends the client for a token, unless it has the newest one or none is wanted.
fn want_token(shared: &Shared, request: &Request<Incoming>) -> Option<Answer> {
    let path = request.uri().path();
    let wanted = path.starts_with("/v2/") && shared.tokens.lifetime_s.load(SeqCst) > 0;
    let good = format!("Bearer {}", token(shared));
    if !wanted
        || request.headers().get(AUTHORIZATION).is_some_and(|found| found.as_bytes() == good.as_bytes())
    {
        return None;
    }
    let challenge =
        format!(r#"Bearer realm="{}/token",service="testkit",scope="repository:any:pull""#, shared.url());
    Some(with(plain(401, ""), WWW_AUTHENTICATE, &challenge))
}

fn token(shared: &Shared) -> String {
    format!("token-{}", shared.tokens.serial.load(SeqCst))
}

fn token_answer(shared: &Shared) -> String {
    let lifetime_s = shared.tokens.lifetime_s.load(SeqCst);
    format!(r#"{{"token":"{}","expires_in":{lifetime_s}}}"#, token(shared))
}

fn plain(status: u16, body: &str) -> Answer {
    Response::builder().status(status).body(Sending::of(body.to_owned())).expect("a status from 100 to 999")
}

fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    answer.headers_mut().insert(name, value.parse().expect("a header value"));
    answer
}
