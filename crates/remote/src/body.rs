//! The body of an answer: read up to a bound, never beyond.

use bytes::{Bytes, BytesMut};
use larder_faults::{Site, length};
use reqwest::Response;
use rustix::io::Errno;
use tokio::time::timeout;

use crate::{Error, Meter, Policy, ask::Ask};

/// Memory is reserved ahead for at most this much: what the far side announces may be a lie.
pub(crate) const RESERVED_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where the pieces of a body go, in order, as they arrive.
pub(crate) type Sink<'a> = dyn FnMut(Bytes) + Send + 'a;

/// Hands over a body that must have exactly `expected` bytes; reads no further when it has more.
///
/// `sink` never gets more than `expected` bytes; what it was given before an error stays good.
pub(crate) async fn read_exact(
    response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    expected: u64,
    sink: &mut Sink<'_>,
) -> Result<(), Error> {
    if let Some(announced) = response.content_length()
        && announced != expected
    {
        return Err(ask.length(expected, announced));
    }
    let found = read(response, policy, meter, ask, expected, sink).await?;
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
    let reserved = response.content_length().unwrap_or(0).min(RESERVED_AHEAD_BYTES_MAX);
    bytes.reserve(usize::try_from(reserved).unwrap_or(0));
    let found = read(response, policy, meter, ask, max, &mut |piece| bytes.extend_from_slice(&piece)).await?;
    if found > max { Err(too_large()) } else { Ok(bytes.freeze()) }
}

/// Cuts the first piece of a body where an injected fault ends the connection; says whether it does.
pub(crate) fn cut(piece: &mut Bytes, ask: &Ask) -> Result<bool, Error> {
    let len = length(Site::RemoteBody, piece.len()).map_err(|fault| ask.broken(fault))?;
    let is_cut = len < piece.len();
    piece.truncate(len);
    Ok(is_cut)
}

/// Hands over pieces until the body ends or more than `max` bytes came, of which the excess is kept back. Returns how
/// many came.
async fn read(
    mut response: Response,
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    max: u64,
    sink: &mut Sink<'_>,
) -> Result<u64, Error> {
    let mut found: u64 = 0;
    while found <= max {
        let piece = timeout(policy.read_timeout, response.chunk()).await;
        let piece = piece.map_err(|_| ask.timeout(policy.read_timeout))?;
        let Some(mut piece) = piece.map_err(|error| ask.failed(error, policy.connect_timeout))? else {
            break;
        };
        meter.count_bytes(piece.len());
        let is_cut = found == 0 && cut(&mut piece, ask)?;
        let room = max - found;
        found += piece.len() as u64;
        piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if !piece.is_empty() {
            sink(piece);
        }
        if is_cut {
            return Err(ask.broken(Errno::CONNRESET));
        }
    }
    Ok(found)
}
