//! The kinds of findings, their severity and advice.

use std::fmt;

use serde::Serialize;

use crate::samples::Subset;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; training is not affected.
    Note,
    /// The model becomes worse, or its test accuracy too optimistic.
    Warning,
    /// Training stops, or learns wrong labels.
    Error,
}

impl fmt::Display for Severity {
    /// Writes the word for the severity in reports: `note`, `warning` or `error`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The kind of a finding, a problem of the data set that `doctor` reports. The names are stable:
/// `unreadable`, `exact-duplicate` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// There are fewer than two classes.
    TooFewClasses,
    /// An image that cannot be decoded.
    Unreadable,
    /// An image whose file ends too early.
    Truncated,
    /// A row of a table whose image does not exist.
    #[serde(rename = "missing-photo")]
    MissingImage,
    /// A class without images.
    EmptyClass,
    /// A class that is only in the test set.
    UnknownClass,
    /// An unusable entry: an empty field, a repeated id, a link out of the folder.
    BadEntry,
    /// Images with the same bytes.
    ExactDuplicate,
    /// Images of the same picture.
    NearDuplicate,
    /// A label that contradicts the out-of-fold probabilities.
    SuspiciousLabel,
    /// Classes with nearly equal names.
    ClassNames,
    /// A class with few training images.
    SmallClass,
    /// An image among the others without a class.
    #[serde(rename = "unlabelled-photo")]
    UnlabeledImage,
    /// An image whose file ends too early, and of which what is there is used.
    Incomplete,
    /// An animation, or a file with several pages.
    Animated,
    /// An image whose features are unlike all others.
    Outlier,
    /// An image with a tiny shorter side, or with far fewer or more pixels than others.
    ExtremeSize,
    /// An image with one side much longer than the other.
    ExtremeAspect,
    /// Pixels that are not 8-bit RGB.
    OddMode,
    /// An image with a color profile of another color space than sRGB.
    ColorProfile,
    /// An image that is stored rotated or mirrored, according to its EXIF data.
    Rotated,
}

/// Which classes and subsets a group of duplicates spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DuplicateScope {
    /// Different classes: the labels contradict each other.
    AcrossClasses,
    /// One class, but both the training and the test set.
    #[serde(rename = "across-parts")]
    AcrossSubsets,
    /// One class and one subset.
    WithinClass,
}

impl fmt::Display for FindingKind {
    /// Writes the stable name of the kind, as in the JSON of `doctor`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FindingKind {
    /// How serious findings of this kind are, and what the user should do about them, as a sentence for the
    /// report of `doctor`. For duplicates both depend on their `scope`, the classes and subsets that they
    /// span; it is `None` for all other kinds.
    fn assess(self, scope: Option<DuplicateScope>) -> (Severity, &'static str) {
        use Severity::{Error, Note, Warning};
        match self {
            Self::TooFewClasses => {
                (Error, "a classifier needs at least two classes: add photos of a different class")
            }
            Self::Unreadable => (Error, "replace or remove them, or skip them with `on_error = \"skip\"`"),
            Self::Truncated => (Error, "download them again: the end of the file is missing"),
            Self::MissingImage => (
                Error,
                "add the photos or remove the rows of the table; check `images`, `id` and `extension` of the \
                 table",
            ),
            Self::EmptyClass => (Error, "add photos, or remove the folder"),
            Self::UnknownClass => (
                Error,
                "classes without training photos cannot be learned: add training photos, or remove their \
                 test photos",
            ),
            Self::BadEntry => (Error, "training refuses the data until these entries are corrected"),
            Self::ExactDuplicate | Self::NearDuplicate => match scope {
                Some(DuplicateScope::AcrossClasses) => {
                    (Error, "the same picture has two labels: remove the photo with the wrong label")
                }
                Some(DuplicateScope::AcrossSubsets) => (
                    Warning,
                    "such copies make the accuracy on the test set look better than it is: remove all but \
                     one photo of each group, or keep the photos of a group in the same set with \
                     `group_duplicates = true`",
                ),
                _ => (Warning, "keep one photo of each group: copies only give it more weight in training"),
            },
            Self::SuspiciousLabel => (
                Warning,
                "check their labels, beginning with the first photo: a head that was fitted without the \
                 photo predicts a different class",
            ),
            Self::ClassNames => (Warning, "if both names mean the same class, use only one of them"),
            Self::SmallClass => {
                (Warning, "add photos: a class with so few photos can neither be learned nor tested well")
            }
            Self::UnlabeledImage => {
                (Warning, "move them into the folder of a class; photos without a class are not used")
            }
            Self::Incomplete => (Warning, "download them again: a part of each picture may be missing"),
            Self::Animated => (Warning, "only the first frame or page of each file is used"),
            Self::Outlier => {
                (Note, "check whether they belong to the data: they are unlike all other photos")
            }
            Self::ExtremeSize => {
                (Note, "check them: tiny photos show few details, and huge photos only take more time")
            }
            Self::ExtremeAspect => (
                Note,
                "the network's square input shows less than a third of them: crop them to the relevant \
                 region",
            ),
            Self::OddMode => (
                Note,
                "they are converted to RGB; if most photos of a class are like this, the head may learn the \
                 format instead of the class",
            ),
            Self::ColorProfile => (
                Note,
                "their colors are read as if they were sRGB, or converted with `color = \"srgb\"`; if only \
                 some classes have such photos, convert them",
            ),
            Self::Rotated => (
                Note,
                "headstock turns them upright by their EXIF orientation; other programs may not do that",
            ),
        }
    }
}

/// A sample that a finding concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampleRef {
    /// The image's path relative to the data root.
    pub path: String,
    /// The name of its class.
    pub label: String,
    /// The subset that it is in.
    #[serde(rename = "part")]
    pub subset: Subset,
    /// Its index among the samples.
    #[serde(skip)]
    pub(super) index: usize,
}

/// The class that is suggested in place of a suspicious label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelSuggestion {
    /// The most probable other class.
    pub suggested: String,
    /// The probability of the label.
    pub probability: f64,
    /// The probability of the suggested class.
    pub suggested_probability: f64,
    /// The self-confidence of the label; the lowest is the most suspicious.
    pub score: f64,
}

/// An item of a finding: an image, a group of duplicates, a pair of classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingItem {
    /// The samples concerned; empty if the item is not about samples.
    #[serde(rename = "photos")]
    pub images: Vec<SampleRef>,
    /// Details that the kind does not tell, such as `PNG, palette`, or the names of classes and files.
    pub detail: String,
    /// With a suspicious label: the suggested class.
    #[serde(rename = "doubt", skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<LabelSuggestion>,
}

/// All items of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// With duplicates: the classes and subsets that they span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<DuplicateScope>,
    /// The severity.
    pub severity: Severity,
    /// The number of items.
    pub count: usize,
    /// What to do.
    pub advice: &'static str,
    /// The items, ranked by severity or in the order of the data.
    pub items: Vec<FindingItem>,
}

impl FindingItem {
    /// The item about these samples, which may be none, with these details.
    pub(super) fn new(images: Vec<SampleRef>, detail: String) -> Self {
        Self { images, detail, suggestion: None }
    }
}

impl Finding {
    /// Makes the finding of a kind for the report of `doctor`: all its `items`, and the severity and advice
    /// of the kind. `scope` says which classes and subsets duplicates span, and is `None` for other kinds.
    /// Returns `None` if there are no items, because then there is no problem to report.
    pub(super) fn from_items(
        kind: FindingKind,
        scope: Option<DuplicateScope>,
        items: Vec<FindingItem>,
    ) -> Option<Self> {
        let (severity, advice) = kind.assess(scope);
        let count = items.len();
        (count > 0).then_some(Self { kind, scope, severity, count, advice, items })
    }

    /// The name of the finding in reports: its kind, and for duplicates their scope, as in "exact-duplicate
    /// within a class".
    #[must_use]
    pub fn name(&self) -> String {
        let scope = match self.scope {
            None => "",
            Some(DuplicateScope::AcrossClasses) => " across classes",
            Some(DuplicateScope::AcrossSubsets) => " across training and test set",
            Some(DuplicateScope::WithinClass) => " within a class",
        };
        format!("{}{scope}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // effect: doctor --strict
    #[test]
    fn severities_are_those_of_the_data_page() {
        use FindingKind::*;
        let errors = [TooFewClasses, Unreadable, Truncated, MissingImage, EmptyClass, UnknownClass, BadEntry];
        let warnings = [SuspiciousLabel, ClassNames, SmallClass, UnlabeledImage, Incomplete, Animated];
        let notes = [Outlier, ExtremeSize, ExtremeAspect, OddMode, ColorProfile, Rotated];
        for (severity, kinds) in
            [(Severity::Error, &errors[..]), (Severity::Warning, &warnings), (Severity::Note, &notes)]
        {
            for kind in kinds {
                assert_eq!(kind.assess(None).0, severity, "{kind:?}");
            }
        }
        for kind in [ExactDuplicate, NearDuplicate] {
            assert_eq!(kind.assess(Some(DuplicateScope::AcrossClasses)).0, Severity::Error);
            assert_eq!(kind.assess(Some(DuplicateScope::AcrossSubsets)).0, Severity::Warning);
            assert_eq!(kind.assess(Some(DuplicateScope::WithinClass)).0, Severity::Warning);
            let advice = |scope| kind.assess(Some(scope)).1;
            assert!(advice(DuplicateScope::AcrossClasses).contains("two labels"));
            assert!(advice(DuplicateScope::AcrossSubsets).contains("`group_duplicates = true`"));
            assert!(advice(DuplicateScope::WithinClass).contains("keep one photo of each group"));
        }
        assert!(Severity::Note < Severity::Warning && Severity::Warning < Severity::Error);
    }

    #[test]
    fn a_finding_counts_its_items_and_there_is_none_without_any() {
        let item = || FindingItem { images: Vec::new(), detail: "x".into(), suggestion: None };
        assert_eq!(Finding::from_items(FindingKind::Outlier, None, Vec::new()), None);
        let found = Finding::from_items(
            FindingKind::NearDuplicate,
            Some(DuplicateScope::AcrossSubsets),
            vec![item(), item()],
        )
        .unwrap();
        assert_eq!((found.count, found.severity, found.items.len()), (2, Severity::Warning, 2));
        assert_eq!(found.name(), "near-duplicate across training and test set");
        assert_eq!(Finding::from_items(FindingKind::OddMode, None, vec![item()]).unwrap().name(), "odd-mode");
    }
}
