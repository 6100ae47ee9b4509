//! Folds: parts of a training set that are each held out once.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use crate::random::Keyed;

/// Key of the order in which groups are dealt out: the same groups always fall into the same folds.
const SEED: u64 = 0x666f_6c64;

/// By how much a move has to make the classes more even, in squared shares: less is rounding.
const GAIN: f64 = 1e-12;

/// Rows of a training set in two parts, each in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Rows to fit on.
    pub fit: Vec<usize>,
    /// Rows to judge by.
    pub held_out: Vec<usize>,
}

/// `count` stratified folds, as a fit uses them to judge itself: each holds about the same share of the rows of each class.
///
/// `groups[i]` is the group of row `i`, such as the photo that it is a view of, or a patient; the rows of one stay together,
/// whatever their classes. Without it each row is a group of its own. Shares are counted in rows: a group of many counts as
/// many.
///
/// Groups are dealt out one by one, the largest first and those as large class by class, in an order that depends on their
/// numbers alone; each goes where it makes the shares of its classes most even, and among such folds to the one with the
/// fewest rows. Then no group could move to another fold and make them more even.
///
/// Each row is held out once, but for a group that no fold can miss: the only one of a class, or one without which each
/// fold would have lost the last of one of its classes (which takes as many classes in it as there are folds). Those
/// are always fitted on, so that each class always is.
///
/// ```
/// use headstock_heads::folds::stratified;
///
/// let folds = stratified(&[0, 0, 0, 1, 1, 1], None, 3);
/// assert!(folds.iter().all(|fold| fold.fit.len() == 4 && fold.held_out.len() == 2));
/// ```
///
/// # Panics
/// When `groups` has another length than `labels`, or `count` is 0.
#[must_use]
pub fn stratified(labels: &[u32], groups: Option<&[u32]>, count: usize) -> Vec<Fold> {
    assert!(count > 0, "there is a fold at least");
    let mut groups = groups_of(labels, groups, SEED);
    groups.sort_by_key(|group| (std::cmp::Reverse(group.weight()), group.rows_of[0].0));
    let mut dealt = Dealt::new(&groups, count, 1.0 / count as f64);
    for group in 0..groups.len() {
        let best = dealt.best(group);
        dealt.put(group, best);
    }
    while (0..groups.len()).filter(|&group| dealt.improve(group)).count() > 0 {}
    (0..count).map(|fold| dealt.fold(fold, labels.len())).collect()
}

/// Holds out about `fraction` of the rows of each class to see when a fit stops getting better; a class never loses its last
/// group. All rows of a group go together, as in [`stratified`]. Which groups depends on the seed and on their
/// numbers, not on those of the classes: in an order that these give, each is held out if that brings the shares of its
/// classes nearer to the fraction. Then no single one could join what is held out, or leave it, and bring them nearer. With
/// one class a group, all of one size, that is the fraction of the groups of each class, rounded.
///
/// # Panics
/// When `groups` has another length than `labels`.
#[must_use]
pub fn hold_out(labels: &[u32], groups: Option<&[u32]>, fraction: f64, seed: u64) -> Fold {
    let groups = groups_of(labels, groups, seed);
    let mut dealt = Dealt::new(&groups, 1, fraction);
    for group in 0..groups.len() {
        if dealt.may_take(0, group) && dealt.excess(0, group) <= 0.0 {
            dealt.put(group, Some(0));
        }
    }
    while (0..groups.len()).filter(|&group| dealt.turn(group)).count() > 0 {}
    dealt.fold(0, labels.len())
}

/// Rows that stay together.
struct Group {
    /// All of them.
    rows: Vec<usize>,
    /// How many of each class that it has, the classes ascending.
    rows_of: Vec<(usize, usize)>,
}

impl Group {
    /// What is dealt out first: for one class, the larger the sooner.
    fn weight(&self) -> usize {
        self.rows_of.iter().map(|(_, rows)| rows * rows).sum()
    }
}

/// The groups, in an order that depends on `seed` and on their numbers.
fn groups_of(labels: &[u32], groups: Option<&[u32]>, seed: u64) -> Vec<Group> {
    assert!(groups.is_none_or(|groups| groups.len() == labels.len()), "a group's number for each row");
    let mut of_number: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for row in 0..labels.len() {
        let number = groups.map_or(row as u64, |groups| u64::from(groups[row]));
        of_number.entry((Keyed::new(&[seed, number]).next(), number)).or_default().push(row);
    }
    let group = |rows: Vec<usize>| {
        let mut rows_of = BTreeMap::new();
        rows.iter().for_each(|&row| *rows_of.entry(labels[row] as usize).or_default() += 1);
        Group { rows, rows_of: rows_of.into_iter().collect() }
    };
    of_number.into_values().map(group).collect()
}

/// How many there are of a class.
#[derive(Clone, Copy, Default)]
struct Count {
    rows: usize,
    groups: usize,
}

/// Groups in folds.
struct Dealt<'a> {
    groups: &'a [Group],
    /// The share of each class that a fold should have.
    share: f64,
    /// The fold of each group; none is always fitted on.
    fold_of: Vec<Option<usize>>,
    /// All of each class, `[C]`.
    all: Vec<Count>,
    /// Those of each fold, `[folds][C]`.
    held: Vec<Vec<Count>>,
    /// Rows of each fold.
    sizes: Vec<usize>,
}

impl<'a> Dealt<'a> {
    fn new(groups: &'a [Group], folds: usize, share: f64) -> Self {
        let classes = groups.iter().flat_map(|group| &group.rows_of).map(|&(class, _)| class + 1).max();
        let mut all = vec![Count::default(); classes.unwrap_or_default()];
        for &(class, rows) in groups.iter().flat_map(|group| &group.rows_of) {
            all[class].rows += rows;
            all[class].groups += 1;
        }
        let held = vec![vec![Count::default(); all.len()]; folds];
        Self { groups, share, fold_of: vec![None; groups.len()], all, held, sizes: vec![0; folds] }
    }

    /// Whether a group of each of its classes would be left outside a fold that takes it.
    fn may_take(&self, fold: usize, group: usize) -> bool {
        let classes = self.groups[group].rows_of.iter();
        classes.copied().all(|(class, _)| self.held[fold][class].groups + 1 < self.all[class].groups)
    }

    /// Half the change of `Σ_c (share_c - share)²` of a fold when the group joins it, which it is not in.
    ///
    /// The ratios are whole numbers where all groups are of one size, so that halves are told from what is more.
    fn excess(&self, fold: usize, group: usize) -> f64 {
        let of_class = |&(class, rows): &(usize, usize)| {
            let (own, all) = (rows as f64, self.all[class].rows as f64);
            let held = self.held[fold][class].rows as f64;
            (held / own + 0.5 - self.share * (all / own)) * (own / all).powi(2)
        };
        self.groups[group].rows_of.iter().map(of_class).sum()
    }

    fn put(&mut self, group: usize, to: Option<usize>) {
        let from = std::mem::replace(&mut self.fold_of[group], to);
        let Group { rows, rows_of } = &self.groups[group];
        if let Some(from) = from {
            self.sizes[from] -= rows.len();
            for &(class, rows) in rows_of {
                self.held[from][class].rows -= rows;
                self.held[from][class].groups -= 1;
            }
        }
        if let Some(to) = to {
            self.sizes[to] += rows.len();
            for &(class, rows) in rows_of {
                self.held[to][class].rows += rows;
                self.held[to][class].groups += 1;
            }
        }
    }

    /// The fold that a group in none fits best into, of those that may take it.
    fn best(&self, group: usize) -> Option<usize> {
        let folds = (0..self.held.len()).filter(|&fold| self.may_take(fold, group));
        folds.min_by(|&a, &b| {
            let excess = self.excess(a, group).total_cmp(&self.excess(b, group));
            excess.then(self.sizes[a].cmp(&self.sizes[b]))
        })
    }

    /// Moves a group to a better fold, or into one that may take it by now; whether there is one.
    fn improve(&mut self, group: usize) -> bool {
        let from = self.fold_of[group];
        self.put(group, None);
        let best = self.best(group);
        let better = match (from, best) {
            (Some(from), Some(best)) => self.excess(best, group) < self.excess(from, group) - GAIN,
            (from, best) => from.is_none() && best.is_some(),
        };
        self.put(group, if better { best } else { from });
        better
    }

    /// Takes a group into the only fold, or out of it, if that brings the shares nearer; whether it did.
    fn turn(&mut self, group: usize) -> bool {
        let held = self.fold_of[group].is_some();
        self.put(group, None);
        let most = if held { GAIN } else { -GAIN };
        let take = self.may_take(0, group) && self.excess(0, group) < most;
        self.put(group, take.then_some(0));
        take != held
    }

    /// The rows of a fold, of all of so many rows, and the others.
    fn fold(&self, fold: usize, rows: usize) -> Fold {
        let mut held = vec![false; rows];
        for (group, _) in self.groups.iter().zip(&self.fold_of).filter(|(_, of)| **of == Some(fold)) {
            group.rows.iter().for_each(|&row| held[row] = true);
        }
        let (held_out, fit) = (0..rows).partition(|&row| held[row]);
        Fold { fit, held_out }
    }
}
