//! Random numbers: numpy's legacy generator for splits, keyed streams for augmentation.

use rand_mt::Mt;

/// numpy's `RandomState(seed)`: MT19937 with the legacy sampling methods. Gives the same numbers as numpy, so
/// that splits are those of scikit-learn.
///
/// Source: numpy's `random/mtrand.pyx` and `random/src/distributions/distributions.c` (`random_interval`).
#[derive(Debug)]
pub(crate) struct RandomState(Mt);

impl RandomState {
    /// The generator that numpy's `RandomState(seed)` gives for an integer.
    pub(crate) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// Uniform integer in `0..=max`, by which the shuffles of splits are drawn. Same draws as numpy's
    /// `random_interval`: takes as many bits of a random number as `max` has, and tries again while the
    /// result is above `max`.
    fn up_to(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.0.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// Shuffles `items` in place into the same order as numpy's `RandomState.shuffle`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.up_to(u32::try_from(i).expect("a data set has fewer than 2^32 samples"));
            items.swap(i, j as usize);
        }
    }

    /// The numbers `0..n` in random order: numpy's `RandomState.permutation(n)`.
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..n).collect();
        self.shuffle(&mut items);
        items
    }

    /// `size` different items in random order: numpy's `RandomState.choice(items, size, replace=False)`.
    pub(crate) fn choice(&mut self, items: &[usize], size: usize) -> Vec<usize> {
        self.permutation(items.len()).into_iter().take(size).map(|i| items[i]).collect()
    }
}

/// A random stream for augmentation that is determined by (seed, view index, image hash) and nothing else,
/// except for the step name in [`for_step`](Self::for_step).
///
/// `SplitMix64` (Steele, Lea and Flood 2014) whose initial state is mixed from these three.
#[derive(Debug)]
pub(crate) struct KeyedRandom(u64);

impl KeyedRandom {
    /// The random stream of the augmented view `view_index` of the image whose content has the hash
    /// `image_hash`. It does not depend on other images, so the order of images and the number of threads do
    /// not change the result.
    pub(crate) fn for_view(seed: u64, view_index: u64, image_hash: &[u8; 32]) -> Self {
        // The state is mixed with the view index, then with the hash, eight bytes at a time.
        let mut stream = Self(seed);
        let mut state = stream.next_u64() ^ view_index;
        for word in image_hash.chunks_exact(8) {
            stream.0 = state;
            state = stream.next_u64() ^ word.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        }
        stream.0 = state;
        stream
    }

    /// The random stream of one augmentation step of a view, such as `policy`. It is independent of the
    /// stream of [`for_view`](Self::for_view) and of other steps, so adding a step does not change the
    /// others.
    pub(crate) fn for_step(seed: u64, view_index: u64, image_hash: &[u8; 32], step_name: &str) -> Self {
        let mut stream = Self::for_view(seed, view_index, image_hash);
        for word in step_name.as_bytes().chunks(8) {
            stream.0 = stream.next_u64() ^ word.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
        }
        stream
    }

    /// The stream that starts from the generator state `state`.
    pub(crate) fn from_state(state: u64) -> Self {
        Self(state)
    }

    /// The next 64 random bits, from which all other draws are made. The generator is `SplitMix64`; the
    /// constants are those of its publication.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next_f64()
    }

    /// Uniform integer in `0..=max`.
    pub(crate) fn up_to(&mut self, max: u32) -> u32 {
        // 64 bits over a range of at most 2^32: the bias is below 2^-32.
        ((u128::from(self.next_u64()) * (u128::from(max) + 1)) >> 64) as u32
    }

    /// True with probability `p`.
    pub(crate) fn bernoulli(&mut self, p: f64) -> bool {
        self.next_f64() < p
    }

    /// Uniform index in `0..count`; `count` must be above 0.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.up_to(u32::try_from(count - 1).unwrap_or(u32::MAX)) as usize
    }

    /// The items in a uniformly random order (Fisher-Yates shuffle).
    pub(crate) fn shuffled<T, const N: usize>(&mut self, mut items: [T; N]) -> [T; N] {
        for i in (1..N).rev() {
            items.swap(i, self.index(i + 1));
        }
        items
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.next_f64()).cos()
    }

    /// A random number from the gamma distribution with this shape and scale 1, for
    /// [`dirichlet`](Self::dirichlet). The shape is clamped to 0.001..=1,000. The method and the names are
    /// those of Marsaglia and Tsang (2000): a transformed normal variate is accepted or rejected.
    fn gamma(&mut self, shape: f64) -> f64 {
        let shape = if shape > 1e-3 { shape.min(1e3) } else { 1e-3 };
        // A shape below 1 is reduced to one above 1.
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * (1.0 - self.next_f64()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.next_f64()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d * v;
            }
        }
    }

    /// `count` random weights that sum to 1, such as `AugMix` uses to mix images. They follow the symmetric
    /// Dirichlet distribution: gamma variates with the shape `concentration`, divided by their sum.
    pub(crate) fn dirichlet(&mut self, concentration: f64, count: usize) -> Vec<f64> {
        let weights: Vec<f64> = (0..count).map(|_| self.gamma(concentration)).collect();
        let sum: f64 = weights.iter().sum();
        // With a small concentration all weights can underflow to 0.
        weights.iter().map(|weight| if sum > 0.0 { weight / sum } else { 1.0 / count as f64 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_match_numpy() {
        // numpy.random.RandomState(seed).permutation(10)
        assert_eq!(RandomState::new(0).permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(RandomState::new(u32::MAX).permutation(1), [0]);
    }

    #[test]
    fn streams_differ_by_seed_view_and_image() {
        let draw = |seed, view, first| {
            let mut image_hash = [7; 32];
            image_hash[0] = first;
            KeyedRandom::for_view(seed, view, &image_hash).next_u64()
        };
        let base = draw(0, 1, 0);
        assert_eq!(base, draw(0, 1, 0));
        assert_ne!(base, draw(1, 1, 0));
        assert_ne!(base, draw(0, 2, 0));
        assert_ne!(base, draw(0, 1, 1));
    }

    #[test]
    fn each_step_name_has_its_own_stream() {
        let names = [
            "",
            "policy",
            "affine",
            "perspective",
            "color_jitter",
            "grayscale",
            "gaussian_blur",
            "gaussian_blue",
        ];
        let first = |step: &str| KeyedRandom::for_step(0, 1, &[7; 32], step).next_u64();
        let streams: std::collections::HashSet<u64> = names.into_iter().map(first).collect();
        assert_eq!(streams.len(), names.len());
        assert_eq!(first(""), KeyedRandom::for_view(0, 1, &[7; 32]).next_u64());
    }

    /// Reference outputs of the published generator for state 1234567.
    #[test]
    fn the_stream_matches_splitmix64() {
        let mut random = KeyedRandom::from_state(1_234_567);
        assert_eq!(
            [(); 3].map(|()| random.next_u64()),
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    /// Mean and variance of 20,000 draws.
    fn moments(mut draw: impl FnMut(&mut KeyedRandom) -> f64) -> [f64; 2] {
        let mut random = KeyedRandom::from_state(1);
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
        assert_moments(moments(|random| random.uniform(-2.0, 4.0)), 1.0, 3.0);
        assert_moments(moments(KeyedRandom::normal), 0.0, 1.0);
        for shape in [0.5, 1.0, 3.0] {
            assert_moments(moments(|random| random.gamma(shape)), shape, shape);
        }
        // The variance of a beta distribution with a = b = 0.7 is 1 / (4 (2 x 0.7 + 1)).
        assert_moments(moments(|random| random.dirichlet(0.7, 2)[0]), 0.5, 1.0 / 9.6);
        assert_moments(moments(|random| random.index(3) as f64), 1.0, 2.0 / 3.0);
        assert_moments(moments(|random| f64::from(u8::from(random.bernoulli(0.2)))), 0.2, 0.16);
    }

    #[test]
    fn probabilities_of_zero_and_one_are_certain() {
        let mut random = KeyedRandom::from_state(1);
        assert!((0..2000).all(|_| !random.bernoulli(0.0) && random.bernoulli(1.0) && random.index(1) == 0));
    }

    #[test]
    fn every_shuffle_is_equally_likely() {
        let mut seen = std::collections::BTreeMap::<[u8; 3], u32>::new();
        let mut random = KeyedRandom::from_state(1);
        for _ in 0..6000 {
            *seen.entry(random.shuffled([0, 1, 2])).or_default() += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    #[test]
    fn whole_numbers_cover_their_range() {
        let mut random = KeyedRandom::for_view(3, 0, &[0; 32]);
        let mut seen = [0; 4];
        for _ in 0..4000 {
            seen[random.up_to(3) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }
}
