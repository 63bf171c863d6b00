//! [`Search`]: fills a space with a codec that only knows how to encode all of an input.
//!
//! mkfs.erofs halves an interval, each time encoding anew: some ten times for a pcluster. Here the first length is
//! predicted from the pclusters before, the others from what was measured: the encoded size grows so evenly with the
//! input that the second or third attempt fills the space to within half a percent.

use super::Filled;

/// Attempts at a pcluster, at most. The longest that fitted counts.
const ATTEMPTS_MAX: u32 = 6;
/// Space left that is not worth another attempt: this part of the whole.
const SLACK: usize = 220;
/// Aims at so much less than the whole: a little too long costs an attempt, a little too short nearly nothing.
const MARGIN: usize = 600;
/// Without experience: a codec makes a half of its input.
const RATIO_USUAL: usize = 2 << 16;

/// What is predicted from the pclusters before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    /// Input bytes for 65,536 encoded ones; 0 when nothing is known.
    ratio: usize,
}

impl Search {
    /// Finds a long beginning of `input` bytes that `encode` makes fit into `space` bytes.
    ///
    /// `encode` is given a length and says how many bytes it makes of it; it keeps them when they fit, since each
    /// attempt that fits is longer than those before. `None` when nothing fits.
    pub(super) fn run(
        &mut self,
        input: usize,
        space: usize,
        mut encode: impl FnMut(usize) -> Option<usize>,
    ) -> Option<Filled> {
        let ratio = if self.ratio == 0 { RATIO_USUAL } else { self.ratio };
        let aim = space - space / MARGIN;
        let (mut fits, mut exceeds): (Option<Filled>, Option<Filled>) = (None, None);
        let mut len = ((aim * ratio) >> 16).clamp(1, input);
        for _ in 0..ATTEMPTS_MAX {
            let attempt = Filled { consumed: len, produced: encode(len)? };
            if attempt.produced > space {
                exceeds = Some(attempt);
            } else {
                fits = Some(attempt);
                if len == input || attempt.produced + space / SLACK >= space {
                    break;
                }
            }
            let least = fits.map_or(1, |fits| fits.consumed + 1);
            let most = exceeds.map_or(input, |exceeds| exceeds.consumed - 1);
            if least > most {
                break;
            }
            len = next(fits, exceeds, aim).clamp(least, most);
        }
        let known = fits.or(exceeds)?;
        self.ratio = (known.consumed << 16) / known.produced.max(1);
        fits
    }
}

/// The length whose encoding measures `aim`: on the line through what fits and what does not, or through nothing.
fn next(fits: Option<Filled>, exceeds: Option<Filled>, aim: usize) -> usize {
    let nothing = Filled { consumed: 0, produced: 0 };
    let below = if exceeds.is_some() { fits } else { None }.unwrap_or(nothing);
    let Some(above) = exceeds.or(fits) else { return 0 };
    let (bytes, encoded) = (above.consumed - below.consumed, above.produced - below.produced);
    below.consumed + aim.saturating_sub(below.produced) * bytes / encoded.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A codec that makes a third of its input and a head of 20 bytes.
    fn third(len: usize) -> Option<usize> {
        Some(20 + len / 3)
    }

    fn count(search: &mut Search, input: usize, space: usize) -> (Option<Filled>, usize) {
        let mut attempts = 0;
        let filled = search.run(input, space, |len| {
            attempts += 1;
            third(len)
        });
        (filled, attempts)
    }

    #[test]
    fn the_space_is_filled_in_a_few_attempts_and_in_one_when_nothing_changes() {
        for space in [512, 4096, 65536] {
            let mut search = Search::default();
            let (filled, attempts) = count(&mut search, 1 << 20, space);
            let filled = filled.expect("fits");
            assert!(filled.produced <= space && filled.produced + space / SLACK >= space, "{filled:?}");
            assert!(attempts <= 3, "{attempts} for {space}");
            let (filled, attempts) = count(&mut search, 1 << 20, space);
            assert!(filled.is_some() && attempts == 1, "{attempts} for {space}");
        }
    }

    #[test]
    fn all_of_a_short_input_is_one_attempt() {
        let (filled, attempts) = count(&mut Search::default(), 3000, 4096);
        assert_eq!((filled.map(|filled| filled.consumed), attempts), (Some(3000), 1));
    }

    #[test]
    fn what_never_fits_is_none() {
        assert_eq!(Search::default().run(100, 10, |len| Some(len + 20)), None);
        assert_eq!(Search::default().run(100, 10, |_| None), None);
    }
}
