//! Random numbers that depend on a key only.

/// SplitMix64 (Steele, Lea and Flood 2014), seeded with a key such as (seed, class, round).
#[derive(Clone, Debug)]
pub struct KeyedRng {
    state: u64,
}

impl KeyedRng {
    /// A generator whose numbers depend on `key` only, so that results do not depend on threads or on the
    /// order of calls.
    #[must_use]
    pub fn new(key: &[u64]) -> Self {
        key.iter().fold(Self { state: 0 }, |mut rng, &part| Self { state: rng.next_u64() ^ part })
    }

    /// The next 64 random bits, from which all other random numbers are made: one step of SplitMix64, with
    /// the published constants.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random number below `n`; its bias, less than `n / 2⁶⁴`, is accepted.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// A random number from 0 to 1, 1 excluded, in steps of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (0.5f64).powi(53)
    }

    /// Puts the items in random order (the shuffle of Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference implementation (<https://prng.di.unimi.it/splitmix64.c>) from the state 1234567.
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = KeyedRng { state: 1_234_567 };
        let first = [random.next_u64(), random.next_u64(), random.next_u64()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let first = |key: &[u64]| KeyedRng::new(key).next_u64();
        let values = [first(&[]), first(&[0]), first(&[0, 0]), first(&[1, 0]), first(&[0, 1])];
        for (i, a) in values.iter().enumerate() {
            assert!(values[i + 1..].iter().all(|b| a != b), "{values:?}");
        }
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let mut rng = KeyedRng::new(&[3]);
        let mut bins = [0u32; 10];
        for _ in 0..10_000 {
            bins[(rng.uniform() * 10.0) as usize] += 1;
        }
        assert!(bins.iter().all(|&n| (850..1150).contains(&n)), "{bins:?}");
    }

    #[test]
    fn a_shuffle_keeps_every_item_once() {
        let mut items: Vec<u32> = (0..100).collect();
        KeyedRng::new(&[1]).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..100));
    }
}
