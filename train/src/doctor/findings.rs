//! What can be wrong with a data set, and how it is told.

use serde::Serialize;

use crate::samples::Subset;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; training takes it as it is.
    Note,
    /// It makes a model worse, or its test too good.
    Warning,
    /// It stops training, or teaches what is wrong.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What is found. The names are stable: `unreadable`, `exact-duplicate` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// There is nothing, or one class only.
    TooFewClasses,
    /// A photo that no decoder takes.
    Unreadable,
    /// A photo that ends too early.
    Truncated,
    /// A row of a table whose photo is not there.
    MissingPhoto,
    /// A class without a photo.
    EmptyClass,
    /// A class that is tested on and not trained on.
    UnknownClass,
    /// An entry that cannot be used: an empty field, an id that stands twice, a link out of the folder.
    BadEntry,
    /// Photos with the same bytes.
    ExactDuplicate,
    /// Photos of the same picture.
    NearDuplicate,
    /// A label that out-of-fold probabilities contradict.
    SuspiciousLabel,
    /// Classes whose names are nearly the same.
    ClassNames,
    /// A class with few photos to train on.
    SmallClass,
    /// A photo that lies with the others but has no class.
    UnlabelledPhoto,
    /// An animation, or a file of several pages.
    Animated,
    /// A photo unlike all others.
    Outlier,
    /// A photo whose shorter side is tiny, or with far fewer or more pixels than others.
    ExtremeSize,
    /// A photo that is far longer than wide, or wider than long.
    ExtremeAspect,
    /// Pixels that are not RGB with 8 bits.
    OddMode,
    /// A photo that is stored turned or mirrored, and says so in its EXIF data.
    Rotated,
}

/// Where copies of a photo lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DuplicateScope {
    /// In different classes: their labels contradict each other.
    AcrossClasses,
    /// In one class, but some are trained on and others tested on.
    AcrossParts,
    /// In one class and one part.
    WithinClass,
}

impl DuplicateScope {
    /// As in "exact-duplicate across classes".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AcrossClasses => "across classes",
            Self::AcrossParts => "across parts",
            Self::WithinClass => "within a class",
        }
    }
}

impl FindingKind {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooFewClasses => "too-few-classes",
            Self::Unreadable => "unreadable",
            Self::Truncated => "truncated",
            Self::MissingPhoto => "missing-photo",
            Self::EmptyClass => "empty-class",
            Self::UnknownClass => "unknown-class",
            Self::BadEntry => "bad-entry",
            Self::ExactDuplicate => "exact-duplicate",
            Self::NearDuplicate => "near-duplicate",
            Self::SuspiciousLabel => "suspicious-label",
            Self::ClassNames => "class-names",
            Self::SmallClass => "small-class",
            Self::UnlabelledPhoto => "unlabelled-photo",
            Self::Animated => "animated",
            Self::Outlier => "outlier",
            Self::ExtremeSize => "extreme-size",
            Self::ExtremeAspect => "extreme-aspect",
            Self::OddMode => "odd-mode",
            Self::Rotated => "rotated",
        }
    }

    fn severity(self, scope: Option<DuplicateScope>) -> Severity {
        match self {
            Self::TooFewClasses
            | Self::Unreadable
            | Self::Truncated
            | Self::MissingPhoto
            | Self::EmptyClass
            | Self::UnknownClass
            | Self::BadEntry => Severity::Error,
            Self::ExactDuplicate | Self::NearDuplicate if scope == Some(DuplicateScope::AcrossClasses) => {
                Severity::Error
            }
            Self::ExactDuplicate
            | Self::NearDuplicate
            | Self::SuspiciousLabel
            | Self::ClassNames
            | Self::SmallClass
            | Self::UnlabelledPhoto
            | Self::Animated => Severity::Warning,
            Self::Outlier | Self::ExtremeSize | Self::ExtremeAspect | Self::OddMode | Self::Rotated => {
                Severity::Note
            }
        }
    }

    fn advice(self, scope: Option<DuplicateScope>) -> &'static str {
        match (self, scope) {
            (Self::TooFewClasses, _) => "a classifier needs photos of two classes at least",
            (Self::Unreadable, _) => {
                "replace or remove them, or go on without them: data.on_error = \"skip\""
            }
            (Self::Truncated, _) => "fetch them again: the rest of the file is not there",
            (Self::MissingPhoto, _) => {
                "add the photos or remove the rows; check data.images, data.id, data.extension"
            }
            (Self::EmptyClass, _) => "add photos, or remove the folder",
            (Self::UnknownClass, _) => {
                "no head learns them: add photos to train on, or remove them from the test photos"
            }
            (Self::BadEntry, _) => "training refuses the data until these are mended",
            (Self::ExactDuplicate | Self::NearDuplicate, Some(DuplicateScope::AcrossClasses)) => {
                "the same picture with two labels: remove the wrong one"
            }
            (Self::ExactDuplicate | Self::NearDuplicate, Some(DuplicateScope::AcrossParts)) => {
                "trained on and tested on, so the test flatters: remove one, or keep them together (split.group_duplicates = true)"
            }
            (Self::ExactDuplicate | Self::NearDuplicate, _) => "keep one of each: they only count twice",
            (Self::SuspiciousLabel, _) => {
                "look at them, the first ones first: heads fitted without them see another class"
            }
            (Self::ClassNames, _) => "if they are one class, give it one name",
            (Self::SmallClass, _) => "add photos: so few can neither be learned well nor tested",
            (Self::UnlabelledPhoto, _) => "give them a class, or leave them: they are not used",
            (Self::Animated, _) => "the first picture is used, the others are not",
            (Self::Outlier, _) => "look whether they belong here: they are like no other photo",
            (Self::ExtremeSize, _) => "look at them: tiny ones show little, huge ones only take time",
            (Self::ExtremeAspect, _) => {
                "the network's square shows less than a third of them: crop them to what matters"
            }
            (Self::OddMode, _) => {
                "they become RGB; see that those of one class are not all of one kind, or that is learned"
            }
            (Self::Rotated, _) => "they are turned upright by what EXIF says; other tools may not do that",
        }
    }
}

/// A sample that something is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampleRef {
    /// Its path relative to the data root; the number of the row for features.
    pub path: String,
    /// The name of its class.
    pub label: String,
    /// What it is for.
    pub part: Subset,
    /// Its number among the samples.
    #[serde(skip)]
    pub(super) sample: usize,
}

/// Why a label is doubted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelSuggestion {
    /// The class that is more probable.
    pub suggested: String,
    /// The probability of the label.
    pub probability: f64,
    /// That of the suggested class.
    pub suggested_probability: f64,
    /// The least is the most suspicious.
    pub score: f64,
}

/// One thing that is found: a photo, a group of copies, a pair of classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingItem {
    /// The samples concerned; none for what is no sample.
    pub photos: Vec<SampleRef>,
    /// What is found, where the kind does not say all: `PNG, palette`; the names of what is no sample.
    pub detail: String,
    /// Of a suspicious label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<LabelSuggestion>,
}

/// All that is found of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// Of duplicates, where they lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<DuplicateScope>,
    /// How bad it is.
    pub severity: Severity,
    /// How many items there are.
    pub count: usize,
    /// What to do.
    pub advice: &'static str,
    /// The items: the worst first where they are ranked, else in the order of the data.
    pub items: Vec<FindingItem>,
}

impl Finding {
    /// None for no items.
    pub(super) fn from_items(
        kind: FindingKind,
        scope: Option<DuplicateScope>,
        items: Vec<FindingItem>,
    ) -> Option<Self> {
        let (severity, advice) = (kind.severity(scope), kind.advice(scope));
        let count = items.len();
        (count > 0).then_some(Self { kind, scope, severity, count, advice, items })
    }

    /// The kind, and where duplicates lie.
    #[must_use]
    pub fn name(&self) -> String {
        match self.scope {
            Some(scope) => format!("{} {}", self.kind.as_str(), scope.as_str()),
            None => self.kind.as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // effect: doctor --strict
    #[test]
    fn severities_are_those_of_the_data_page() {
        use FindingKind::*;
        let errors = [TooFewClasses, Unreadable, Truncated, MissingPhoto, EmptyClass, UnknownClass, BadEntry];
        let warnings = [SuspiciousLabel, ClassNames, SmallClass, UnlabelledPhoto, Animated];
        let notes = [Outlier, ExtremeSize, ExtremeAspect, OddMode, Rotated];
        for (severity, kinds) in
            [(Severity::Error, &errors[..]), (Severity::Warning, &warnings), (Severity::Note, &notes)]
        {
            for kind in kinds {
                assert_eq!(kind.severity(None), severity, "{kind:?}");
            }
        }
        for kind in [ExactDuplicate, NearDuplicate] {
            assert_eq!(kind.severity(Some(DuplicateScope::AcrossClasses)), Severity::Error);
            assert_eq!(kind.severity(Some(DuplicateScope::AcrossParts)), Severity::Warning);
            assert_eq!(kind.severity(Some(DuplicateScope::WithinClass)), Severity::Warning);
            let advice = |scope| kind.advice(Some(scope));
            assert!(advice(DuplicateScope::AcrossClasses).contains("two labels"));
            assert!(advice(DuplicateScope::AcrossParts).contains("split.group_duplicates"));
            assert!(advice(DuplicateScope::WithinClass).contains("keep one of each"));
        }
        assert!(Severity::Note < Severity::Warning && Severity::Warning < Severity::Error);
    }

    #[test]
    fn a_finding_counts_its_items_and_there_is_none_without_any() {
        let item = || FindingItem { photos: Vec::new(), detail: "x".into(), doubt: None };
        assert_eq!(Finding::from_items(FindingKind::Outlier, None, Vec::new()), None);
        let found = Finding::from_items(
            FindingKind::NearDuplicate,
            Some(DuplicateScope::AcrossParts),
            vec![item(), item()],
        )
        .unwrap();
        assert_eq!((found.count, found.severity, found.items.len()), (2, Severity::Warning, 2));
        assert_eq!(found.name(), "near-duplicate across parts");
        assert_eq!(Finding::from_items(FindingKind::OddMode, None, vec![item()]).unwrap().name(), "odd-mode");
    }
}
