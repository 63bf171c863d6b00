//! [`Inputs`]: the inputs of a run, each by its number.

use crate::damage::damage;

/// Bytes of an input, at most, unless a valid one has more.
const INPUT_BYTES_MAX: usize = 1 << 16;
/// Bytes of an input that comes from nowhere, at most.
const RANDOM_BYTES_MAX: usize = 512;

/// What a run gives to its target. Input `n` follows from the seed and `n`: first the valid ones, then mutated ones.
pub struct Inputs {
    valid: Vec<Vec<u8>>,
    seed: u64,
}

impl Inputs {
    pub fn new(valid: Vec<Vec<u8>>, seed: u64) -> Self {
        Self { valid, seed }
    }

    /// Input number `number`.
    pub fn get(&self, number: u64) -> Vec<u8> {
        if let Some(valid) = usize::try_from(number).ok().and_then(|number| self.valid.get(number)) {
            return valid.clone();
        }
        let mut dice = fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut bytes = if self.valid.is_empty() || dice.u8(..) < 8 {
            let len = dice.usize(..=RANDOM_BYTES_MAX);
            std::iter::repeat_with(|| dice.u8(..)).take(len).collect()
        } else {
            self.valid[dice.usize(..self.valid.len())].clone()
        };
        for _ in 0..=dice.usize(..8) {
            self.mutate(&mut bytes, &mut dice);
        }
        bytes
    }

    /// Mostly damages one place; sometimes takes bytes away, repeats some, or puts in some of another valid input.
    fn mutate(&self, bytes: &mut Vec<u8>, dice: &mut fastrand::Rng) {
        if bytes.is_empty() {
            bytes.push(dice.u8(..));
        }
        let limit = INPUT_BYTES_MAX.max(bytes.len());
        let at = dice.usize(..bytes.len());
        let some = |dice: &mut fastrand::Rng, len: usize| {
            let start = dice.usize(..=len);
            let most = 1 << dice.u8(..13);
            start..start + dice.usize(..=most.min(len - start))
        };
        match dice.u8(..24) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(some(dice, bytes.len()))),
            2 => {
                let again = bytes[some(dice, bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            3 if !self.valid.is_empty() => {
                let other = &self.valid[dice.usize(..self.valid.len())];
                bytes.splice(at..at, other[some(dice, other.len())].iter().copied());
            }
            _ => damage(bytes, at, |limit| dice.usize(..limit)),
        }
        bytes.truncate(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_follows_from_seed_and_number() {
        let valid = vec![b"one".to_vec(), vec![7; 3000]];
        let inputs = Inputs::new(valid.clone(), 5);
        assert_eq!((inputs.get(0), inputs.get(1)), (valid[0].clone(), valid[1].clone()));
        let other = Inputs::new(valid.clone(), 6);
        let all: Vec<_> = (2..200).map(|number| inputs.get(number)).collect();
        assert!(
            (2..200).zip(&all).all(|(number, bytes)| Inputs::new(valid.clone(), 5).get(number) == *bytes)
        );
        assert!((2..200).zip(&all).filter(|&(number, bytes)| other.get(number) == *bytes).count() < 20);
        assert!(all.iter().filter(|bytes| !valid.contains(bytes)).count() > 150, "most are changed");
        assert!(all.iter().all(|bytes| bytes.len() <= INPUT_BYTES_MAX));
    }

    #[test]
    fn without_valid_inputs_they_come_from_nowhere() {
        let inputs = Inputs::new(Vec::new(), 1);
        assert!((0..50).map(|number| inputs.get(number).len()).max() > Some(100));
    }
}
