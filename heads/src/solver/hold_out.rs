//! Which samples are held out of a fit, to see when it stops getting better.

use crate::data::TrainingSet;
use crate::folds::{Fold, photos_of_classes};
use crate::random::Keyed;

/// Holds out about `fraction` of the photos of each class, rounded; a class never loses its last photo. All
/// rows of a photo go together. Which photos depends on the seed and on their numbers, not on those of the
/// classes.
pub(crate) fn hold_out(data: &TrainingSet<'_>, fraction: f64, seed: u64) -> Fold {
    let mut parts = Fold { fit: Vec::new(), held_out: Vec::new() };
    for photos in photos_of_classes(data.labels(), data.photos(), |photo| Keyed::new(&[seed, photo]).next()) {
        let count = ((photos.len() as f64 * fraction).round() as usize).min(photos.len().saturating_sub(1));
        for (rank, rows) in photos.into_iter().enumerate() {
            if rank < count { &mut parts.held_out } else { &mut parts.fit }.extend(rows);
        }
    }
    parts.fit.sort_unstable();
    parts.held_out.sort_unstable();
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Features;

    proptest! {
        #[test]
        fn the_parts_hold_every_row_once_and_keep_photos_and_classes_whole(
            labels in prop::collection::vec(0u32..4, 1..60), views in 1usize..4, fraction in 0.0f64..0.9, seed: u64,
        ) {
            let rows: Vec<u32> = labels.iter().flat_map(|&label| std::iter::repeat_n(label, views)).collect();
            let photos: Vec<u32> = (0..rows.len()).map(|row| (row / views) as u32).collect();
            let values = vec![0.0; rows.len()];
            let data = TrainingSet::new(Features::new(&values, 1).unwrap(), &rows, 4).unwrap();
            let data = data.with_photos(&photos).unwrap();
            let parts = hold_out(&data, fraction, seed);

            let mut all = [parts.fit.clone(), parts.held_out.clone()].concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..rows.len()));
            for &row in &parts.held_out {
                prop_assert!(parts.fit.iter().all(|&other| photos[other] != photos[row]));
                prop_assert!(parts.fit.iter().any(|&other| rows[other] == rows[row]));
            }
            for class in 0..4 {
                let of_class = |part: &[usize]| part.iter().filter(|&&row| rows[row] == class).count() as f64 / views as f64;
                let (fit, held_out) = (of_class(&parts.fit), of_class(&parts.held_out));
                prop_assert!(fit <= 1.0 || (held_out - fraction * (fit + held_out)).abs() <= 0.5);
            }
        }
    }

    #[test]
    fn another_seed_holds_out_other_photos() {
        let values = vec![0.0; 100];
        let labels = vec![0; 100];
        let data = TrainingSet::new(Features::new(&values, 1).unwrap(), &labels, 1).unwrap();
        assert_ne!(hold_out(&data, 0.3, 0), hold_out(&data, 0.3, 1));
    }
}
