//! Folds: parts of a training set that are each held out once.

use std::collections::BTreeMap;

use crate::random::Keyed;

/// Key of the order in which photos are dealt out: the same photos always fall into the same folds.
const SEED: u64 = 0x666f_6c64;

/// Rows of a training set in two parts, each in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Rows to fit on.
    pub fit: Vec<usize>,
    /// Rows to judge by.
    pub held_out: Vec<usize>,
}

/// `count` stratified folds, as a fit uses them to judge itself: the photos of each class are dealt out in an order that
/// depends on their numbers alone, each class beginning where the one before ended. Each row is held out once, but for
/// the only photo of a class, which can be missed in no fold and is always fitted on.
///
/// `photos[i]` is the photo that row `i` shows, where rows are views of photos: those of one stay together. Without it
/// each row is a photo of its own.
///
/// ```
/// use headstock_heads::folds::stratified;
///
/// let folds = stratified(&[0, 0, 0, 1, 1, 1], None, 3);
/// assert!(folds.iter().all(|fold| fold.fit.len() == 4 && fold.held_out.len() == 2));
/// ```
///
/// # Panics
/// When `photos` has another length than `labels`, or `count` is 0.
#[must_use]
pub fn stratified(labels: &[u32], photos: Option<&[u32]>, count: usize) -> Vec<Fold> {
    assert!(count > 0, "there is a fold at least");
    let mut fold_of = vec![usize::MAX; labels.len()];
    let mut next = 0;
    for photos in photos_of_classes(labels, photos, |photo| Keyed::new(&[SEED, photo]).next()) {
        if photos.len() == 1 {
            continue;
        }
        for rows in photos {
            rows.into_iter().for_each(|row| fold_of[row] = next % count);
            next += 1;
        }
    }
    (0..count)
        .map(|fold| {
            let (held_out, fit) = (0..fold_of.len()).partition(|&row| fold_of[row] == fold);
            Fold { fit, held_out }
        })
        .collect()
}

/// Holds out about `fraction` of the photos of each class, rounded, to see when a fit stops getting better; a class never
/// loses its last photo. All rows of a photo go together, where `photos` says which it is. Which photos depends on the seed
/// and on their numbers, not on those of the classes.
///
/// # Panics
/// When `photos` has another length than `labels`.
#[must_use]
pub fn hold_out(labels: &[u32], photos: Option<&[u32]>, fraction: f64, seed: u64) -> Fold {
    let mut parts = Fold { fit: Vec::new(), held_out: Vec::new() };
    for photos in photos_of_classes(labels, photos, |photo| Keyed::new(&[seed, photo]).next()) {
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
fn photos_of_classes(
    labels: &[u32],
    photos: Option<&[u32]>,
    key: impl Fn(u64) -> u64,
) -> Vec<Vec<Vec<usize>>> {
    assert!(photos.is_none_or(|photos| photos.len() == labels.len()), "a photo's number for each row");
    let classes = labels.iter().max().map_or(0, |&last| last as usize + 1);
    let mut of_classes: Vec<BTreeMap<(u64, u64), Vec<usize>>> = vec![BTreeMap::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        let photo = photos.map_or(row as u64, |photos| u64::from(photos[row]));
        of_classes[label as usize].entry((key(photo), photo)).or_default().push(row);
    }
    of_classes.into_iter().map(|photos| photos.into_values().collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn folds_judge_every_photo_once_and_keep_views_and_classes_together(
            labels in prop::collection::vec(0u32..4, 2..60), views in 1usize..4,
        ) {
            let rows: Vec<u32> = labels.iter().flat_map(|&label| std::iter::repeat_n(label, views)).collect();
            let photos: Vec<u32> = (0..rows.len()).map(|row| (row / views) as u32).collect();
            let mut times = vec![0; rows.len()];
            for Fold { fit, held_out } in stratified(&rows, Some(&photos), 3) {
                prop_assert_eq!(fit.len() + held_out.len(), rows.len());
                for &row in &held_out {
                    times[row] += 1;
                    prop_assert!(fit.iter().all(|&other| photos[other] != photos[row]));
                    prop_assert!(fit.iter().any(|&other| rows[other] == rows[row]));
                }
            }
            for (row, times) in times.into_iter().enumerate() {
                let of_class = labels.iter().filter(|&&label| label == rows[row]).count();
                prop_assert_eq!(times, usize::from(of_class > 1));
            }
        }

        #[test]
        fn a_fold_holds_a_fair_share_of_each_class(
            labels in prop::collection::vec(0u32..3, 1..80), count in 2usize..6,
        ) {
            for class in 0..3 {
                let all = labels.iter().filter(|&&label| label == class).count();
                for Fold { held_out, .. } in stratified(&labels, None, count) {
                    let held_out = held_out.iter().filter(|&&row| labels[row] == class).count();
                    prop_assert!(all == 1 || (all / count..=all.div_ceil(count)).contains(&held_out));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_parts_hold_every_row_once_and_keep_photos_and_classes_whole(
            labels in prop::collection::vec(0u32..4, 1..60), views in 1usize..4, fraction in 0.0f64..0.9, seed: u64,
        ) {
            let rows: Vec<u32> = labels.iter().flat_map(|&label| std::iter::repeat_n(label, views)).collect();
            let photos: Vec<u32> = (0..rows.len()).map(|row| (row / views) as u32).collect();
            let parts = hold_out(&rows, Some(&photos), fraction, seed);

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
        let labels = [0; 100];
        assert_ne!(hold_out(&labels, None, 0.3, 0), hold_out(&labels, None, 0.3, 1));
    }
}
