//! [`plan`]: from missing chunks to range requests.

use std::ops::Range;

use larder_remote::BlobRange;

/// A chunk that has to be brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Wanted {
    /// Its number in the chunk table.
    pub number: u32,
    /// Where it lies in the stored blob.
    pub stored: BlobRange,
}

/// What one range request may look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// A request ends before it would grow beyond this, so that several go out side by side; one chunk always fits.
    pub bytes_max: u64,
    /// Bytes between two neighbouring chunks (padding that belongs to no chunk) that are read along and dropped.
    pub bridge_bytes_max: u64,
}

/// One range request: neighbouring chunks, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    /// The chunks it brings.
    pub chunks: Range<u32>,
    /// The bytes it asks for: from the first chunk's first byte to the last chunk's last.
    pub stored: BlobRange,
}

/// Cuts `missing`, which ascends, into range requests.
///
/// Neighbours become one request up to the shape's limit; a chunk that is not wanted is never asked for (it is present
/// or being brought, and a byte is fetched once).
pub(crate) fn plan(missing: impl IntoIterator<Item = Wanted>, shape: Shape) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for wanted in missing {
        if let Some(last) = requests.last_mut()
            && let Some(merged) = merge(last, wanted, shape)
        {
            *last = merged;
            continue;
        }
        requests
            .push(Request { chunks: wanted.number..wanted.number.saturating_add(1), stored: wanted.stored });
    }
    requests
}

fn merge(request: &Request, next: Wanted, shape: Shape) -> Option<Request> {
    if request.chunks.end != next.number {
        return None;
    }
    let gap = next.stored.start().checked_sub(request.stored.end())?;
    let stored = BlobRange::new(request.stored.start(), next.stored.end())?;
    let fits = gap <= shape.bridge_bytes_max && stored.len() <= shape.bytes_max;
    fits.then(|| Request { chunks: request.chunks.start..next.number.saturating_add(1), stored })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { bytes_max: 100, bridge_bytes_max: 4 };

    fn wanted(number: u32, start: u64, len: u64) -> Wanted {
        Wanted { number, stored: BlobRange::at(start, len).expect("small numbers") }
    }

    fn request(chunks: Range<u32>, start: u64, end: u64) -> Request {
        Request { chunks, stored: BlobRange::new(start, end).expect("ascending") }
    }

    #[test]
    fn neighbours_become_one_request() {
        let got = plan([wanted(3, 30, 10), wanted(4, 40, 10), wanted(5, 50, 10)], SHAPE);
        assert_eq!(got, [request(3..6, 30, 60)]);
    }

    #[test]
    fn a_chunk_that_is_not_wanted_is_not_asked_for() {
        let got = plan([wanted(3, 30, 1), wanted(5, 32, 1)], SHAPE);
        assert_eq!(got, [request(3..4, 30, 31), request(5..6, 32, 33)]);
    }

    #[test]
    fn padding_between_neighbours_is_bridged_when_it_is_small() {
        let got = plan([wanted(0, 0, 10), wanted(1, 14, 10), wanted(2, 29, 10)], SHAPE);
        assert_eq!(got, [request(0..2, 0, 24), request(2..3, 29, 39)]);
    }

    #[test]
    fn a_long_run_is_split_and_a_huge_chunk_travels_alone() {
        let got = plan([wanted(0, 0, 60), wanted(1, 60, 60), wanted(2, 120, 500), wanted(3, 620, 10)], SHAPE);
        assert_eq!(
            got,
            [request(0..1, 0, 60), request(1..2, 60, 120), request(2..3, 120, 620), request(3..4, 620, 630)]
        );
    }

    #[test]
    fn nothing_missing_is_no_request() {
        assert_eq!(plan([], SHAPE), []);
    }

    proptest! {
        /// Every missing chunk is brought by exactly one request, nothing else is, and no request outgrows the shape.
        #[test]
        fn each_missing_chunk_is_in_exactly_one_request(
            table in prop::collection::vec((1u64..60, 0u64..8, any::<bool>()), 0..60),
            bytes_max in 1u64..200,
            bridge_bytes_max in 0u64..8,
        ) {
            let mut missing = Vec::new();
            let mut at = 0;
            for (number, (len, padding, absent)) in table.into_iter().enumerate() {
                let number = u32::try_from(number).expect("under sixty");
                if absent {
                    missing.push(wanted(number, at, len));
                }
                at += len + padding;
            }
            let requests = plan(missing.clone(), Shape { bytes_max, bridge_bytes_max });
            let brought: Vec<u32> = requests.iter().flat_map(|r| r.chunks.clone()).collect();
            let numbers: Vec<u32> = missing.iter().map(|w| w.number).collect();
            prop_assert_eq!(brought, numbers);
            for request in requests {
                prop_assert!(request.stored.len() <= bytes_max || request.chunks.len() == 1);
                for wanted in missing.iter().filter(|w| request.chunks.contains(&w.number)) {
                    prop_assert!(request.stored.start() <= wanted.stored.start());
                    prop_assert!(wanted.stored.end() <= request.stored.end());
                }
            }
        }
    }
}
