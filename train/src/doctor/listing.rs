//! Findings of the listing, before images are opened.

use headstock_loader::DatasetError;
use headstock_loader::checks::{NameDifference, similar_names};

use super::count_classes;
use super::findings::{Finding, FindingItem, FindingKind, Severity};
use crate::samples::DatasetListing;

/// Minimum number of training images of a class; a class with fewer is a finding.
const MIN_TRAIN_IMAGES: usize = 10;

/// The findings for the report of `doctor` that need no pixels: errors in the `listing` of the data set,
/// unlabeled images, similar class names and small classes.
pub(super) fn findings(listing: &DatasetListing) -> Vec<Finding> {
    let mut by_kind: Vec<(FindingKind, Vec<FindingItem>)> = Vec::new();
    let mut add = |kind: FindingKind, detail: String| {
        let item = FindingItem::new(Vec::new(), detail);
        match by_kind.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, items)) => items.push(item),
            None => by_kind.push((kind, vec![item])),
        }
    };
    for error in &listing.errors {
        let (kind, details) = match error {
            DatasetError::MissingImages { missing, .. } => (FindingKind::MissingImage, missing.0.clone()),
            DatasetError::EmptyClass { classes, .. } => (FindingKind::EmptyClass, classes.0.clone()),
            DatasetError::UnknownClass { classes, .. } => (FindingKind::UnknownClass, classes.0.clone()),
            DatasetError::Empty { .. } => (FindingKind::TooFewClasses, vec![error.to_string()]),
            other => (FindingKind::BadEntry, vec![other.to_string()]),
        };
        details.into_iter().for_each(|detail| add(kind, detail));
    }
    let class_names = listing.samples.classes.names();
    if let [class] = class_names {
        add(FindingKind::TooFewClasses, format!("all photos have the class {class}"));
    }
    listing.unlabeled.iter().for_each(|image| add(FindingKind::UnlabeledImage, image.clone()));
    let class_counts = count_classes(&listing.samples);
    // Similar names that are probably no typo: a note instead of a warning.
    let mut note_items = Vec::new();
    for pair in similar_names(class_names) {
        let n_images = |class: usize| class_counts[class].train + class_counts[class].test;
        let describe = |class: usize| format!("{:?} ({})", class_names[class], n_images(class));
        let (a, b) = (describe(pair.a), describe(pair.b));
        let detail = format!("{a} and {b} differ by {}", pair.difference.description());
        // Typos are rare: two frequent names such as `shirt` and `skirt` are different words.
        if pair.difference == NameDifference::Letter
            && n_images(pair.a).min(n_images(pair.b)) >= MIN_TRAIN_IMAGES
        {
            note_items.push(FindingItem::new(Vec::new(), detail));
        } else {
            add(FindingKind::ClassNames, detail);
        }
    }
    // If no test set could be chosen, all samples count as training samples.
    for count in class_counts.iter().filter(|count| count.train < MIN_TRAIN_IMAGES) {
        let detail = format!("{} ({} training photos, {} test photos)", count.class, count.train, count.test);
        add(FindingKind::SmallClass, detail);
    }
    let notes = Finding::from_items(FindingKind::ClassNames, None, note_items)
        .map(|finding| Finding { severity: Severity::Note, ..finding });
    let findings = by_kind.into_iter().filter_map(|(kind, items)| Finding::from_items(kind, None, items));
    findings.chain(notes).collect()
}
