//! [`Dice`]: every decision is a pure function of the seed, who decides, and the step.

use fastrand::Rng;

/// The source of all decisions.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a campaign.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other dice, for one part of the campaign: a round, a reader, a script.
    pub fn of(self, part: &str, number: u64) -> Self {
        let named = part.bytes().fold(self.0, |hash, byte| mix(hash ^ u64::from(byte)));
        Self(mix(named ^ mix(number)))
    }

    /// The decisions of one step.
    pub fn at(self, step: u64) -> Rng {
        Rng::with_seed(mix(self.0 ^ mix(step.wrapping_add(1))))
    }

    /// A seed for somebody else's decisions.
    pub fn seed(self) -> u64 {
        mix(self.0)
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `value`.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// One of several, by weight.
pub fn weighted<T: Copy>(rng: &mut Rng, choices: &[(u32, T)]) -> T {
    let sum: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut point = rng.u32(0..sum.max(1));
    for (weight, choice) in choices {
        if point < *weight {
            return *choice;
        }
        point -= weight;
    }
    choices[0].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_decides_the_same_and_another_part_or_step_otherwise() {
        let roll = |seed, part, number, step| Dice::new(seed).of(part, number).at(step).u64(..);
        assert_eq!(roll(1, "reader", 2, 3), roll(1, "reader", 2, 3));
        let others = [
            roll(2, "reader", 2, 3),
            roll(1, "script", 2, 3),
            roll(1, "reader", 3, 3),
            roll(1, "reader", 2, 4),
        ];
        assert!(others.iter().all(|other| *other != roll(1, "reader", 2, 3)), "{others:?}");
    }

    #[test]
    fn what_has_no_weight_is_never_chosen() {
        let mut rng = Dice::new(1).at(0);
        assert!((0..1000).all(|_| weighted(&mut rng, &[(0, 'a'), (1, 'b'), (3, 'c')]) != 'a'));
    }
}
