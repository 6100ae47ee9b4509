//! The data set without what was found in it, as a table to train on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_loader::CsvSource;
use serde::Serialize;

use super::{Diagnosis, Finding, Kind, Scope};
use crate::config::{Place, Settings, Source};
use crate::error::TrainError;
use crate::files::{refuse_to_replace_all_but, write_whole};
use crate::samples::root_of_files;

/// The columns of a table of folders; `split` where the data has parts of its own.
const COLUMNS: [&str; 3] = ["id", "label", "split"];

/// A table that is going to be written.
#[derive(Clone, Debug)]
pub struct CleanTable {
    path: PathBuf,
    /// The table that rows are taken from, where the data set is one.
    source: Option<CsvSource>,
    /// What its ids are relative to.
    images: PathBuf,
}

/// A table that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The table: `data.csv`.
    pub csv: PathBuf,
    /// The folder that its ids are relative to: `data.images`.
    pub images: PathBuf,
    /// Rows.
    pub kept: usize,
    /// Samples that were left out.
    pub left_out: usize,
    /// Whether it has the column `split`, made from folders of parts.
    pub split: bool,
}

impl CleanTable {
    /// A table at `path` for the photos of `settings`, refused before the long work where it cannot be written.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for photos that are no files, and for a `path` where another file lies than such a table; the
    /// data set's own table is never replaced.
    pub fn new(path: &Path, settings: &Settings) -> Result<Self, TrainError> {
        let Some(images) = root_of_files(&settings.source) else {
            return Err(TrainError::Usage(
                "--write-clean writes a table of files: photos of Parquet and WebDataset shards are none"
                    .into(),
            ));
        };
        let source = match &settings.source {
            Source::Photos { main: Place::Csv(csv), .. } => Some(csv.clone()),
            _ => None,
        };
        let mut begins = vec![b"id,label\n".to_vec(), b"id,label,split\n".to_vec()];
        if let Some(source) = &source {
            let real = |path: &Path| path.canonicalize().ok();
            if real(path).is_some() && real(path) == real(&source.csv) {
                return Err(TrainError::Usage(format!(
                    "{} is the data set's own table: name another file for the clean one",
                    path.display()
                )));
            }
            begins = vec![source.filter_rows(|_| false)?];
        }
        refuse_to_replace_all_but(path, &begins)?;
        Ok(Self { path: path.into(), source, images })
    }

    /// Writes what is left. Photos that cannot be read leave, and so do those with suspicious labels, outliers, and copies across
    /// classes; of other copies the first that nothing else is wrong with stays. Rows of a table keep all their columns.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::Dataset`] for a table that cannot be read again.
    pub fn write(&self, diagnosis: &Diagnosis) -> Result<Cleaned, TrainError> {
        let leaving = leaving(&diagnosis.findings);
        let collected = &diagnosis.collected;
        let stays = || collected.samples.iter().enumerate().filter(|(number, _)| !leaving.contains(number));
        let split = self.source.is_none() && collected.given;
        let table = match &self.source {
            Some(source) => {
                let ids: BTreeSet<&str> = stays().map(|(_, sample)| sample.id.as_str()).collect();
                source.filter_rows(|id| ids.contains(id))?
            }
            None => {
                let columns = if split { &COLUMNS[..] } else { &COLUMNS[..2] };
                let mut table = csv::Writer::from_writer(Vec::new());
                let whole = "a vector takes every byte";
                table.write_record(columns).expect(whole);
                for (_, sample) in stays() {
                    let row = [&sample.id, collected.classes.name(sample.label), sample.part.as_str()];
                    table.write_record(&row[..columns.len()]).expect(whole);
                }
                table.into_inner().expect(whole)
            }
        };
        write_whole(&self.path, &table).map_err(TrainError::io("write", &self.path))?;
        let kept = stays().count();
        Ok(Cleaned {
            csv: self.path.clone(),
            images: self.images.clone(),
            kept,
            left_out: collected.samples.len() - kept,
            split,
        })
    }
}

/// The numbers of the samples that a clean data set is without.
fn leaving(findings: &[Finding]) -> BTreeSet<usize> {
    let mut leaving = BTreeSet::new();
    let mut copies = Vec::new();
    for finding in findings {
        let samples = finding.items.iter().map(|item| item.photos.iter().map(|photo| photo.sample));
        match (finding.kind, finding.scope) {
            (Kind::Unreadable | Kind::Truncated | Kind::SuspiciousLabel | Kind::Outlier, _)
            | (_, Some(Scope::AcrossClasses)) => leaving.extend(samples.flatten()),
            (_, Some(_)) => copies.extend(samples.map(Iterator::collect::<Vec<_>>)),
            _ => {}
        }
    }
    for samples in copies {
        let mut stay =
            samples.into_iter().filter(|sample| !leaving.contains(sample)).collect::<Vec<_>>().into_iter();
        stay.next();
        leaving.extend(stay);
    }
    leaving
}

#[cfg(test)]
mod tests {
    use super::super::{Concerned, Item};
    use super::*;
    use crate::samples::Part;

    fn finding(kind: Kind, scope: Option<Scope>, items: &[&[usize]]) -> Finding {
        let photo = |&sample: &usize| Concerned {
            path: sample.to_string(),
            label: "a".into(),
            part: Part::Train,
            sample,
        };
        let item = |samples: &&[usize]| Item {
            photos: samples.iter().map(photo).collect(),
            detail: String::new(),
            doubt: None,
        };
        Finding::of(kind, scope, items.iter().map(item).collect()).unwrap()
    }

    fn leaves(findings: &[Finding]) -> Vec<usize> {
        leaving(findings).into_iter().collect()
    }

    // effect: doctor --write-clean
    #[test]
    fn what_is_wrong_leaves_and_what_is_only_odd_stays() {
        let leave = [Kind::Unreadable, Kind::Truncated, Kind::SuspiciousLabel, Kind::Outlier];
        let stay = [Kind::Animated, Kind::Rotated, Kind::OddMode, Kind::ExtremeSize, Kind::ExtremeAspect];
        for kind in leave {
            assert_eq!(leaves(&[finding(kind, None, &[&[3], &[5]])]), [3, 5], "{kind:?}");
        }
        for kind in stay {
            assert!(leaves(&[finding(kind, None, &[&[3], &[5]])]).is_empty(), "{kind:?}");
        }
    }

    // effect: doctor --write-clean
    #[test]
    fn of_copies_one_stays_and_of_copies_with_two_labels_none() {
        for kind in [Kind::ExactDuplicate, Kind::NearDuplicate] {
            for scope in [Scope::WithinClass, Scope::AcrossParts] {
                let copies = finding(kind, Some(scope), &[&[1, 4, 6], &[2, 3]]);
                assert_eq!(leaves(std::slice::from_ref(&copies)), [3, 4, 6]);
                // The first that nothing else is wrong with stays, whatever is found first.
                let wrong = finding(Kind::SuspiciousLabel, None, &[&[1], &[2]]);
                assert_eq!(leaves(&[copies.clone(), wrong.clone()]), [1, 2, 6]);
                assert_eq!(leaves(&[wrong, copies]), [1, 2, 6]);
            }
            let across = finding(kind, Some(Scope::AcrossClasses), &[&[1, 4], &[7, 8]]);
            assert_eq!(leaves(&[across]), [1, 4, 7, 8]);
        }
    }
}
