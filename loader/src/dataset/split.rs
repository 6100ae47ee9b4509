//! The splits that data sets define themselves.

use std::fmt;

/// Purpose of a sample as stated by the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// For training.
    Train,
    /// For choosing between models.
    Validation,
    /// For the final test.
    Test,
}

impl Split {
    /// The split called `name`, ignoring case: one of the names that the Hugging Face hub recognizes.
    ///
    /// ```
    /// use headstock_loader::Split;
    ///
    /// assert_eq!(Split::from_name("Val"), Some(Split::Validation));
    /// assert_eq!(Split::from_name("trained"), None);
    /// ```
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "validation" | "valid" | "val" | "dev" => Some(Self::Validation),
            "test" | "testing" | "eval" | "evaluation" | "holdout" => Some(Self::Test),
            _ => None,
        }
    }

    /// The split with the value `name` in the field or column `field` of the data: the name of a split, or, in a
    /// column called `is_test`, `is_valid` or `is_train` (as for fastai), whether the sample is in that split.
    /// What is not in it is for training, or for testing if it is not for training.
    ///
    /// ```
    /// use headstock_loader::Split;
    ///
    /// assert_eq!(Split::parse("part", "val"), Ok(Split::Validation));
    /// assert_eq!(Split::parse("is_valid", "True"), Ok(Split::Validation));
    /// assert_eq!(Split::parse("is_valid", "False"), Ok(Split::Train));
    /// ```
    ///
    /// # Errors
    /// A message for a value that is not known, which names the field.
    pub fn parse(field: &str, name: &str) -> Result<Self, String> {
        if let Some(split) = Self::from_name(name) {
            return Ok(split);
        }
        let Some(split) = Self::of_condition(field) else {
            return Err(format!("`{field}` is `{}`: write train, validation or test", name.escape_debug()));
        };
        match name.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "t" | "y" => Ok(split),
            "false" | "0" | "no" | "f" | "n" if split == Self::Train => Ok(Self::Test),
            "false" | "0" | "no" | "f" | "n" => Ok(Self::Train),
            _ => Err(format!("`{field}` is `{}`: write true or false", name.escape_debug())),
        }
    }

    /// The split in the name of a column that says whether a sample is in it, such as `is_test`.
    fn of_condition(field: &str) -> Option<Self> {
        let field = field.to_ascii_lowercase();
        let name = field.strip_prefix("is_").or_else(|| field.strip_prefix("is "))?;
        let first = name.split(['_', ' ']).next().unwrap_or_default();
        Self::from_name(first)
    }

    /// The split that the last matching word of a shard's path names: `train-00000-of-00002.parquet`,
    /// `test/0000.tar`; `None` if no word is the name of a split.
    pub(crate) fn from_shard_path(path: &str) -> Option<Self> {
        path.split(|c: char| !c.is_alphabetic()).rev().find_map(Self::from_name)
    }

    /// The name of this split in messages and reports: `train`, `validation` or `test`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Split;

    // effect: split.column
    #[test]
    fn the_split_names_of_the_hub_are_recognized_and_no_others() {
        for (split, names) in [
            (Split::Train, &["train", "training", "TRAIN"][..]),
            (Split::Validation, &["validation", "valid", "val", "dev", "Dev"]),
            (Split::Test, &["test", "testing", "eval", "evaluation", "holdout", "HoldOut"]),
        ] {
            for name in names {
                assert_eq!(Split::from_name(name), Some(split), "{name}");
            }
        }
        for name in
            ["", "trains", "trained", "tests", "validate", "vals", "develop", "evaluate", "hold", " test"]
        {
            assert_eq!(Split::from_name(name), None, "{name}");
        }
        assert_eq!(
            [Split::Train, Split::Validation, Split::Test].map(|split| split.to_string()),
            ["train", "validation", "test"]
        );
    }

    #[test]
    fn a_column_may_say_whether_a_sample_is_in_a_split() {
        for (field, value, split) in [
            ("is_test", "1", Split::Test),
            ("is_test", "0", Split::Train),
            ("IS_VALID", "True", Split::Validation),
            ("is_valid", "False", Split::Train),
            ("is_train", "yes", Split::Train),
            ("is_training_image", "0", Split::Test),
            ("is_test", "train", Split::Train),
        ] {
            assert_eq!(Split::parse(field, value), Ok(split), "{field} {value}");
        }
        let message = |field, value| Split::parse(field, value).unwrap_err();
        assert_eq!(message("is_test", "2"), "`is_test` is `2`: write true or false");
        for field in ["test", "is_tested", "is", "istest", "is_ripe", "this_test"] {
            assert_eq!(message(field, "1"), format!("`{field}` is `1`: write train, validation or test"));
        }
    }

    #[test]
    fn the_last_split_name_in_a_path_wins() {
        assert_eq!(Split::from_shard_path("test/train-0.tar"), Some(Split::Train));
        assert_eq!(Split::from_shard_path("train/test-0.tar"), Some(Split::Test));
        assert_eq!(Split::from_shard_path("train2test.tar"), Some(Split::Test));
    }

    #[test]
    fn shard_paths_name_their_split() {
        for (path, split) in [
            ("train-00000-of-00002.parquet", Some(Split::Train)),
            ("default/test/0000.parquet", Some(Split::Test)),
            ("imagenet_val_000.tar", Some(Split::Validation)),
            ("trainer-0.tar", None),
            ("0000.tar", None),
        ] {
            assert_eq!(Split::from_shard_path(path), split, "{path}");
        }
    }
}
