//! Nearest neighbors by features: outliers and similar pairs.

use headstock_heads::knn::nearest_neighbors;
use headstock_heads::{DistanceMetric, FeatureMatrix};

use crate::statistics::median;

/// Number of neighbors whose mean distance is the outlier score.
const N_NEIGHBORS: usize = 10;

/// Maximum number of images that neighbors are searched among; limits the cost to be linear in the number of
/// images.
pub(super) const MAX_REFERENCE_IMAGES: usize = 20_000;

/// An outlier is this many robust standard deviations above the median.
const OUTLIER_DEVIATIONS: f64 = 3.5;

/// What the nearest neighbors of all images by features show: how unusual each image is, and similar pairs.
pub(super) struct NeighborGraph {
    /// The mean cosine distance of each image to its 10 nearest neighbors.
    pub(super) distances: Vec<f64>,
    /// Pairs of similar images, each once: the lower index, the higher index, and the cosine similarity of
    /// their features.
    pub(super) pairs: Vec<(usize, usize, f64)>,
}

impl NeighborGraph {
    /// Searches the 10 nearest neighbors of each image, those with the highest cosine similarity of their
    /// features, to find outliers and near-duplicates. `features` `[images, width]` must be finite. The
    /// result has the mean cosine distance of each image to its neighbors, and the pairs of neighbors with a
    /// cosine similarity of at least `min_cosine`. With more than 20,000 images, neighbors are searched only
    /// among 20,000 evenly spread ones. `on_progress` is called with the number of images done since the last
    /// call.
    ///
    /// The distance is that of cleanlab's `OutOfDistribution` (Kuan and Mueller 2022, "Back to the Basics:
    /// Revisiting Out-of-Distribution Detection Baselines").
    pub(super) fn from_features(
        features: FeatureMatrix<'_>,
        min_cosine: f64,
        on_progress: impl Fn(usize) + Sync,
    ) -> Self {
        let (count, width) = (features.len(), features.width());
        // The images that neighbors are searched among, as rows of the features. `None`: all.
        let reference_rows: Option<Vec<usize>> = (count > MAX_REFERENCE_IMAGES)
            .then(|| (0..MAX_REFERENCE_IMAGES).map(|i| i * count / MAX_REFERENCE_IMAGES).collect());
        let reference_values: Option<Vec<f32>> = reference_rows
            .as_ref()
            .map(|rows| rows.iter().flat_map(|&row| features.row(row)).copied().collect());
        let reference = match &reference_values {
            Some(values) => FeatureMatrix::new(values, width).expect("whole rows were copied"),
            None => features,
        };
        // One more neighbor, because an image is its own nearest neighbor.
        let found =
            nearest_neighbors(reference, features, DistanceMetric::Cosine, N_NEIGHBORS + 1, on_progress);
        let (mut distances, mut pairs) = (Vec::with_capacity(count), Vec::new());
        for (image, neighbors) in found.into_iter().enumerate() {
            let image_of = |index: usize| reference_rows.as_ref().map_or(index, |rows| rows[index]);
            let others = neighbors.iter().filter(|near| image_of(near.row) != image).take(N_NEIGHBORS);
            let (sum, seen) =
                others.clone().fold((0.0, 0), |(sum, seen), near| (sum + near.distance, seen + 1));
            distances.push(if seen == 0 { 0.0 } else { sum / f64::from(seen) });
            for near in others.filter(|near| 1.0 - near.distance >= min_cosine) {
                let other = image_of(near.row);
                pairs.push((image.min(other), image.max(other), 1.0 - near.distance));
            }
        }
        // A pair is found twice if each image is a neighbor of the other.
        pairs.sort_by_key(|&(a, b, _)| (a, b));
        pairs.dedup_by_key(|&mut (a, b, _)| (a, b));
        Self { distances, pairs }
    }

    /// The indices of the outliers, images whose features are unlike those of all others, the farthest first.
    /// An image is an outlier if the logarithm of its mean distance to its nearest neighbors is more than 3.5
    /// robust standard deviations above the median of all images (Iglewicz and Hoaglin 1993). The robust
    /// standard deviation is 1.4826 times the median absolute deviation from the median.
    pub(super) fn outliers(&self) -> Vec<usize> {
        // At least 1e-9, because exact copies have the distance 0.
        let logs: Vec<f64> = self.distances.iter().map(|&distance| distance.max(1e-9).ln()).collect();
        let Some(median_log) = median(logs.clone()) else { return Vec::new() };
        let deviation = median(logs.iter().map(|log| (log - median_log).abs()).collect()).unwrap_or(0.0);
        // The standard deviation of a normal distribution is 1.4826 median absolute deviations.
        let limit = median_log + OUTLIER_DEVIATIONS * 1.4826 * deviation;
        let mut outliers: Vec<usize> =
            (0..logs.len()).filter(|&image| deviation > 0.0 && logs[image] > limit).collect();
        outliers.sort_by(|&a, &b| logs[b].total_cmp(&logs[a]).then(a.cmp(&b)));
        outliers
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::SafeTensors;

    use super::*;

    /// cleanlab's score is `exp(-d / median(d))`, with the mean of the two middle values as median.
    #[test]
    fn distances_match_cleanlab_and_distant_images_are_outliers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/doctor/outliers.safetensors");
        let bytes = fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (features, scores) = (tensors.tensor("features").unwrap(), tensors.tensor("scores").unwrap());
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(features.data());
        let scores: Vec<f64> = bytemuck::pod_collect_to_vec(scores.data());
        let rows = FeatureMatrix::new(&values, features.shape()[1]).unwrap();
        let found = NeighborGraph::from_features(rows, 0.99, |_| ());
        let mut sorted = found.distances.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = f64::midpoint(sorted[sorted.len() / 2 - 1], sorted[sorted.len() / 2]);
        for (distance, score) in found.distances.iter().zip(&scores) {
            assert!(((-distance / middle).exp() - score).abs() < 1e-6, "{distance} {score}");
        }
        let mut outliers = found.outliers();
        outliers.sort_unstable();
        assert_eq!(outliers, [0, 1, 2, 3]);
    }

    /// Log distances with median 0 and median absolute deviation 0.1: the limit is 3.5 * 1.4826 * 0.1 =
    /// 0.51891.
    #[test]
    fn an_outlier_is_three_and_a_half_deviations_above_the_median() {
        let outliers = |others: &[f64]| {
            let logs = [&[-0.2, -0.1, 0.0, 0.1, 0.2], others].concat();
            let distances = logs.iter().map(|log: &f64| log.exp()).collect();
            NeighborGraph { distances, pairs: Vec::new() }.outliers()
        };
        assert_eq!(outliers(&[0.0, 0.5190]), [6]);
        assert!(outliers(&[0.0, 0.5188]).is_empty());
        assert!(outliers(&[0.0, -5.0]).is_empty(), "a near image is not an outlier");
        let many = [0.0, 0.1, -0.1, 0.1, -0.1, 0.1, 2.0, 3.0, 2.0];
        assert_eq!(outliers(&many), [12, 11, 13], "the farthest first, ties by index");
    }

    /// Neighbors at known angles.
    #[test]
    fn pairs_have_at_least_the_requested_cosine() {
        let unit_vector = |angle: f64| [angle.cos() as f32, angle.sin() as f32];
        let angle = 0.97f64.acos();
        let values =
            [unit_vector(0.0), unit_vector(angle - 1e-3), unit_vector(2.0), unit_vector(2.0 + angle + 1e-3)]
                .concat();
        let found = NeighborGraph::from_features(FeatureMatrix::new(&values, 2).unwrap(), 0.97, |_| ());
        let pairs: Vec<(usize, usize)> = found.pairs.iter().map(|pair| (pair.0, pair.1)).collect();
        assert_eq!(pairs, [(0, 1)]);
        assert!((found.pairs[0].2 - (angle - 1e-3).cos()).abs() < 1e-6);
        // The mean distance to the three others, without the image itself.
        let mean_distance =
            |others: [f64; 3]| others.iter().map(|angle| 1.0 - angle.cos()).sum::<f64>() / 3.0;
        assert!((found.distances[0] - mean_distance([angle - 1e-3, 2.0, 2.0 + angle + 1e-3])).abs() < 1e-6);
    }

    #[test]
    fn images_that_are_all_the_same_or_too_few_have_no_outliers() {
        for rows in [0, 1, 2, 30] {
            let values = vec![1.0; rows * 3];
            let found = NeighborGraph::from_features(FeatureMatrix::new(&values, 3).unwrap(), 0.99, |_| ());
            assert!(found.outliers().is_empty());
            assert_eq!(found.pairs.is_empty(), rows < 2);
        }
    }
}
