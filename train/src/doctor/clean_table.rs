//! Writes a table of the data set without the samples that findings concern, the review of these samples, and a
//! config that trains on the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstock_loader::DataSource;
use headstock_split::words::counted;
use serde::Serialize;
use toml::{Table, Value};

use super::Diagnosis;
use super::cleaning::Cleaning;
use super::review::{COLUMNS as REVIEW_COLUMNS, Review, ReviewRow, review_csv};
use crate::atomic_write::{refuse_to_overwrite, refuse_to_overwrite_unless, write_atomically};
use crate::config::{DataSourceConfig, Options, Settings, SplitMethod};
use crate::csv_table::to_csv;
use crate::error::{Remedy, TrainError};
use crate::samples::{image_files_root, open_source};

/// The columns of the table of a data set that has no table of its own; `group` and `split` only if the data has
/// groups, and defines its split.
const COLUMNS: [&str; 4] = ["id", "label", "group", "split"];

/// The first line of the config of a clean table.
const CONFIG_HEADER: &str = "# Trains on a table that headstock has cleaned; doctor may write it again.\n";

/// The output files of a clean table: a CSV file that lists the data set without its problematic samples, and
/// beside it the review of what was left out, and the config.
#[derive(Debug)]
pub struct CleanTable {
    path: PathBuf,
    /// The source with the table that rows are copied from; `None` if the data set has no table.
    source: Option<Box<dyn DataSource>>,
    /// The folder of the image files, which the ids in the table are relative to.
    images: PathBuf,
    /// The options that the data set is read with.
    options: Options,
    /// The review whose decisions are applied.
    given: Option<Review>,
}

/// Summary of a written table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CleanSummary {
    /// The path of the table.
    pub csv: PathBuf,
    /// The path of the config that trains on the table.
    pub config: PathBuf,
    /// The path of the review.
    pub review: PathBuf,
    /// The folder that the ids are relative to.
    pub images: PathBuf,
    /// The number of rows.
    #[serde(rename = "kept")]
    pub n_rows: usize,
    /// The number of samples that were removed, and of rows and files that are no samples because of an error.
    pub left_out: usize,
    /// The number of rows with another class than in the data.
    pub relabeled: usize,
    /// Whether the table has the column `split`.
    pub split: bool,
}

impl CleanTable {
    /// Chooses `path` as the output file for the clean table, a CSV list of the data set of `settings`
    /// without its problematic samples, which [`write`](Self::write) writes later, with a config and a review
    /// beside it. `review` is the file of an edited review, whose decisions are applied. Checks now, before the
    /// long work starts, that this will be possible.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for images that are not files, and for an existing file that is not such a table,
    /// config or review, or that is the data set's own table; [`TrainError::Data`] for a review that cannot be
    /// used.
    pub fn new(path: &Path, review: Option<&Path>, settings: &Settings) -> Result<Self, TrainError> {
        let Some(images) = image_files_root(&settings.source) else {
            let problem = "a clean table lists files, but photos in Parquet files, WebDataset archives and zip \
                           archives are not separate files";
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
        let mut own_prefixes: Vec<Vec<u8>> = [(false, false), (false, true), (true, false), (true, true)]
            .map(|(has_group, has_split)| {
                format!("{}\n", columns(has_group, has_split).join(",")).into_bytes()
            })
            .into();
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
            own_prefixes = source.filter_table(&|_| None)?.into_iter().collect();
        }
        refuse_to_overwrite_unless(path, &own_prefixes)?;
        refuse_to_overwrite_unless(&config_path(path), &[CONFIG_HEADER.as_bytes().to_vec()])?;
        let review_path = Review::path_beside(path);
        let given = review.map(Review::read).transpose()?;
        // A given review has been read, and a spreadsheet may have changed the order of its columns.
        let is_given =
            review.is_some_and(|given| given.canonicalize().ok() == review_path.canonicalize().ok());
        if !is_given {
            refuse_to_overwrite(&review_path, &REVIEW_COLUMNS)?;
        }
        Ok(Self { path: path.into(), source, images, options: settings.to_options(), given })
    }

    /// Writes a CSV table of the data set, to train on, without the samples that have a finding in
    /// `diagnosis`: unreadable images, suspicious labels, outliers and duplicates across classes. Of
    /// duplicates within a class one stays, the first that has no other finding. Classes whose names differ only
    /// in case, punctuation or encoding become one, and classes with a single sample are left out. The given
    /// review decides otherwise. If the data set is a CSV table itself, its rows keep all their other columns.
    /// Also writes the review of all of this and the config.
    ///
    /// # Errors
    /// [`TrainError::Inference`], [`TrainError::Dataset`] if the data set's own table cannot be read,
    /// [`TrainError::Data`] for a review of other data, and [`TrainError::Usage`] if an existing review has
    /// decisions that would be lost.
    pub fn write(&self, diagnosis: &Diagnosis) -> Result<CleanSummary, TrainError> {
        let Diagnosis { listing, findings, earlier_review, .. } = diagnosis;
        let given = self.given.clone().unwrap_or_default();
        let Cleaning { classes, review } = Cleaning::new(findings, listing, &given, earlier_review)?;
        let review_path = Review::path_beside(&self.path);
        if self.given.is_none() {
            let written: BTreeMap<&str, &ReviewRow> =
                review.iter().map(|row| (row.path.as_str(), row)).collect();
            let would_be_lost = |row: &&ReviewRow| match written.get(row.path.as_str()) {
                Some(new) => (new.action, &new.suggestion) != (row.action, &row.suggestion),
                None => row.is_decision(),
            };
            let edited = Review::read_beside(&self.path)?.rows().filter(would_be_lost).count();
            if edited > 0 {
                return Err(TrainError::Usage(format!(
                    "{} has {} that would be lost: give the review back, or remove the file",
                    review_path.display(),
                    counted(edited, "decision", "decisions")
                ))
                .with_remedy(Remedy::GiveReview(review_path)));
            }
        }
        let samples = &listing.samples;
        let remaining = || {
            let rows = samples.rows.iter().zip(&classes).enumerate();
            rows.filter_map(|(index, (row, class))| Some((index, row, class.as_deref()?)))
        };
        let has_split = self.source.is_none() && listing.has_given_splits;
        let has_group = self.source.is_none() && listing.has_groups();
        let class_by_id: BTreeMap<&str, &str> =
            remaining().map(|(_, row, class)| (row.id.as_str(), class)).collect();
        let own_table = self
            .source
            .as_ref()
            .map(|source| source.filter_table(&|id| class_by_id.get(id).map(|class| (*class).to_owned())));
        let table = own_table.transpose()?.flatten().unwrap_or_else(|| {
            let rows = remaining().map(|(index, row, class)| {
                let group = listing.group_name(index).filter(|_| has_group);
                let split = has_split.then(|| row.subset.as_str());
                [Some(row.id.as_str()), Some(class), group, split].into_iter().flatten().map(str::to_owned)
            });
            to_csv(&columns(has_group, has_split), rows)
        });
        write_atomically(&self.path, &table)?;
        write_atomically(&review_path, &review_csv(review.iter()))?;
        let config = config_path(&self.path);
        let text = format!("{CONFIG_HEADER}{}", self.clean_options(has_group, has_split)?.to_toml());
        write_atomically(&config, text.as_bytes())?;
        let n_rows = remaining().count();
        Ok(CleanSummary {
            csv: self.path.clone(),
            config,
            review: review_path,
            images: self.images.clone(),
            n_rows,
            left_out: samples.rows.len() - n_rows + listing.n_error_entries(),
            relabeled: remaining()
                .filter(|(_, row, class)| samples.classes.name(row.label) != *class)
                .count(),
            split: has_split,
        })
    }

    /// The options that train on the written table.
    fn clean_options(&self, has_group: bool, has_split: bool) -> Result<Options, TrainError> {
        let csv = std::path::absolute(&self.path).map_err(TrainError::io("find", &self.path))?;
        let text = |path: &Path| Value::String(path.to_string_lossy().into_owned());
        let mut options = self.options.clone();
        if self.source.is_some() {
            options.data.source.insert("csv".into(), text(&csv));
            return Ok(options);
        }
        let keys = [("csv", text(&csv)), ("images", text(&self.images)), ("id", "id".into())];
        let keys = keys.into_iter().chain([("label", "label".into())]);
        let keys = keys.chain(has_group.then(|| ("group", "group".into())));
        options.data.kind = None;
        options.data.source = Table::from_iter(keys.map(|(key, value)| (key.to_owned(), value)));
        if has_split {
            options.split.method = SplitMethod::Predefined;
            options.split.column = Some("split".into());
            (options.split.folds, options.split.fold) = (None, 0);
        }
        Ok(options)
    }
}

/// The file of the config of the clean table `table`: `clean.toml` for `clean.csv`.
fn config_path(table: &Path) -> PathBuf {
    table.with_extension("toml")
}

/// The columns of the table of a data set that has none.
fn columns(has_group: bool, has_split: bool) -> Vec<&'static str> {
    let is_used = |column: &&str| match *column {
        "group" => has_group,
        "split" => has_split,
        _ => true,
    };
    COLUMNS.into_iter().filter(is_used).collect()
}
