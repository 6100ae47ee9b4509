//! Writes a table of the data set without the samples that findings concern.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_loader::DataSource;
use serde::Serialize;

use super::{Diagnosis, DuplicateScope, Finding, FindingKind};
use crate::atomic_write::{refuse_to_overwrite_unless, write_atomically};
use crate::config::{DataSourceConfig, Settings};
use crate::csv_table::to_csv;
use crate::error::{Remedy, TrainError};
use crate::samples::{SampleRow, image_files_root, open_source};

/// The columns of the table of a folder data set; `split` only if the data defines its split.
const COLUMNS: [&str; 3] = ["id", "label", "split"];

/// The output file of a clean table: a CSV file that lists the data set without its problematic samples.
#[derive(Debug)]
pub struct CleanTable {
    path: PathBuf,
    /// The source with the table that rows are copied from; `None` if the data set has no table.
    source: Option<Box<dyn DataSource>>,
    /// The folder of the image files, which the ids in the table are relative to.
    images: PathBuf,
}

/// Summary of a written table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CleanSummary {
    /// The path of the table, as the key `csv` of the data.
    pub csv: PathBuf,
    /// The folder that the ids are relative to, as the key `images` of the data.
    pub images: PathBuf,
    /// The number of rows.
    #[serde(rename = "kept")]
    pub n_rows: usize,
    /// The number of samples that were removed, and of rows and files that are no samples because of an error.
    pub left_out: usize,
    /// Whether the table has the column `split`.
    pub split: bool,
}

impl CleanTable {
    /// Chooses `path` as the output file for the clean table, a CSV list of the data set of `settings`
    /// without its problematic samples, which [`write`](Self::write) writes later. Checks now, before the
    /// long work starts, that this will be possible.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for images that are not files, and for an existing file that is not such a table
    /// or that is the data set's own table.
    pub fn new(path: &Path, settings: &Settings) -> Result<Self, TrainError> {
        let Some(images) = image_files_root(&settings.source) else {
            let problem = "a clean table lists files, but photos in Parquet files and WebDataset archives \
                           are not separate files";
            return Err(TrainError::Usage(problem.into()).with_remedy(Remedy::NoCleanTable));
        };
        let source = match &settings.source {
            DataSourceConfig::Images(source) => {
                let split_column = settings.split.column.as_deref();
                Some(open_source(source.as_ref(), split_column, settings.follow_links, &())?.source)
            }
            DataSourceConfig::Features(_) => None,
        };
        let source = source.filter(|source| source.table_path().is_some());
        // The first bytes of an earlier clean table, which may be overwritten.
        let mut own_prefixes = vec![b"id,label\n".to_vec(), b"id,label,split\n".to_vec()];
        if let Some(source) = &source {
            let canonical = |path: &Path| path.canonicalize().ok();
            if canonical(path).is_some() && canonical(path) == source.table_path().and_then(canonical) {
                return Err(TrainError::Usage(format!(
                    "{} is the data set's own table and would be overwritten: choose a different file for \
                     the clean table",
                    path.display()
                )));
            }
            // Without any row, only the header is left.
            own_prefixes = source.filter_table(&|_| false)?.into_iter().collect();
        }
        refuse_to_overwrite_unless(path, &own_prefixes)?;
        Ok(Self { path: path.into(), source, images })
    }

    /// Writes a CSV table of the data set, to train on, without the samples that have a finding in
    /// `diagnosis`: unreadable images, suspicious labels, outliers and duplicates across classes. Of
    /// duplicates within a class one stays, the first that has no other finding. If the data set is a CSV
    /// table itself, its rows keep all their columns.
    ///
    /// # Errors
    /// [`TrainError::Inference`], [`TrainError::Dataset`] if the data set's own table cannot be read.
    pub fn write(&self, diagnosis: &Diagnosis) -> Result<CleanSummary, TrainError> {
        let removed = samples_to_remove(&diagnosis.findings);
        let samples = &diagnosis.listing.samples;
        let remaining = || samples.rows.iter().enumerate().filter(|(index, _)| !removed.contains(index));
        let has_split = self.source.is_none() && diagnosis.listing.has_given_splits;
        let ids: BTreeSet<&str> = remaining().map(|(_, sample)| sample.id.as_str()).collect();
        let own_table = self.source.as_ref().map(|source| source.filter_table(&|id| ids.contains(id)));
        let table = own_table.transpose()?.flatten().unwrap_or_else(|| {
            let columns = if has_split { &COLUMNS[..] } else { &COLUMNS[..2] };
            let row = |(_, row): (usize, &SampleRow)| {
                let fields = [&row.id, samples.classes.name(row.label), row.subset.as_str()];
                fields.map(str::to_owned).into_iter().take(columns.len())
            };
            to_csv(columns, remaining().map(row))
        });
        write_atomically(&self.path, &table)?;
        let n_rows = remaining().count();
        Ok(CleanSummary {
            csv: self.path.clone(),
            images: self.images.clone(),
            n_rows,
            left_out: samples.rows.len() - n_rows + diagnosis.listing.n_error_entries(),
            split: has_split,
        })
    }
}

/// The indices of the samples that the clean table (the data set without its problematic samples) leaves out
/// because of `findings`. Of a group of duplicates in one class, the first sample that no other finding
/// removes stays.
fn samples_to_remove(findings: &[Finding]) -> BTreeSet<usize> {
    use FindingKind::{Outlier, SuspiciousLabel, Truncated, Unreadable};
    let mut removed = BTreeSet::new();
    let mut duplicates = Vec::new();
    for finding in findings {
        let samples = finding.items.iter().map(|item| item.images.iter().map(|image| image.index));
        match (finding.kind, finding.scope) {
            (Unreadable | Truncated | SuspiciousLabel | Outlier, _)
            | (_, Some(DuplicateScope::AcrossClasses)) => removed.extend(samples.flatten()),
            (_, Some(_)) => duplicates.extend(samples.map(Iterator::collect::<Vec<_>>)),
            _ => {}
        }
    }
    for samples in duplicates {
        // All but the first one are removed.
        let mut remaining =
            samples.into_iter().filter(|sample| !removed.contains(sample)).collect::<Vec<_>>().into_iter();
        remaining.next();
        removed.extend(remaining);
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::super::{FindingItem, SampleRef};
    use super::*;
    use crate::samples::Subset;

    fn finding(kind: FindingKind, scope: Option<DuplicateScope>, items: &[&[usize]]) -> Finding {
        let sample_ref = |&sample: &usize| SampleRef {
            path: sample.to_string(),
            label: "a".into(),
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
        samples_to_remove(findings).into_iter().collect()
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
