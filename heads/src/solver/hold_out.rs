//! Which samples are held out of a fit, to see when it stops getting better.

use std::collections::BTreeMap;

use crate::data::TrainingSet;
use crate::random::Keyed;

/// The rows of the training set in two parts, each in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Rows to fit on.
    pub(crate) fit: Vec<usize>,
    /// Rows to judge by.
    pub(crate) held_out: Vec<usize>,
}

/// Holds out about `fraction` of the photos of each class, rounded; a class never loses its last photo. All
/// rows of a photo go together. Which photos depends on the seed and on their numbers, not on those of the
/// classes.
pub(crate) fn hold_out(data: &TrainingSet<'_>, fraction: f64, seed: u64) -> Parts {
    let mut parts = Parts { fit: Vec::new(), held_out: Vec::new() };
    for photos in photos_of_classes(data, |photo| Keyed::new(&[seed, photo]).next()) {
        let count = ((photos.len() as f64 * fraction).round() as usize).min(photos.len().saturating_sub(1));
        for (rank, rows) in photos.into_iter().enumerate() {
            if rank < count { &mut parts.held_out } else { &mut parts.fit }.extend(rows);
        }
    }
    parts.fit.sort_unstable();
    parts.held_out.sort_unstable();
    parts
}

/// The rows of each photo of each class, `[C][photos][rows]`; the photos in the order of `key` of their numbers.
pub(crate) fn photos_of_classes(data: &TrainingSet<'_>, key: impl Fn(u64) -> u64) -> Vec<Vec<Vec<usize>>> {
    let photo_of = |row: usize| data.photos().map_or(row as u64, |photos| u64::from(photos[row]));
    let mut photos: Vec<BTreeMap<(u64, u64), Vec<usize>>> = vec![BTreeMap::new(); data.classes()];
    for (row, &label) in data.labels().iter().enumerate() {
        let photo = photo_of(row);
        photos[label as usize].entry((key(photo), photo)).or_default().push(row);
    }
    photos.into_iter().map(|photos| photos.into_values().collect()).collect()
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
