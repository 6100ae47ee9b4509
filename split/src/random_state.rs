//! numpy's legacy random numbers, with which scikit-learn draws its splits.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_match_numpy() {
        // numpy.random.RandomState(seed).permutation(10)
        assert_eq!(RandomState::new(0).permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(RandomState::new(u32::MAX).permutation(1), [0]);
    }
}
