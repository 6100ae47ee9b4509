//! Split by the hash of each sample's id.

use sha2::{Digest, Sha256};

use crate::error::SplitError;
use crate::parts::SplitIndices;
use crate::test_size::TestSize;

/// A split in which the set of each sample depends only on its key and `seed`, so adding or removing samples
/// does not move others. Indices are ascending.
///
/// `keys[i]` is the id of sample `i`, or the name of its group to keep groups together. A sample is in the
/// test set if the first 53 bits of `SHA-256(seed as 4 bytes, little-endian, then the key)`, read as a binary
/// fraction, are below `test_size`. The size of the test set is random with that mean, and class proportions
/// are not preserved. A larger `test_size` only adds samples to the test set.
///
/// ```
/// use headstock_split::{TestSize, hash_split};
///
/// let keys = ["dress/1.jpg", "dress/2.jpg", "dress/3.jpg", "hat/1.jpg"];
/// let test_size = TestSize::Fraction(0.5);
/// assert_eq!(hash_split(&keys, test_size, 0)?.test, [0, 1, 3]);
/// let more = [keys.as_slice(), &["hat/2.jpg"]].concat();
/// assert_eq!(hash_split(&more, test_size, 0)?.test, [0, 1, 3]);
/// # Ok::<(), headstock_split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`] for no samples, a size that is not a fraction between 0 and 1, or all samples in one set.
pub fn hash_split(
    keys: &[impl AsRef<[u8]>],
    test_size: TestSize,
    seed: u32,
) -> Result<SplitIndices, SplitError> {
    let fraction = match test_size {
        TestSize::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => fraction,
        _ => return Err(SplitError::NotAFraction { test_size }),
    };
    if keys.is_empty() {
        return Err(SplitError::Empty);
    }
    let (test, train): (Vec<usize>, Vec<usize>) =
        (0..keys.len()).partition(|&index| unit_hash(keys[index].as_ref(), seed) < fraction);
    if test.is_empty() || train.is_empty() {
        return Err(SplitError::EmptySide { fraction, samples: keys.len(), all_test: train.is_empty() });
    }
    Ok(SplitIndices { train, test })
}

/// A random-looking but fixed number in `[0, 1)` for a sample's `key`, which [`hash_split`] compares with the
/// test size: the first 53 bits (the precision of an `f64`) of the SHA-256 hash of `seed` and `key`, read as
/// a binary fraction.
fn unit_hash(key: &[u8], seed: u32) -> f64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(key).finalize();
    // The first 8 bytes of the hash as a big-endian number.
    let bits = digest.iter().take(8).fold(0, |bits: u64, &byte| bits << 8 | u64::from(byte));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
