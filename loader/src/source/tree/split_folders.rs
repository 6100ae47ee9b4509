//! Whether the folders in a root folder are classes, or splits such as `train` and `test`.

use std::collections::BTreeSet;
use std::path::Path;

use headstock_split::words::NameList;

use super::ImageFolder;
use crate::dataset::{DatasetError, LikelySplits, Split};

/// Words in the names of folders whose photos are there to be predicted.
const PREDICTION_WORDS: [&str; 5] = ["pred", "predict", "prediction", "predictions", "unlabeled"];
/// Words that may be joined to the name of a split, as in `trainset`.
const JOINED_WORDS: [&str; 2] = ["set", "data"];

/// What a folder is for by a word in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum FolderSplit {
    Split(Split),
    /// Its photos have no classes.
    Prediction,
}

/// What the folder called `name` is for, if exactly one word of the name is the name of a split: `test_set`,
/// `seg_train`, `val2017`, `TrainImages`.
pub(in crate::source) fn split_of_folder(name: &str) -> Option<FolderSplit> {
    let mut spaced = String::new();
    let mut was_lowercase = false;
    for c in name.chars() {
        if c.is_uppercase() && was_lowercase {
            spaced.push(' ');
        }
        was_lowercase = c.is_lowercase();
        spaced.extend(c.to_lowercase());
    }
    let mut found = spaced.split(|c: char| !c.is_alphabetic()).filter_map(split_of_word);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn split_of_word(word: &str) -> Option<FolderSplit> {
    if PREDICTION_WORDS.contains(&word) {
        return Some(FolderSplit::Prediction);
    }
    let without_joined = JOINED_WORDS.iter().find_map(|joined| word.strip_suffix(joined));
    let split = Split::from_name(word).or_else(|| Split::from_name(without_joined?));
    split.map(FolderSplit::Split)
}

/// What the folders in a root folder are.
#[derive(Debug)]
pub(in crate::source) enum FolderRoles<'a> {
    /// Each is a class.
    Classes,
    /// Those of `splits` contain a folder for each class; the photos in those of `left_out` have no classes.
    Splits { splits: Vec<(Split, &'a ImageFolder)>, left_out: Vec<&'a ImageFolder> },
}

impl<'a> FolderRoles<'a> {
    /// Finds out what the folders of `root` are. `split_folders` is what the user says: whether they are
    /// splits. `path` is that of the root, for messages.
    ///
    /// They are splits if all folders with photos have the name of a split, and one of them is for training
    /// and has folders of classes which the others have too. A folder without folders of classes is left out
    /// then.
    ///
    /// # Errors
    /// [`DatasetError::UnclearFolders`] if the folders may be classes or splits.
    pub(in crate::source) fn detect(
        root: &'a ImageFolder,
        split_folders: Option<bool>,
        path: &Path,
    ) -> Result<Self, DatasetError> {
        if split_folders == Some(false) {
            return Ok(Self::Classes);
        }
        let folders: Vec<(&ImageFolder, Option<FolderSplit>)> =
            root.subfolders_with_images().map(|folder| (folder, split_of_folder(folder.name()))).collect();
        let unclear = |observation| Err(unclear_folders(path, &folders, observation));
        let train: Vec<&ImageFolder> = of_split(&folders, |split| split == Split::Train);
        let held_out: Vec<&ImageFolder> = of_split(&folders, |split| split != Split::Train);
        let train_classes: BTreeSet<&str> = train
            .iter()
            .filter(|folder| has_class_folders(folder))
            .flat_map(|folder| class_names(folder))
            .collect();
        let is_usable = |folder: &&ImageFolder| has_class_folders(folder);
        let shares_classes =
            |folder: &&ImageFolder| class_names(folder).iter().any(|class| train_classes.contains(class));
        let all_are_named = !folders.is_empty() && folders.iter().all(|(_, split)| split.is_some());
        if split_folders == Some(true) || all_are_named && !train_classes.is_empty() {
            if train_classes.is_empty() {
                return unclear("none of them is for training and has a folder for each class");
            }
            if split_folders.is_none()
                && !held_out
                    .iter()
                    .copied()
                    .filter(|folder| is_usable(folder))
                    .all(|folder| shares_classes(&folder))
            {
                return unclear("the folders in them have different names");
            }
            let is_split = |folder: &ImageFolder, split| match split {
                Some(FolderSplit::Split(split)) if has_class_folders(folder) => Some(split),
                _ => None,
            };
            let splits = folders
                .iter()
                .filter_map(|&(folder, split)| Some((is_split(folder, split)?, folder.without_wrappers())));
            let left_out = folders.iter().filter(|&&(folder, split)| is_split(folder, split).is_none());
            return Ok(Self::Splits {
                splits: splits.collect(),
                left_out: left_out.map(|&(folder, _)| folder).collect(),
            });
        }
        if all_are_named && !train.is_empty() && !held_out.is_empty() {
            return unclear("they have no folder for each class");
        }
        if held_out.iter().any(|folder| has_class_folders(folder) && shares_classes(folder)) {
            return unclear("only some of them have the names of splits");
        }
        if have_same_folders(&folders) {
            return unclear("they contain the same folders");
        }
        Ok(Self::Classes)
    }
}

/// The folders with the name of a split that satisfies `is_wanted`.
fn of_split<'a>(
    folders: &[(&'a ImageFolder, Option<FolderSplit>)],
    is_wanted: impl Fn(Split) -> bool,
) -> Vec<&'a ImageFolder> {
    let has_split =
        |split: Option<FolderSplit>| matches!(split, Some(FolderSplit::Split(split)) if is_wanted(split));
    folders.iter().filter(|(_, split)| has_split(*split)).map(|&(folder, _)| folder).collect()
}

/// Whether all photos of the folder are in subfolders.
fn has_class_folders(folder: &ImageFolder) -> bool {
    let folder = folder.without_wrappers();
    folder.images.is_empty() && folder.has_images()
}

/// The names of the subfolders with images, the classes if this folder is a split.
fn class_names(folder: &ImageFolder) -> BTreeSet<&str> {
    folder.without_wrappers().subfolders_with_images().map(ImageFolder::name).collect()
}

/// Whether each of two or more folders has mostly the same subfolders, two or more, so that these may be the
/// classes. Numbers are no names of classes here, but for example years.
fn have_same_folders(folders: &[(&ImageFolder, Option<FolderSplit>)]) -> bool {
    if folders.len() < 2 || !folders.iter().all(|(folder, _)| has_class_folders(folder)) {
        return false;
    }
    let names: Vec<BTreeSet<&str>> = folders.iter().map(|(folder, _)| class_names(folder)).collect();
    let is_word = |name: &&str| name.chars().any(char::is_alphabetic);
    let in_all =
        names[0].iter().filter(|name| is_word(name) && names.iter().all(|names| names.contains(*name)));
    let n_in_all = in_all.count();
    let n_in_any = names.iter().flatten().collect::<BTreeSet<_>>().len();
    n_in_all >= 2 && n_in_all * 2 >= n_in_any
}

/// The error that the `folders` of `path` may be classes or splits; `observation` is what was seen.
fn unclear_folders(
    path: &Path,
    folders: &[(&ImageFolder, Option<FolderSplit>)],
    observation: &'static str,
) -> DatasetError {
    let folder_of = |is_wanted: fn(Split) -> bool| {
        let of_split = of_split(folders, is_wanted);
        of_split
            .into_iter()
            .find(|folder| has_class_folders(folder))
            .map(|folder| path.join(&folder.without_wrappers().id))
    };
    DatasetError::UnclearFolders {
        root: path.into(),
        folders: NameList(folders.iter().map(|(folder, _)| folder.name().to_owned()).collect()),
        observation,
        likely: Box::new(LikelySplits {
            train: folder_of(|split| split == Split::Train),
            test: folder_of(|split| split == Split::Test)
                .or_else(|| folder_of(|split| split == Split::Validation)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_in_the_name_of_a_folder_names_its_split() {
        for (split, names) in [
            (
                Split::Train,
                &["train", "Training", "training_set", "seg_train", "train2017", "TrainImages", "trainset"][..],
            ),
            (Split::Validation, &["val", "valid", "val_256", "imgs-val", "ValSet"]),
            (Split::Test, &["test", "Testing", "test_set", "seg_test", "test1", "testdata", "eval"]),
        ] {
            for name in names {
                assert_eq!(split_of_folder(name), Some(FolderSplit::Split(split)), "{name}");
            }
        }
        for name in ["pred", "seg_pred", "predictions"] {
            assert_eq!(split_of_folder(name), Some(FolderSplit::Prediction), "{name}");
        }
        // Two splits in a name, or a word that only begins as one.
        for name in [
            "trainer",
            "train_test",
            "seg",
            "model",
            "contest",
            "valley",
            "testament",
            "Attestation",
            "set",
            "",
        ] {
            assert_eq!(split_of_folder(name), None, "{name}");
        }
    }
}
