//! The body of an answer: read up to a bound, never beyond.

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::time::timeout;

use crate::{Error, Meter, Policy, ask::Ask};

/// Memory is reserved ahead for at most this much: what the far side announces may be a lie.
const RESERVED_AHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a body that must have exactly `expected` bytes; reads no further when it has more.
pub(crate) async fn read_exact(
    response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    expected: u64,
) -> Result<Bytes, Error> {
    if let Some(announced) = response.content_length()
        && announced != expected
    {
        return Err(ask.length(expected, announced));
    }
    let bytes = read(response, policy, meter, ask, expected).await?;
    let found = bytes.len() as u64;
    if found == expected { Ok(bytes) } else { Err(ask.length(expected, found)) }
}

/// Reads a body that may have up to `ask.bytes` bytes.
pub(crate) async fn read_bounded(
    response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
) -> Result<Bytes, Error> {
    let max = ask.bytes;
    let too_large = || Error::TooLarge { place: ask.place.clone(), range: ask.what.clone(), max };
    if response.content_length().is_some_and(|announced| announced > max) {
        return Err(too_large());
    }
    let bytes = read(response, policy, meter, ask, max).await?;
    if bytes.len() as u64 > max { Err(too_large()) } else { Ok(bytes) }
}

/// Reads until the body ends or has more than `max` bytes; the piece that passes the bound is the last.
async fn read(
    mut response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    max: u64,
) -> Result<Bytes, Error> {
    let reserved = response.content_length().unwrap_or(0).min(max).min(RESERVED_AHEAD_BYTES_MAX);
    let mut bytes = BytesMut::with_capacity(usize::try_from(reserved).unwrap_or(0));
    while bytes.len() as u64 <= max {
        let piece = timeout(policy.read_timeout, response.chunk()).await;
        let piece = piece.map_err(|_| ask.timeout(policy.read_timeout))?;
        let Some(piece) = piece.map_err(|error| ask.failed(error, policy.connect_timeout))? else { break };
        meter.count_bytes(piece.len());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}
