//! Random numbers that depend on a key only.

/// SplitMix64 (Steele, Lea and Flood 2014), seeded with a key such as (seed, class, round) or (seed, view, hash
/// of an image).
///
/// The numbers depend on the key only, so that results do not depend on threads or on the order of calls.
#[derive(Clone, Debug)]
pub struct KeyedRng {
    state: u64,
}

impl KeyedRng {
    /// The generator of the key `key`.
    #[must_use]
    pub fn new(key: &[u64]) -> Self {
        Self::from_state(0).with_key(key)
    }

    /// The generator of SplitMix64 in the state `state`.
    #[must_use]
    pub fn from_state(state: u64) -> Self {
        Self { state }
    }

    /// The generator whose key is this one's, followed by `key`.
    #[must_use]
    pub fn with_key(self, key: &[u64]) -> Self {
        key.iter().fold(self, |mut rng, &part| Self { state: rng.next_u64() ^ part })
    }

    /// The generator whose key is this one's, followed by `bytes`, eight at a time (big-endian), such as a hash
    /// or a name.
    #[must_use]
    pub fn with_bytes(self, bytes: &[u8]) -> Self {
        let to_number = |word: &[u8]| word.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        self.with_key(&bytes.chunks(8).map(to_number).collect::<Vec<_>>())
    }

    /// The next 64 random bits, from which all other random numbers are made: one step of SplitMix64, with
    /// the published constants.
    pub fn next_u64(&mut self) -> u64 {
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

    /// Uniform from `low` to `high`, `high` excluded.
    pub fn uniform_between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in `0..=max`.
    pub fn up_to(&mut self, max: u32) -> u32 {
        // 64 bits over a range of at most 2^32: the bias is below 2^-32.
        ((u128::from(self.next_u64()) * (u128::from(max) + 1)) >> 64) as u32
    }

    /// True with probability `p`.
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A random number from the gamma distribution with this shape and scale 1, for
    /// [`dirichlet`](Self::dirichlet). The shape is clamped to 0.001..=1,000. The method and the names are
    /// those of Marsaglia and Tsang (2000): a transformed normal variate is accepted or rejected.
    fn gamma(&mut self, shape: f64) -> f64 {
        let shape = if shape > 1e-3 { shape.min(1e3) } else { 1e-3 };
        // A shape below 1 is reduced to one above 1.
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * (1.0 - self.uniform()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d * v;
            }
        }
    }

    /// `count` random weights that sum to 1, such as `AugMix` uses to mix images. They follow the symmetric
    /// Dirichlet distribution: gamma variates with the shape `concentration`, divided by their sum.
    pub fn dirichlet(&mut self, concentration: f64, count: usize) -> Vec<f64> {
        let weights: Vec<f64> = (0..count).map(|_| self.gamma(concentration)).collect();
        let sum: f64 = weights.iter().sum();
        // With a small concentration all weights can underflow to 0.
        weights.iter().map(|weight| if sum > 0.0 { weight / sum } else { 1.0 / count as f64 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference implementation (<https://prng.di.unimi.it/splitmix64.c>) from the state 1234567.
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = KeyedRng::from_state(1_234_567);
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

    #[test]
    fn every_shuffle_is_equally_likely() {
        let mut seen = std::collections::BTreeMap::<[u8; 3], u32>::new();
        let mut random = KeyedRng::from_state(1);
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            random.shuffle(&mut items);
            *seen.entry(items).or_default() += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    /// Mean and variance of 20,000 draws.
    fn moments(mut draw: impl FnMut(&mut KeyedRng) -> f64) -> [f64; 2] {
        let mut random = KeyedRng::from_state(1);
        let values: Vec<f64> = (0..20_000).map(|_| draw(&mut random)).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        [mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 20_000.0]
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let assert_moments = |[our_mean, our_variance]: [f64; 2], mean: f64, variance: f64| {
            // Tolerance: five standard errors of the mean, 10 % of the variance.
            let tolerance = 5.0 * (variance / 20_000.0).sqrt();
            assert!((our_mean - mean).abs() < tolerance, "mean {our_mean}, not {mean}");
            assert!((our_variance / variance - 1.0).abs() < 0.1, "variance {our_variance}, not {variance}");
        };
        assert_moments(moments(|random| random.uniform_between(-2.0, 4.0)), 1.0, 3.0);
        assert_moments(moments(KeyedRng::normal), 0.0, 1.0);
        for shape in [0.5, 1.0, 3.0] {
            assert_moments(moments(|random| random.gamma(shape)), shape, shape);
        }
        // The variance of a beta distribution with a = b = 0.7 is 1 / (4 (2 x 0.7 + 1)).
        assert_moments(moments(|random| random.dirichlet(0.7, 2)[0]), 0.5, 1.0 / 9.6);
        assert_moments(moments(|random| random.below(3) as f64), 1.0, 2.0 / 3.0);
        assert_moments(moments(|random| f64::from(u8::from(random.bernoulli(0.2)))), 0.2, 0.16);
    }

    #[test]
    fn probabilities_of_zero_and_one_are_certain() {
        let mut random = KeyedRng::from_state(1);
        assert!((0..2000).all(|_| !random.bernoulli(0.0) && random.bernoulli(1.0) && random.below(1) == 0));
    }

    #[test]
    fn whole_numbers_cover_their_range() {
        let mut random = KeyedRng::new(&[3]);
        let mut seen = [0; 4];
        for _ in 0..4000 {
            seen[random.up_to(3) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }
}
