//! Mixing of images within a batch: mixup (Zhang et al., ICLR 2018) and `CutMix` (Yun et al., ICCV 2019).

use headstock_split::KeyedRng;
use rayon::prelude::*;

/// Mixing of batches. With both, one of the two is chosen for each batch with equal probability, as with
/// torchvision's `RandomChoice`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct BatchMixing {
    /// `α` of mixup's `Beta(α, α)`, above 0.
    pub(super) mixup: Option<f64>,
    /// `α` of `CutMix`'s `Beta(α, α)`, above 0.
    pub(super) cutmix: Option<f64>,
}

/// How a batch was mixed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MixedBatch {
    /// For each image, the index of the image mixed into it.
    pub(super) partners: Vec<usize>,
    /// Weight of an image's own label.
    pub(super) lambda: f64,
}

impl BatchMixing {
    /// Mixes each image of a batch with a random image of the batch (its partner), in place, by mixup (a
    /// weighted sum) or `CutMix` (a rectangle is replaced). `shape` is `[N, H, W, C]`. Returns how the images
    /// were mixed, for the loss; `None`, with the batch unchanged, if mixing is off or the batch is empty.
    ///
    /// # Panics
    /// If `batch` does not have the number of values of `shape`.
    pub(super) fn apply(
        &self,
        batch: &mut [f32],
        shape: [usize; 4],
        random: &mut KeyedRng,
    ) -> Option<MixedBatch> {
        let [n_images, height, width, channels] = shape;
        assert_eq!(batch.len(), shape.iter().product::<usize>(), "a batch of {shape:?}");
        let (use_cutmix, alpha) = match (self.mixup, self.cutmix) {
            (None, None) => return None,
            (Some(alpha), None) => (false, alpha),
            (None, Some(alpha)) => (true, alpha),
            (Some(_), Some(alpha)) if random.uniform() < 0.5 => (true, alpha),
            (Some(alpha), Some(_)) => (false, alpha),
        };
        if batch.is_empty() {
            return None;
        }
        let mut partners: Vec<usize> = (0..n_images).collect();
        random.shuffle(&mut partners);
        // The share of itself that each image keeps.
        let lambda = sample_beta(alpha, random);
        let before = batch.to_vec();
        let image_len = height * width * channels;
        let pairs = batch.par_chunks_exact_mut(image_len).zip(&partners);
        let pairs = pairs.map(|(image, &partner)| (image, &before[partner * image_len..][..image_len]));
        if !use_cutmix {
            let (own_weight, partner_weight) = (lambda as f32, (1.0 - lambda) as f32);
            pairs.for_each(|(image, partner)| {
                for (value, partner_value) in image.iter_mut().zip(partner) {
                    *value = partner_weight * partner_value + own_weight * *value;
                }
            });
            return Some(MixedBatch { partners, lambda });
        }
        let center = [random.below(height), random.below(width)];
        // From here on, `lambda` is the exact share that remains.
        let ([rows, [start, end]], lambda) = cutmix_region(lambda, center, [height, width]);
        pairs.for_each(|(image, partner)| {
            for row in rows[0]..rows[1] {
                let span = (row * width + start) * channels..(row * width + end) * channels;
                image[span.clone()].copy_from_slice(&partner[span]);
            }
        });
        Some(MixedBatch { partners, lambda })
    }
}

/// Computes the rectangle that `CutMix` replaces by another image, around `center` (row, column), so that
/// about the share `lambda` of an image of `sides` (height, width) remains, as in torchvision. Returns the
/// rectangle, cut at the image's edges, as the start and end (exclusive) of its rows and of its columns, and
/// the exact share of the image outside of it, which is the weight of the image's own label in the loss.
fn cutmix_region(lambda: f64, center: [usize; 2], sides: [usize; 2]) -> ([[usize; 2]; 2], f64) {
    let range_along = |axis: usize| {
        // A rectangle of the area `1 - lambda` has sides of `sqrt(1 - lambda)`.
        let half = (0.5 * (1.0 - lambda).sqrt() * sides[axis] as f64) as usize;
        [center[axis].saturating_sub(half), (center[axis] + half).min(sides[axis])]
    };
    let region = [range_along(0), range_along(1)];
    let area: usize = region.iter().map(|[start, end]| end - start).product();
    (region, 1.0 - area as f64 / (sides[0] * sides[1]) as f64)
}

/// Draws a sample of `Beta(α, α)`, a number from 0 to 1, for the share `λ` that an image keeps. It is
/// `first / (first + second)` of two samples of `Gamma(α)`, computed from their logarithms, because both may
/// underflow.
fn sample_beta(alpha: f64, random: &mut KeyedRng) -> f64 {
    let first = sample_log_gamma(alpha, random);
    let second = sample_log_gamma(alpha, random);
    1.0 / (1.0 + (second - first).exp())
}

/// Draws a sample of the gamma distribution with this `shape` and scale 1, for [`sample_beta`], and returns
/// its logarithm, because the sample itself may underflow to 0. It is the rejection method of Marsaglia and
/// Tsang (ACM TOMS 26, 2000), with the names of the paper, and with their formula for a shape `a` below 1:
/// `Gamma(a) = Gamma(a + 1) * uniform^(1 / a)`.
fn sample_log_gamma(shape: f64, random: &mut KeyedRng) -> f64 {
    if shape < 1.0 {
        let larger = sample_log_gamma(shape + 1.0, random);
        // `1 - uniform` is never 0, so that the logarithm is finite.
        return larger + (1.0 - random.uniform()).ln() / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    // Draws candidates `d * v` until one is accepted.
    loop {
        let x = random.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - random.uniform();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::golden::Golden;

    const SHAPE: [usize; 4] = [5, 6, 7, 3];

    /// Every value identifies its image and position.
    fn batch() -> Vec<f32> {
        (0..SHAPE.iter().product::<usize>()).map(|i| i as f32).collect()
    }

    #[test]
    fn samples_are_distributed_as_scipys_beta() {
        const DRAWS: usize = 40_000;
        let golden = Golden::load();
        let (alphas, parts) = (golden.doubles("beta.alphas"), golden.doubles("beta.parts"));
        let (quantiles, variances) = (golden.doubles("beta.quantiles"), golden.doubles("beta.variances"));
        let of_alphas = alphas.iter().zip(quantiles.chunks_exact(parts.len())).zip(&variances);
        for ((&alpha, quantiles), &variance) in of_alphas {
            let mut random = KeyedRng::new(&[7]);
            let draws: Vec<f64> = (0..DRAWS).map(|_| sample_beta(alpha, &mut random)).collect();
            assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)), "{alpha}");
            // Bounds of four standard errors.
            let mean = draws.iter().sum::<f64>() / DRAWS as f64;
            assert!((mean - 0.5).abs() < 4.0 * (variance / DRAWS as f64).sqrt(), "{alpha}: {mean}");
            let found = draws.iter().map(|draw| (draw - 0.5).powi(2)).sum::<f64>() / DRAWS as f64;
            assert!((found / variance - 1.0).abs() < 0.04, "{alpha}: {found}, expected {variance}");
            for (&part, &quantile) in parts.iter().zip(quantiles) {
                let below = draws.iter().filter(|&&draw| draw <= quantile).count() as f64 / DRAWS as f64;
                let error = (part * (1.0 - part) / DRAWS as f64).sqrt();
                assert!(
                    (below - part).abs() < 4.0 * error,
                    "{alpha}: {below} below {quantile}, expected {part}"
                );
            }
        }
    }

    #[test]
    fn cutmix_regions_equal_torchvisions() {
        let rows = Golden::load().doubles("cutmix");
        assert!(rows.len() >= 9 * 100);
        for row in rows.chunks_exact(10) {
            let region_case: Vec<usize> = row[1..9].iter().map(|&value| value as usize).collect();
            let (found, lambda) =
                cutmix_region(row[0], [region_case[0], region_case[1]], [region_case[2], region_case[3]]);
            let oracle = [[region_case[4], region_case[5]], [region_case[6], region_case[7]]];
            assert_eq!(found, oracle, "{row:?}");
            assert!((lambda - row[9]).abs() < 1e-15, "{row:?}: {lambda}");
        }
    }

    #[test]
    fn mixup_is_a_weighted_mean_of_an_image_and_its_partner() {
        let mixing = BatchMixing { mixup: Some(0.4), cutmix: None };
        let (before, mut mixed_batch) = (batch(), batch());
        let MixedBatch { partners, lambda } =
            mixing.apply(&mut mixed_batch, SHAPE, &mut KeyedRng::new(&[1, 2])).unwrap();
        let mut sorted = partners.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        assert!(0.0 < lambda && lambda < 1.0 && partners != sorted);
        let size = before.len() / partners.len();
        for (i, value) in mixed_batch.iter().enumerate() {
            let (own_weight, partner_weight) =
                (f64::from(before[i]), f64::from(before[partners[i / size] * size + i % size]));
            let expected = lambda * own_weight + (1.0 - lambda) * partner_weight;
            assert!((f64::from(*value) - expected).abs() < 1e-3, "{i}: {value}, expected {expected}");
        }
    }

    #[test]
    fn cutmix_copies_a_region_of_the_partner_and_lambda_is_the_remaining_share() {
        let mixing = BatchMixing { mixup: None, cutmix: Some(1.0) };
        let mut seen = 0;
        for step in 0..20 {
            let (before, mut mixed_batch) = (batch(), batch());
            let MixedBatch { partners, lambda } =
                mixing.apply(&mut mixed_batch, SHAPE, &mut KeyedRng::new(&[1, step])).unwrap();
            let size = before.len() / partners.len();
            for (image, &partner) in partners.iter().enumerate() {
                let own_weight = |i: usize| mixed_batch[image * size + i] == before[image * size + i];
                assert!(
                    (0..size).all(|i| own_weight(i) || mixed_batch[image * size + i] == before[partner * size + i])
                );
                if partner != image {
                    let left = (0..size).filter(|&i| own_weight(i)).count() as f64 / size as f64;
                    assert!((left - lambda).abs() < 1e-12, "{left} is left, not {lambda}");
                    seen += usize::from(left < 1.0);
                }
            }
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn mixup_and_cutmix_are_chosen_equally_often_by_the_key() {
        let both = BatchMixing { mixup: Some(1.0), cutmix: Some(1.0) };
        let fractions = |step: u64| {
            let mut mixed_batch = batch();
            let mixed = both.apply(&mut mixed_batch, SHAPE, &mut KeyedRng::new(&[3, step]));
            assert_eq!(mixed, both.apply(&mut batch(), SHAPE, &mut KeyedRng::new(&[3, step])));
            // Only mixup gives fractions.
            usize::from(mixed_batch.iter().any(|value| value.fract() != 0.0))
        };
        let mixups: usize = (0..200).map(fractions).sum();
        assert!((70..=130).contains(&mixups), "{mixups} of 200");
    }

    #[test]
    fn without_either_nothing_is_mixed() {
        let mut mixed_batch = batch();
        assert_eq!(BatchMixing::default().apply(&mut mixed_batch, SHAPE, &mut KeyedRng::new(&[])), None);
        assert_eq!(mixed_batch, batch());
    }
}
