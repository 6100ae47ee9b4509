//! What is wrong with what is listed, before a photo is opened.

use headstock_loader::DatasetError;
use headstock_loader::checks::{NameDifference, similar_names};

use super::findings::{Finding, Item, Kind, Severity};
use super::{Subject, counts};
use crate::samples::Collected;

/// A class needs so many photos to train on.
const FEW: usize = 10;

pub(super) fn findings(subject: &Subject<'_>, collected: &Collected) -> Vec<Finding> {
    let mut by_kind: Vec<(Kind, Vec<Item>)> = Vec::new();
    let mut add = |kind: Kind, detail: String| {
        let item = Item { photos: Vec::new(), detail, doubt: None };
        match by_kind.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, items)) => items.push(item),
            None => by_kind.push((kind, vec![item])),
        }
    };
    for fault in &collected.faults {
        match fault {
            DatasetError::MissingPhotos { photos, .. } => {
                photos.0.iter().for_each(|photo| add(Kind::MissingPhoto, photo.clone()));
            }
            DatasetError::EmptyClass { classes, .. } => {
                classes.0.iter().for_each(|class| add(Kind::EmptyClass, class.clone()));
            }
            DatasetError::UnknownClass { classes, .. } => {
                classes.0.iter().for_each(|class| add(Kind::UnknownClass, class.clone()));
            }
            DatasetError::Empty { .. } => add(Kind::TooFewClasses, fault.to_string()),
            other => add(Kind::BadEntry, other.to_string()),
        }
    }
    if let [class] = subject.classes {
        add(Kind::TooFewClasses, format!("all photos are of one class, {class}"));
    }
    for photo in &collected.unlabelled {
        add(Kind::UnlabelledPhoto, photo.clone());
    }
    let counts = counts(subject);
    let mut words = Vec::new();
    for pair in similar_names(subject.classes) {
        let photos = |class: usize| counts[class].train + counts[class].test;
        let named = |class: usize| format!("{:?} ({})", subject.classes[class], photos(class));
        let (a, b) = (named(pair.a), named(pair.b));
        let detail = format!("{a} and {b} differ by {}", pair.difference.description());
        // Who slips does so a few times: `shirt` and `skirt` are two words.
        if pair.difference == NameDifference::Letter && photos(pair.a).min(photos(pair.b)) >= FEW {
            words.push(Item { photos: Vec::new(), detail, doubt: None });
        } else {
            add(Kind::ClassNames, detail);
        }
    }
    // With one part, all of it may be trained on.
    for count in counts.iter().filter(|count| count.train < FEW) {
        add(
            Kind::SmallClass,
            format!("{} ({} to train on, {} to test on)", count.class, count.train, count.test),
        );
    }
    let words = Finding::of(Kind::ClassNames, None, words)
        .map(|finding| Finding { severity: Severity::Note, ..finding });
    by_kind.into_iter().filter_map(|(kind, items)| Finding::of(kind, None, items)).chain(words).collect()
}
