//! [`Counts`]: what has happened so far, and how it lies in memory as 64-bit words.
//!
//! | word | what |
//! | --- | --- |
//! | 0 | a mark of the build: sites and kinds, by name |
//! | 1 | whether faults may strike now |
//! | 2 | faults that the budget paid for |
//! | 3… | visits, by site |
//! | … | faults, by site and kind |

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Kind, Site};

const MARK: usize = 0;
const ARMED: usize = 1;
const SPENT: usize = 2;
const VISITS: usize = 3;
const FAULTS: usize = VISITS + Site::ALL.len();

/// How many words there are.
pub(crate) const WORDS: usize = FAULTS + Site::ALL.len() * Kind::ALL.len();

/// A view of the words.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(&'a [AtomicU64]);

impl<'a> Words<'a> {
    /// Wants at least [`WORDS`] words.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        assert!(words.len() >= WORDS, "{} of {WORDS} words", words.len());
        Self(words)
    }

    /// Makes zeros into counters of this build.
    pub fn begin(self) {
        self.0[MARK].store(mark(), Relaxed);
        self.arm(true);
    }

    /// Whether these are counters of this build.
    pub fn are_ours(self) -> bool {
        self.0[MARK].load(Relaxed) == mark()
    }

    pub fn arm(self, armed: bool) {
        self.0[ARMED].store(u64::from(armed), Relaxed);
    }

    pub fn are_armed(self) -> bool {
        self.0[ARMED].load(Relaxed) != 0
    }

    /// Counts a visit, and returns which one it was, from 1.
    pub fn visit(self, site: Site) -> u64 {
        self.0[VISITS + site.index()].fetch_add(1, Relaxed) + 1
    }

    /// Takes one fault out of a budget of `limit`; `false` when nothing is left of it.
    pub fn spend(self, limit: u64) -> bool {
        let more = |spent: u64| (spent < limit).then(|| spent + 1);
        self.0[SPENT].fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub fn count(self, site: Site, kind: Kind) {
        self.0[fault_at(site, kind)].fetch_add(1, Relaxed);
    }

    pub fn read(self) -> Counts {
        Counts { words: self.0[..WORDS].iter().map(|word| word.load(Relaxed)).collect() }
    }
}

fn fault_at(site: Site, kind: Kind) -> usize {
    FAULTS + site.index() * Kind::ALL.len() + kind.index()
}

/// Differs between builds that count different things.
fn mark() -> u64 {
    let names = Site::ALL.iter().map(|site| site.name()).chain(Kind::ALL.iter().map(|kind| kind.name()));
    names.flat_map(|name| name.bytes().chain([0])).fold(0x4c61_7264_6572_4646, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What has happened so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Counts {
    words: Vec<u64>,
}

/// The faults of one kind at one site.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Count {
    /// Where.
    pub site: Site,
    /// What.
    pub kind: Kind,
    /// How often.
    pub times: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { words: vec![0; WORDS] }
    }
}

impl Counts {
    /// How often `site` was visited while faults could strike.
    pub fn visits(&self, site: Site) -> u64 {
        self.words[VISITS + site.index()]
    }

    /// How often `kind` struck at `site`.
    pub fn faults(&self, site: Site, kind: Kind) -> u64 {
        self.words[fault_at(site, kind)]
    }

    /// Every fault that struck, by site and kind; what never struck is left out.
    pub fn all(&self) -> impl Iterator<Item = Count> + '_ {
        let pairs = Site::ALL.iter().flat_map(|site| Kind::ALL.iter().map(|kind| (*site, *kind)));
        pairs
            .map(|(site, kind)| Count { site, kind, times: self.faults(site, kind) })
            .filter(|count| count.times > 0)
    }

    /// How many faults there were in all.
    pub fn total(&self) -> u64 {
        self.all().map(|count| count.times).sum()
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words).skip(SPENT) {
            *word = word.saturating_add(*more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_budget_pays_for_as_many_faults_as_it_says() {
        let words = words();
        let words = Words::new(&words);
        assert_eq!((0..10).filter(|_| words.spend(3)).count(), 3);
        assert!(!words.spend(0));
    }

    #[test]
    fn counts_are_kept_apart_by_site_and_kind_and_add_up() {
        let words = words();
        let words = Words::new(&words);
        words.begin();
        assert_eq!(words.visit(Site::CachefilesPread), 1);
        assert_eq!(words.visit(Site::CachefilesPread), 2);
        words.count(Site::CachefilesPread, Kind::Eio);
        words.count(Site::LarderUnmounted, Kind::Die);
        let mut counts = words.read();
        assert_eq!(counts.visits(Site::CachefilesPread), 2);
        assert_eq!(counts.visits(Site::CachefilesPwrite), 0);
        assert_eq!(counts.faults(Site::LarderUnmounted, Kind::Die), 1);
        counts.add(&words.read());
        let expected = [
            Count { site: Site::CachefilesPread, kind: Kind::Eio, times: 2 },
            Count { site: Site::LarderUnmounted, kind: Kind::Die, times: 2 },
        ];
        assert_eq!(counts.all().collect::<Vec<_>>(), expected);
        assert_eq!(counts.total(), 4);
    }
}
