//! What becomes of each sample in a clean table, and why.

use std::collections::BTreeMap;

use headstock_loader::checks::{NameDifference, similar_names};
use headstock_loader::{ClassMap, DatasetError};
use headstock_split::words::NameList;

use super::review::{Review, ReviewAction, ReviewRow};
use super::{DuplicateScope, Finding, FindingItem, FindingKind, LabelSuggestion};
use crate::error::TrainError;
use crate::samples::{DatasetListing, SampleSet, Subset};

/// Minimum number of samples of a class: one to train on and one to test.
const MIN_SAMPLES: usize = 2;

/// What becomes of the samples of a data set in its clean table.
pub(super) struct Cleaning {
    /// The class of each sample in the clean table, `[N]`; `None` for one that is left out.
    pub(super) classes: Vec<Option<String>>,
    /// A row for each sample, row and file that is left out or gets another class, and for each decision.
    pub(super) review: Vec<ReviewRow>,
}

impl Cleaning {
    /// Decides what becomes of each sample of `listing`. Samples with the errors, the suspicious labels, the
    /// outliers and the duplicates of `findings` are left out, classes whose names differ only in case,
    /// punctuation or encoding become one, and classes that are then too small are left out. The rows of `given`
    /// and, for paths that it does not have, of `earlier`, decide otherwise.
    ///
    /// # Errors
    /// [`TrainError::Data`] for a row of `given` that does not belong to the data.
    pub(super) fn new(
        findings: &[Finding],
        listing: &DatasetListing,
        given: &Review,
        earlier: &Review,
    ) -> Result<Self, TrainError> {
        let samples = &listing.samples;
        let decisions = given.over(earlier);
        let preferred = preferred_names(samples);
        let removals = removals(findings, &samples.classes, &preferred);
        let mut cleaning = Self { classes: Vec::new(), review: Vec::new() };
        for (index, sample) in samples.rows.iter().enumerate() {
            let label = samples.classes.name(sample.label);
            let merged = preferred[sample.label as usize].as_str();
            let proposed = removals.get(&index).map(|removal| removal.row(&sample.id, label)).or_else(|| {
                (merged != label).then(|| ReviewRow {
                    path: sample.id.clone(),
                    label: label.to_owned(),
                    reason: FindingKind::ClassNames.to_string(),
                    suggestion: merged.to_owned(),
                    probability: String::new(),
                    action: ReviewAction::Relabel,
                })
            });
            let row = match decisions.get(&sample.id) {
                Some(decided) => {
                    let is_known = [&decided.label, &decided.suggestion].iter().any(|class| *class == label);
                    if given.get(&sample.id).is_some() && !decided.label.is_empty() && !is_known {
                        return Err(TrainError::Data(format!(
                            "the review has the class {} for {}, but in the data it is {label}: the review is of \
                             other data; write a new one",
                            decided.label, sample.id
                        )));
                    }
                    let reason = proposed.map_or_else(|| decided.reason.clone(), |row| row.reason);
                    Some(ReviewRow { label: label.to_owned(), reason, ..decided.clone() })
                }
                None => proposed,
            };
            cleaning.classes.push(match &row {
                None => Some(label.to_owned()),
                Some(row) => match row.action {
                    ReviewAction::Keep => Some(label.to_owned()),
                    ReviewAction::Relabel => Some(row.suggestion.clone()),
                    ReviewAction::Drop => None,
                },
            });
            cleaning.review.extend(row);
        }
        cleaning.drop_small_classes(listing, &decisions);
        cleaning.add_other_entries(listing, &decisions)?;
        cleaning.add_earlier_rows(given, earlier)?;
        Ok(cleaning)
    }

    /// Leaves out the samples of classes with too few of them, unless their rows are `decisions`.
    fn drop_small_classes(&mut self, listing: &DatasetListing, decisions: &Review) {
        // Of all samples, and of those for training.
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (class, sample) in self.classes.iter().zip(&listing.samples.rows) {
            if let Some(class) = class {
                let (all, train) = counts.entry(class.clone()).or_default();
                *all += 1;
                *train += usize::from(sample.subset == Subset::Train);
            }
        }
        for (class, sample) in self.classes.iter_mut().zip(&listing.samples.rows) {
            let Some(name) = class else { continue };
            let (all, train) = counts[name.as_str()];
            let is_small = if listing.has_given_splits { train == 0 } else { all < MIN_SAMPLES };
            if !is_small || decisions.get(&sample.id).is_some() {
                continue;
            }
            let reason = FindingKind::SmallClass.to_string();
            match self.review.iter_mut().find(|row| row.path == sample.id) {
                Some(row) => {
                    row.reason = format!("{}; {reason}", row.reason);
                    row.action = ReviewAction::Drop;
                }
                None => self.review.push(ReviewRow {
                    path: sample.id.clone(),
                    label: name.clone(),
                    reason,
                    suggestion: String::new(),
                    probability: String::new(),
                    action: ReviewAction::Drop,
                }),
            }
            *class = None;
        }
    }

    /// Adds rows for images without a class, and for what is no sample because of an error: they can only be left
    /// out.
    fn add_other_entries(&mut self, listing: &DatasetListing, decisions: &Review) -> Result<(), TrainError> {
        let unlabeled = listing.unlabeled.iter().map(|path| (path.clone(), FindingKind::UnlabeledImage));
        let errors = listing.errors.iter().flat_map(|error| {
            let kind = match error {
                DatasetError::MissingImages { .. } => FindingKind::MissingImage,
                _ => FindingKind::BadEntry,
            };
            let names = match error.entries() {
                Some((Some(_), names)) => names,
                _ => Vec::new(),
            };
            names.into_iter().map(move |name| (name, kind))
        });
        for (path, kind) in unlabeled.chain(errors) {
            let row = match decisions.get(&path) {
                Some(decided) if decided.action != ReviewAction::Drop => {
                    return Err(TrainError::Data(format!(
                        "the review has the action {} for {path}, which has no class in the data: add it to the \
                         data, or write drop",
                        decided.action.as_str()
                    )));
                }
                // An earlier reason says more.
                Some(decided) => decided.clone(),
                None => ReviewRow {
                    path,
                    label: String::new(),
                    reason: kind.to_string(),
                    suggestion: String::new(),
                    probability: String::new(),
                    action: ReviewAction::Drop,
                },
            };
            self.review.push(row);
        }
        Ok(())
    }

    /// Adds the rows of `earlier` whose samples are no longer in the data. Other rows of `given` must be about the
    /// data.
    fn add_earlier_rows(&mut self, given: &Review, earlier: &Review) -> Result<(), TrainError> {
        let listed: std::collections::BTreeSet<&str> =
            self.review.iter().map(|row| row.path.as_str()).collect();
        let unknown: Vec<String> = given
            .rows()
            .map(|row| row.path.clone())
            .filter(|path| !listed.contains(path.as_str()) && earlier.get(path).is_none())
            .collect();
        let rest: Vec<ReviewRow> =
            earlier.rows().filter(|row| !listed.contains(row.path.as_str())).cloned().collect();
        if !unknown.is_empty() {
            return Err(TrainError::Data(format!(
                "the review has photos that are not in the data: {}; remove these lines, or use the config of the \
                 data that the review is of",
                NameList(unknown)
            )));
        }
        self.review.extend(rest);
        Ok(())
    }
}

/// Why a sample is left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Removal<'a> {
    /// The names of the findings.
    reasons: Vec<String>,
    suggestion: Option<&'a LabelSuggestion>,
}

impl Removal<'_> {
    /// The row of the sample `path` with the class `label`.
    fn row(&self, path: &str, label: &str) -> ReviewRow {
        ReviewRow {
            path: path.to_owned(),
            label: label.to_owned(),
            reason: self.reasons.join("; "),
            suggestion: self.suggestion.map_or_else(String::new, |found| found.suggested.clone()),
            probability: self
                .suggestion
                .map_or_else(String::new, |found| format!("{:.2}", found.suggested_probability)),
            action: ReviewAction::Drop,
        }
    }
}

/// The samples that the clean table leaves out because of `findings`, by index. Of a group of duplicates in one
/// class, the first sample that no other finding removes stays. Classes with the same of the `preferred` names
/// (one per class of `classes`) are one class.
fn removals<'a>(
    findings: &'a [Finding],
    classes: &ClassMap,
    preferred: &[String],
) -> BTreeMap<usize, Removal<'a>> {
    use FindingKind::{Outlier, SuspiciousLabel, Truncated, Unreadable};
    let merged = |class: &str| {
        classes.label(class).map_or_else(|| class.to_owned(), |label| preferred[label as usize].clone())
    };
    let mut removals: BTreeMap<usize, Removal<'a>> = BTreeMap::new();
    let mut copies: Vec<(&Finding, &FindingItem)> = Vec::new();
    for finding in findings {
        for item in &finding.items {
            let contradicts =
                item.images.iter().any(|image| merged(&image.label) != merged(&item.images[0].label));
            let is_same_class = |found: &LabelSuggestion| {
                item.images.iter().all(|image| merged(&image.label) == merged(&found.suggested))
            };
            match (finding.kind, finding.scope) {
                (SuspiciousLabel, _) if item.suggestion.as_ref().is_some_and(is_same_class) => {}
                (_, Some(DuplicateScope::AcrossClasses)) if !contradicts => copies.push((finding, item)),
                (Unreadable | Truncated | SuspiciousLabel | Outlier, _)
                | (_, Some(DuplicateScope::AcrossClasses)) => {
                    for image in &item.images {
                        let removal = removals.entry(image.index).or_default();
                        removal.reasons.push(finding.name());
                        removal.suggestion = removal.suggestion.or(item.suggestion.as_ref());
                    }
                }
                (_, Some(_)) => copies.push((finding, item)),
                _ => {}
            }
        }
    }
    for (finding, item) in copies {
        let remaining: Vec<usize> = item
            .images
            .iter()
            .map(|image| image.index)
            .filter(|index| !removals.contains_key(index))
            .collect();
        // All but the first one are removed.
        for index in remaining.into_iter().skip(1) {
            removals.entry(index).or_default().reasons.push(finding.name());
        }
    }
    removals
}

/// For each class the name that it gets: of names that differ only in case, punctuation or encoding, that of the
/// class with the most samples, or the first of several.
fn preferred_names(samples: &SampleSet) -> Vec<String> {
    let names = samples.classes.names();
    let mut sizes = vec![0usize; names.len()];
    samples.rows.iter().for_each(|row| sizes[row.label as usize] += 1);
    // The first class of those that are equal.
    let mut first: Vec<usize> = (0..names.len()).collect();
    for pair in similar_names(names) {
        if pair.difference != NameDifference::Letter {
            let (low, high) = (first[pair.a].min(first[pair.b]), first[pair.a].max(first[pair.b]));
            first.iter_mut().filter(|class| **class == high).for_each(|class| *class = low);
        }
    }
    let best = |class: usize| {
        let equal = (0..names.len()).filter(|&other| first[other] == first[class]);
        equal.max_by_key(|&other| (sizes[other], std::cmp::Reverse(other))).unwrap_or(class)
    };
    (0..names.len()).map(|class| names[best(class)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use headstock_loader::ClassOrder;

    use super::super::SampleRef;
    use super::*;
    use crate::samples::Subset;

    /// A finding about samples of the class `a`; with duplicates across classes, each sample has its own class.
    fn finding(kind: FindingKind, scope: Option<DuplicateScope>, items: &[&[usize]]) -> Finding {
        let sample_ref = |&sample: &usize| SampleRef {
            path: sample.to_string(),
            label: if scope == Some(DuplicateScope::AcrossClasses) { sample.to_string() } else { "a".into() },
            subset: Subset::Train,
            index: sample,
        };
        let item = |samples: &&[usize]| FindingItem {
            images: samples.iter().map(sample_ref).collect(),
            detail: String::new(),
            suggestion: None,
        };
        Finding::from_items(kind, scope, items.iter().map(item).collect()).unwrap()
    }

    fn removed_samples(findings: &[Finding]) -> Vec<usize> {
        let classes = ClassMap::new(["a"], ClassOrder::Sorted);
        removals(findings, &classes, &["a".to_owned()]).into_keys().collect()
    }

    // effect: doctor --write-clean
    #[test]
    fn errors_and_outliers_are_removed_and_notes_stay() {
        let removed = [
            FindingKind::Unreadable,
            FindingKind::Truncated,
            FindingKind::SuspiciousLabel,
            FindingKind::Outlier,
        ];
        let accepted = [
            FindingKind::Incomplete,
            FindingKind::ColorProfile,
            FindingKind::Animated,
            FindingKind::Rotated,
            FindingKind::OddMode,
            FindingKind::ExtremeSize,
            FindingKind::ExtremeAspect,
        ];
        for kind in removed {
            assert_eq!(removed_samples(&[finding(kind, None, &[&[3], &[5]])]), [3, 5], "{kind:?}");
        }
        for kind in accepted {
            assert!(removed_samples(&[finding(kind, None, &[&[3], &[5]])]).is_empty(), "{kind:?}");
        }
    }

    // effect: doctor --write-clean
    #[test]
    fn one_of_the_duplicates_stays_unless_their_labels_differ() {
        for kind in [FindingKind::ExactDuplicate, FindingKind::NearDuplicate] {
            for scope in [DuplicateScope::WithinClass, DuplicateScope::AcrossSubsets] {
                let duplicates = finding(kind, Some(scope), &[&[1, 4, 6], &[2, 3]]);
                assert_eq!(removed_samples(std::slice::from_ref(&duplicates)), [3, 4, 6]);
                // The first one without another finding stays, independently of the order of findings.
                let mislabeled = finding(FindingKind::SuspiciousLabel, None, &[&[1], &[2]]);
                assert_eq!(removed_samples(&[duplicates.clone(), mislabeled.clone()]), [1, 2, 6]);
                assert_eq!(removed_samples(&[mislabeled, duplicates]), [1, 2, 6]);
            }
            let across = finding(kind, Some(DuplicateScope::AcrossClasses), &[&[1, 4], &[7, 8]]);
            assert_eq!(removed_samples(&[across]), [1, 4, 7, 8]);
        }
    }
}
