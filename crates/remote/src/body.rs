//! The body of an answer: read up to a bound, never beyond.

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::time::timeout;

use crate::{Error, Meter, Policy, ask::Ask};

/// Memory is reserved ahead for at most this much: what the far side announces may be a lie.
const RESERVED_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Appends to `into` a body that must have exactly `expected` bytes; reads no further when it has more.
///
/// On an error, what came before stays in `into`.
pub(crate) async fn read_exact(
    response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    expected: u64,
    into: &mut BytesMut,
) -> Result<(), Error> {
    if let Some(announced) = response.content_length()
        && announced != expected
    {
        return Err(ask.length(expected, announced));
    }
    let found = read(response, policy, meter, ask, expected, into).await?;
    if found == expected { Ok(()) } else { Err(ask.length(expected, found)) }
}

/// Reads a body that may have up to `ask.bytes` bytes.
pub(crate) async fn read_bounded(
    response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
) -> Result<Bytes, Error> {
    let (max, mut bytes) = (ask.bytes, BytesMut::new());
    let too_large = || Error::TooLarge { place: ask.place.clone(), range: ask.what.clone(), max };
    if response.content_length().is_some_and(|announced| announced > max) {
        return Err(too_large());
    }
    let found = read(response, policy, meter, ask, max, &mut bytes).await?;
    if found > max { Err(too_large()) } else { Ok(bytes.freeze()) }
}

/// Appends to `into` until the body ends or more than `max` bytes came; the piece that passes the bound is the last.
/// Returns how many came.
async fn read(
    mut response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    max: u64,
    into: &mut BytesMut,
) -> Result<u64, Error> {
    let reserved = response.content_length().unwrap_or(0).min(max).min(RESERVED_AHEAD_BYTES_MAX);
    into.reserve(usize::try_from(reserved).unwrap_or(0));
    let mut found = 0;
    while found <= max {
        let piece = timeout(policy.read_timeout, response.chunk()).await;
        let piece = piece.map_err(|_| ask.timeout(policy.read_timeout))?;
        let Some(piece) = piece.map_err(|error| ask.failed(error, policy.connect_timeout))? else { break };
        meter.count_bytes(piece.len());
        into.extend_from_slice(&piece);
        found += piece.len() as u64;
    }
    Ok(found)
}
