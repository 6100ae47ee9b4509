//! The parts that data sets come in.

use std::fmt;

/// What a data set says a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// To be trained on.
    Train,
    /// To choose between models on.
    Validation,
    /// To be tested on.
    Test,
}

impl Part {
    /// What the parts are called, the words that the Hugging Face hub knows them by; in small or capital letters.
    const NAMES: [(&str, Self); 11] = [
        ("train", Self::Train),
        ("training", Self::Train),
        ("validation", Self::Validation),
        ("valid", Self::Validation),
        ("val", Self::Validation),
        ("dev", Self::Validation),
        ("test", Self::Test),
        ("testing", Self::Test),
        ("eval", Self::Test),
        ("evaluation", Self::Test),
        ("holdout", Self::Test),
    ];

    /// The part called `name`.
    ///
    /// ```
    /// use headstock_loader::Part;
    ///
    /// assert_eq!(Part::named("Val"), Some(Part::Validation));
    /// assert_eq!(Part::named("trained"), None);
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, part)| *part)
    }

    /// The part that a word of a shard's path names, the last of several: `train-00000-of-00002.parquet`, `test/0000.tar`.
    pub(super) fn of_shard(path: &str) -> Option<Self> {
        path.split(|c: char| !c.is_alphabetic()).rev().find_map(Self::named)
    }

    /// `train`, `validation` or `test`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Part;

    // effect: split.column
    #[test]
    fn every_word_of_the_hub_names_its_part_and_none_that_is_nearly_one() {
        for (part, names) in [
            (Part::Train, &["train", "training", "TRAIN"][..]),
            (Part::Validation, &["validation", "valid", "val", "dev", "Dev"]),
            (Part::Test, &["test", "testing", "eval", "evaluation", "holdout", "HoldOut"]),
        ] {
            for name in names {
                assert_eq!(Part::named(name), Some(part), "{name}");
            }
        }
        for name in
            ["", "trains", "trained", "tests", "validate", "vals", "develop", "evaluate", "hold", " test"]
        {
            assert_eq!(Part::named(name), None, "{name}");
        }
        assert_eq!(
            [Part::Train, Part::Validation, Part::Test].map(|part| part.to_string()),
            ["train", "validation", "test"]
        );
    }

    #[test]
    fn the_last_word_that_names_a_part_is_taken() {
        assert_eq!(Part::of_shard("test/train-0.tar"), Some(Part::Train));
        assert_eq!(Part::of_shard("train/test-0.tar"), Some(Part::Test));
        assert_eq!(Part::of_shard("train2test.tar"), Some(Part::Test));
    }

    #[test]
    fn shards_are_told_by_a_word_of_their_path() {
        for (path, part) in [
            ("train-00000-of-00002.parquet", Some(Part::Train)),
            ("default/test/0000.parquet", Some(Part::Test)),
            ("imagenet_val_000.tar", Some(Part::Validation)),
            ("trainer-0.tar", None),
            ("0000.tar", None),
        ] {
            assert_eq!(Part::of_shard(path), part, "{path}");
        }
    }
}
