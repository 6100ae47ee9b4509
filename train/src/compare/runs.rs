//! Compares runs on samples that none of them was trained on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use headstock_inference::{Predictions, Progress};
use headstock_loader::{ClassMap, ClassOrder, ImageRef};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::bootstrap::compare_to_best;
use super::trial::compared_metrics;
use crate::bootstrap::{BootstrapUnits, COVERAGE, Interval, N_RESAMPLES};
use crate::config::Settings;
use crate::error::TrainError;
use crate::features::ExtractOptions;
use crate::fit::eval_logits;
use crate::metrics::MetricMap;
use crate::run::Run;
use crate::sample_features::SampleFeatures;
use crate::samples::{SampleInputs, SampleSet};
use crate::trained_on::{ContentHash, hash_features};

/// Runs that were tested on the same samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunComparison {
    /// The number of samples that the runs are compared on.
    pub samples: usize,
    /// The number of groups among them, which resamples keep together, if the data has groups.
    pub groups: Option<usize>,
    /// The samples of the data that the runs are not compared on.
    pub left_out: LeftOutSamples,
    /// The seed of the resamples.
    pub seed: u32,
    /// The number of bootstrap resamples.
    pub resamples: usize,
    /// The fraction of resamples inside an interval.
    pub coverage: f64,
    /// The runs, in the given order.
    pub runs: Vec<ComparedRun>,
}

/// The numbers of samples that runs are not compared on. A sample is counted once, by the first reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOutSamples {
    /// At least one of the runs was trained on the sample.
    pub trained_on: usize,
    /// At least one of the runs was trained on a different sample of its group.
    pub group_trained_on: usize,
    /// At least one of the runs does not have the class of the sample.
    pub unknown_class: usize,
    /// The image cannot be read.
    pub unreadable: usize,
}

/// A run among others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedRun {
    /// The folder.
    pub run: PathBuf,
    /// The name of the head.
    pub head: String,
    /// The number of samples of the data that the run was trained on.
    pub trained_on: usize,
    /// The metrics on the samples that no run was trained on.
    #[serde(flatten)]
    pub metrics: MetricMap<RunMetric>,
}

/// A metric of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunMetric {
    /// Its value.
    pub value: f64,
    /// The difference, this run minus the first.
    pub difference: f64,
    /// The interval of the difference, by a paired bootstrap.
    pub interval: Interval,
}

/// A field of each metric.
impl Serialize for MetricMap<RunMetric> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(metric, value)| (metric.key(), value)))
    }
}

/// Compares `runs`, each with the settings to use it with, on those samples of the data of `data_settings`
/// that none of them was trained on. Samples are recognized by content. Each run computes features with its
/// own backbone, and gives its calibrated probabilities. `seed` determines the bootstrap resamples.
///
/// # Errors
/// Any [`TrainError`]; [`TrainError::Data`] if it is not known what a run was trained on, or no sample is
/// left.
pub fn compare_runs(
    runs: &[(Run, Settings)],
    data_settings: &Settings,
    seed: u32,
    progress: &dyn Progress,
) -> Result<RunComparison, TrainError> {
    let (samples, inputs) = SampleSet::read_unsplit(data_settings, progress)?;
    let hashes = hash_contents(&inputs, progress);
    let (mut seen_by_any, mut n_trained_on) = (vec![false; hashes.len()], Vec::new());
    for (run, _) in runs {
        let trained_hashes = find_trained_hashes(run, data_settings, progress)?;
        let seen: Vec<bool> =
            hashes.iter().map(|hash| hash.is_some_and(|hash| trained_hashes.contains(&hash))).collect();
        n_trained_on.push(seen.iter().filter(|seen| **seen).count());
        seen_by_any.iter_mut().zip(seen).for_each(|(any, seen)| *any |= seen);
    }
    let (rows, mut left_out) = choose_rows(&samples, runs, &hashes, &seen_by_any);
    let rows = select_readable(runs, &inputs, rows, &mut left_out, progress)?;
    if rows.is_empty() {
        return Err(TrainError::Data(format!(
            "the runs cannot be compared, because no photo is left: of {} photos, the runs were trained on {}, \
             and on others of the groups of {}; {} are of classes that a run does not have, {} cannot be read; \
             give data with new photos",
            samples.rows.len(),
            left_out.trained_on,
            left_out.group_trained_on,
            left_out.unknown_class,
            left_out.unreadable
        )));
    }
    let (classes, labels) = (union_of_classes(&samples, runs), samples.labels(&rows));
    let mut predictions = Vec::new();
    for (run, settings) in runs {
        let inputs = inputs.clone().select(&rows);
        let features = prepare_features(run, settings, inputs, progress)?;
        let logits = eval_logits(run.model.head.as_ref(), &features, &(0..rows.len()).collect::<Vec<_>>())?;
        predictions.push(renumber_classes(
            &run.model.predictions(&logits)?,
            &run.model.record.classes,
            &classes,
        ));
    }
    let prepared: Vec<_> = predictions.iter().map(|run| compared_metrics(run, &labels)).collect();
    let (metrics, values): (Vec<_>, Vec<_>) =
        prepared.iter().map(|(metrics, values)| (metrics, values)).unzip();
    let groups = samples.groups(&rows);
    let units = BootstrapUnits::new(rows.len(), groups.as_deref(), seed);
    let draw = |resample| units.resample_counts(resample);
    let estimates = compare_to_best(&metrics, &values, 0, N_RESAMPLES, draw);
    let compared = runs.iter().zip(estimates).zip(n_trained_on).map(|(((run, _), estimates), trained_on)| {
        let metrics = estimates.map(|metric, estimate| RunMetric {
            value: estimate.value,
            difference: estimate.value - values[0][metric],
            interval: estimate.to_best,
        });
        let head = run.model.record.head.kind.clone();
        ComparedRun { run: run.folder.clone(), head, trained_on, metrics }
    });
    Ok(RunComparison {
        samples: rows.len(),
        groups: groups.is_some().then_some(units.n_units),
        left_out,
        seed,
        resamples: N_RESAMPLES,
        coverage: COVERAGE,
        runs: compared.collect(),
    })
}

/// The content hash of each sample, `[N]`; `None` for an image that cannot be read.
fn hash_contents(inputs: &SampleInputs, progress: &dyn Progress) -> Vec<Option<ContentHash>> {
    match inputs {
        SampleInputs::Features(table) => {
            table.values.chunks_exact(table.width).map(|row| Some(hash_features(row))).collect()
        }
        SampleInputs::Images(images) => {
            progress.begin("reading photos", images.len() as u64, "photos");
            let hash_image = |image: &ImageRef| {
                let hash = image.read().ok().map(|bytes| Sha256::digest(bytes).into());
                progress.step(1);
                hash
            };
            let hashes = images.par_iter().map(hash_image).collect();
            progress.end();
            hashes
        }
    }
}

/// The content hashes of the samples that `run` was trained on.
///
/// # Errors
/// [`TrainError::Data`] if they are not known.
fn find_trained_hashes(
    run: &Run,
    data_settings: &Settings,
    progress: &dyn Progress,
) -> Result<BTreeSet<ContentHash>, TrainError> {
    let hashes = if run.has_other_contents(data_settings) { None } else { run.trained_on_hashes(progress)? };
    hashes.ok_or_else(|| {
        TrainError::Data(format!(
            "{} cannot be compared, because it is not known which photos it was trained on: train it again",
            run.folder.display()
        ))
    })
}

/// The samples that all runs can be tested on: those of classes that all runs have, with contents, of which
/// none is among `seen_by_any`, nor a different sample of its group. Also returns how many others there are.
fn choose_rows(
    samples: &SampleSet,
    runs: &[(Run, Settings)],
    hashes: &[Option<ContentHash>],
    seen_by_any: &[bool],
) -> (Vec<usize>, LeftOutSamples) {
    let rows_with_flags = || samples.rows.iter().zip(seen_by_any);
    let seen_groups: BTreeSet<u32> =
        rows_with_flags().filter(|(_, seen)| **seen).filter_map(|(row, _)| row.group).collect();
    let has_class = |name: &String| runs.iter().all(|(run, _)| run.model.record.classes.contains(name));
    let is_known: Vec<bool> = samples.classes.names().iter().map(has_class).collect();
    let (mut chosen, mut left_out) = (Vec::new(), LeftOutSamples::default());
    for (index, (row, &seen)) in rows_with_flags().enumerate() {
        if seen {
            left_out.trained_on += 1;
        } else if row.group.is_some_and(|group| seen_groups.contains(&group)) {
            left_out.group_trained_on += 1;
        } else if !is_known[row.label as usize] {
            left_out.unknown_class += 1;
        } else if hashes[index].is_none() {
            left_out.unreadable += 1;
        } else {
            chosen.push(index);
        }
    }
    (chosen, left_out)
}

/// Those of `rows` whose images every run can decode; the others are counted in `left_out`. Features are
/// computed on the way, and cached.
fn select_readable(
    runs: &[(Run, Settings)],
    inputs: &SampleInputs,
    rows: Vec<usize>,
    left_out: &mut LeftOutSamples,
    progress: &dyn Progress,
) -> Result<Vec<usize>, TrainError> {
    let mut readable = rows;
    if inputs.images().is_none() {
        return Ok(readable);
    }
    for (run, settings) in runs {
        if readable.is_empty() {
            break;
        }
        let features = prepare_features(run, settings, inputs.clone().select(&readable), progress)?;
        let positions = features.readable_rows((0..readable.len()).collect());
        left_out.unreadable += readable.len() - positions.len();
        readable = positions.into_iter().map(|position| readable[position]).collect();
    }
    Ok(readable)
}

/// The features of `inputs` by the backbone of `run`, in their order.
fn prepare_features(
    run: &Run,
    settings: &Settings,
    inputs: SampleInputs,
    progress: &dyn Progress,
) -> Result<SampleFeatures, TrainError> {
    let pretrained = match &settings.backbone {
        Some(options) if run.model.record.backbone.is_some() => {
            Some(run.model.open_backbone(options, progress)?)
        }
        _ => None,
    };
    let n_samples = match &inputs {
        SampleInputs::Images(images) => images.len(),
        SampleInputs::Features(table) => table.values.len() / table.width,
    };
    let options: ExtractOptions<'_> = settings.extract_options();
    SampleFeatures::prepare(inputs, pretrained.as_ref(), options, &vec![0; n_samples], progress)
}

/// The classes of the data, then those that only runs have.
fn union_of_classes(samples: &SampleSet, runs: &[(Run, Settings)]) -> ClassMap {
    let of_runs = runs.iter().flat_map(|(run, _)| &run.model.record.classes);
    ClassMap::new(samples.classes.names().iter().chain(of_runs).map(String::as_str), ClassOrder::Appearance)
}

/// The same predictions with the classes numbered as in `classes`, which has those of the run and others.
fn renumber_classes(predictions: &Predictions, run_classes: &[String], classes: &ClassMap) -> Predictions {
    let label = |name: &String| classes.label(name).expect("the map has the classes of all runs");
    let new_labels: Vec<u32> = run_classes.iter().map(label).collect();
    let mut probabilities = vec![0.0; predictions.predicted.len() * classes.len()];
    for (row, renumbered) in predictions.rows().zip(probabilities.chunks_exact_mut(classes.len())) {
        row.iter().zip(&new_labels).for_each(|(value, &label)| renumbered[label as usize] = *value);
    }
    let predicted = predictions.predicted.iter().map(|&label| new_labels[label as usize]).collect();
    Predictions { probabilities, predicted, classes: classes.len() }
}
