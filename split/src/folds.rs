//! Cross-validation folds and hold-out splits.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::keyed_rng::KeyedRng;
use crate::parts::SplitIndices;

/// Seed of the order in which groups are assigned to folds, so that the same groups get the same folds.
const SEED: u64 = 0x666f_6c64;

/// Smallest improvement, in squared shares, that counts; smaller ones are rounding.
const MIN_GAIN: f64 = 1e-12;

/// `count` stratified folds: each holds out about the same share of the rows of each class. Held out are the
/// rows to test on; indices are ascending.
///
/// `groups[i]` is the group of row `i`, such as the image it is a view of, or a patient. The rows of a group
/// stay together, whatever their classes. Without groups each row is its own group. Shares are counted in
/// rows.
///
/// Groups are assigned one by one, largest first and groups of the same size class by class, in an order that
/// depends on the group numbers only. Each goes to the fold where it balances the class shares best, and
/// among equals to the fold with the fewest rows. Afterwards groups move until no move improves the balance.
///
/// Each row is held out once, except those of a group that no fold can do without: the only group of a class,
/// or a group whose removal would leave every fold without one of its classes (which takes as many classes in
/// it as there are folds). Such groups are always fitted on, so that every class is in every training part.
///
/// ```
/// use headstock_split::stratified_folds;
///
/// let folds = stratified_folds(&[0, 0, 0, 1, 1, 1], None, 3);
/// assert!(folds.iter().all(|fold| fold.train.len() == 4 && fold.test.len() == 2));
/// ```
///
/// # Panics
/// When `groups` has another length than `labels`, or `count` is 0.
#[must_use]
pub fn stratified_folds(labels: &[u32], groups: Option<&[u32]>, count: usize) -> Vec<SplitIndices> {
    assert!(count > 0, "at least one fold is required");
    let mut groups = build_groups(labels, groups, SEED);
    groups.sort_by_key(|Group { class_counts, .. }| {
        // Large groups are hardest to balance, so they go first.
        let sum_of_squares: usize = class_counts.iter().map(|(_, rows)| rows * rows).sum();
        (std::cmp::Reverse(sum_of_squares), class_counts[0].0)
    });
    let mut assignment = FoldAssignment::new(&groups, count, 1.0 / count as f64);
    for group in 0..groups.len() {
        let best_fold = assignment.best_fold(group);
        assignment.move_group(group, best_fold);
    }
    // Passes over all groups until none moves.
    while (0..groups.len()).filter(|&group| assignment.try_improve(group)).count() > 0 {}
    (0..count).map(|fold| assignment.to_fold(fold, labels.len())).collect()
}

/// Holds out about `fraction` of the rows of each class, for early stopping. A class never loses its last
/// group.
///
/// The rows of a group stay together, as in [`stratified_folds`]. The choice depends on the seed and on the
/// group numbers, not on the class numbers: in an order derived from them, each group is held out if that
/// brings its classes closer to the fraction; afterwards groups are toggled until no single change improves
/// this. With one class per group and groups of equal size, this is the rounded fraction of the groups of
/// each class.
///
/// # Panics
/// When `groups` has another length than `labels`.
#[must_use]
pub fn hold_out(labels: &[u32], groups: Option<&[u32]>, fraction: f64, seed: u64) -> SplitIndices {
    let groups = build_groups(labels, groups, seed);
    let mut assignment = FoldAssignment::new(&groups, 1, fraction);
    for group in 0..groups.len() {
        if assignment.can_take(0, group) && assignment.unevenness_change(0, group) <= 0.0 {
            assignment.move_group(group, Some(0));
        }
    }
    // Passes over all groups until none moves.
    while (0..groups.len()).filter(|&group| assignment.try_toggle(group)).count() > 0 {}
    assignment.to_fold(0, labels.len())
}

/// Rows that stay together: all are held out by the same fold, or none is.
struct Group {
    /// Indices of the rows.
    rows: Vec<usize>,
    /// The classes in the group, ascending, each with its number of rows: `(class, rows)`.
    class_counts: Vec<(usize, usize)>,
}

/// Collects the rows of each group and counts their classes. `groups` has the group number of each row;
/// without it each row is its own group. The order of the result is random, but depends on `seed` and the
/// group numbers only.
fn build_groups(labels: &[u32], groups: Option<&[u32]>, seed: u64) -> Vec<Group> {
    assert!(
        groups.is_none_or(|groups| groups.len() == labels.len()),
        "groups must have a number for each row"
    );
    // Sorted by a hash of the number; the number itself is in the key in case two hashes are equal.
    let mut rows_by_number: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for row in 0..labels.len() {
        let number = groups.map_or(row as u64, |groups| u64::from(groups[row]));
        rows_by_number.entry((KeyedRng::new(&[seed, number]).next_u64(), number)).or_default().push(row);
    }
    let to_group = |rows: Vec<usize>| {
        let mut class_counts = BTreeMap::new();
        rows.iter().for_each(|&row| *class_counts.entry(labels[row] as usize).or_default() += 1);
        Group { rows, class_counts: class_counts.into_iter().collect() }
    };
    rows_by_number.into_values().map(to_group).collect()
}

/// How many rows and groups have a class, in the whole training set or among those that a fold holds out.
#[derive(Clone, Copy, Default)]
struct ClassCount {
    rows: usize,
    groups: usize,
}

/// An assignment of each group to the fold that holds it out, with the counts that the search for an even
/// assignment needs. [`hold_out`] uses one fold, [`stratified_folds`] several.
struct FoldAssignment<'a> {
    groups: &'a [Group],
    /// The share of each class that a fold should hold out.
    share: f64,
    /// The fold of each group; `None` is always fitted on.
    fold_of: Vec<Option<usize>>,
    /// Totals of each class, `[C]`.
    totals: Vec<ClassCount>,
    /// Counts of each class among the rows that each fold holds out, `[folds][C]`.
    fold_counts: Vec<Vec<ClassCount>>,
    /// Number of rows that each fold holds out.
    sizes: Vec<usize>,
}

impl<'a> FoldAssignment<'a> {
    /// Starts an assignment of `groups` (rows that stay together) to `folds` folds: no group has a fold yet,
    /// and the rows and groups of each class are counted. `share` is the share of each class that a fold
    /// should hold out.
    fn new(groups: &'a [Group], folds: usize, share: f64) -> Self {
        let classes = groups.iter().flat_map(|group| &group.class_counts).map(|&(class, _)| class + 1).max();
        let mut totals = vec![ClassCount::default(); classes.unwrap_or_default()];
        for &(class, rows) in groups.iter().flat_map(|group| &group.class_counts) {
            totals[class].rows += rows;
            totals[class].groups += 1;
        }
        let fold_counts = vec![vec![ClassCount::default(); totals.len()]; folds];
        Self { groups, share, fold_of: vec![None; groups.len()], totals, fold_counts, sizes: vec![0; folds] }
    }

    /// Whether the fold may hold out one more group, `group`: only if each class of that group keeps at least
    /// one other group to fit on.
    fn can_take(&self, fold: usize, group: usize) -> bool {
        let classes = self.groups[group].class_counts.iter();
        classes
            .copied()
            .all(|(class, _)| self.fold_counts[fold][class].groups + 1 < self.totals[class].groups)
    }

    /// How much worse (positive) or better (negative) the class balance of a fold gets when a group that is
    /// not in it joins; the search compares folds by it. It is half the change of the unevenness
    /// `Σ_c (share_c - share)²`, where `share_c` is the share of all rows of class `c` that are in the fold,
    /// and `share` the one it should have: `1 / folds`, or the fraction that [`hold_out`] is asked for.
    fn unevenness_change(&self, fold: usize, group: usize) -> f64 {
        let class_term = |&(class, rows): &(usize, usize)| {
            let (group_rows, class_rows) = (rows as f64, self.totals[class].rows as f64);
            let fold_rows = self.fold_counts[fold][class].rows as f64;
            // Half of ((fold_rows + group_rows) / class_rows - share)² - (fold_rows / class_rows - share)².
            // With groups of equal size the ratios in this form are whole numbers: rounding decides no tie.
            (fold_rows / group_rows + 0.5 - self.share * (class_rows / group_rows))
                * (group_rows / class_rows).powi(2)
        };
        self.groups[group].class_counts.iter().map(class_term).sum()
    }

    /// Moves a group to fold `new_fold`, or out of all folds for `None`, and updates the counts of its old
    /// and new fold.
    fn move_group(&mut self, group: usize, new_fold: Option<usize>) {
        let old_fold = std::mem::replace(&mut self.fold_of[group], new_fold);
        let Group { rows, class_counts } = &self.groups[group];
        if let Some(old_fold) = old_fold {
            self.sizes[old_fold] -= rows.len();
            for &(class, rows) in class_counts {
                self.fold_counts[old_fold][class].rows -= rows;
                self.fold_counts[old_fold][class].groups -= 1;
            }
        }
        if let Some(new_fold) = new_fold {
            self.sizes[new_fold] += rows.len();
            for &(class, rows) in class_counts {
                self.fold_counts[new_fold][class].rows += rows;
                self.fold_counts[new_fold][class].groups += 1;
            }
        }
    }

    /// The fold whose class balance gets best, or least worse, if an unassigned group joins it (lowest
    /// [`unevenness_change`](Self::unevenness_change)), among the folds that can take the group; `None` if
    /// none can. Ties go to the fold with the fewest rows.
    fn best_fold(&self, group: usize) -> Option<usize> {
        let folds = (0..self.fold_counts.len()).filter(|&fold| self.can_take(fold, group));
        folds.min_by(|&a, &b| {
            let by_unevenness = self.unevenness_change(a, group).total_cmp(&self.unevenness_change(b, group));
            by_unevenness.then(self.sizes[a].cmp(&self.sizes[b]))
        })
    }

    /// One step of the local search of [`stratified_folds`]: moves a group to the fold where it improves the
    /// class balance most (lowers the unevenness, see [`unevenness_change`](Self::unevenness_change)), or an
    /// unassigned group to a fold that can take it by now. Returns whether it moved.
    fn try_improve(&mut self, group: usize) -> bool {
        let old_fold = self.fold_of[group];
        self.move_group(group, None);
        let best_fold = self.best_fold(group);
        let better = match (old_fold, best_fold) {
            (Some(old_fold), Some(best_fold)) => {
                self.unevenness_change(best_fold, group) < self.unevenness_change(old_fold, group) - MIN_GAIN
            }
            (old_fold, best_fold) => old_fold.is_none() && best_fold.is_some(),
        };
        self.move_group(group, if better { best_fold } else { old_fold });
        better
    }

    /// One step of the local search of [`hold_out`], which has only fold 0: moves a group into or out of it
    /// if that improves the class balance (lowers the unevenness, see
    /// [`unevenness_change`](Self::unevenness_change)). Returns whether the group moved.
    fn try_toggle(&mut self, group: usize) -> bool {
        let was_held_out = self.fold_of[group].is_some();
        self.move_group(group, None);
        // A move in either direction must gain more than rounding.
        let threshold = if was_held_out { MIN_GAIN } else { -MIN_GAIN };
        let joins = self.can_take(0, group) && self.unevenness_change(0, group) < threshold;
        self.move_group(group, joins.then_some(0));
        joins != was_held_out
    }

    /// The finished split of one fold, as row indices: the rows of the groups that are assigned to `fold` are
    /// held out, all others of the `n_rows` rows are fitted on.
    fn to_fold(&self, fold: usize, n_rows: usize) -> SplitIndices {
        let mut is_held_out = vec![false; n_rows];
        for (group, group_fold) in self.groups.iter().zip(&self.fold_of) {
            if *group_fold == Some(fold) {
                group.rows.iter().for_each(|&row| is_held_out[row] = true);
            }
        }
        let (test, train) = (0..n_rows).partition(|&row| is_held_out[row]);
        SplitIndices { train, test }
    }
}
