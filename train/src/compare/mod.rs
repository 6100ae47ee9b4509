//! Compares heads by cross-validation on the same features.
//!
//! [`candidates()`] lists the configurations. [`compare`] fits each on all folds of the training set but one
//! and predicts that fold, for each fold in turn, so that every sample is predicted by a head that was not
//! fitted on it. The test set is not used. Folds are those of scikit-learn's `StratifiedKFold(shuffle=True)`
//! over the training set in the order of the data, or of `StratifiedGroupKFold(shuffle=True)` if the data
//! has groups. Candidates are fitted on the same views as in `train`, including augmented ones, and scored on
//! unaugmented views.
//!
//! # Metrics
//!
//! Log-loss and calibration error are those of `softmax(logits / T)`, with one temperature `T` per fold that
//! is fitted on the logits of the *other* folds: the quality after calibration, without using a sample for
//! its own calibration. A candidate ties with the best if the paired bootstrap interval of the difference
//! contains 0 ([`CandidateScores::tied`]).
//!
//! # Order, memory, threads
//!
//! Let `M` be the size of the features of the training set in all views. They are in memory once (`M`), and
//! the rows of the current fold are copied once for all candidates (at most `M`). The additional memory of
//! fits ([`HeadConfig::memory_bytes`](headstock_heads::HeadConfig::memory_bytes)) is limited to `M / 2` and
//! four `f64` matrices `[F, F]`: a candidate gets the same share of the threads as of that memory, so that
//! few large or many small fits run in parallel. Out-of-fold logits are limited to `M / 2` as well: if they
//! would need more, the candidates are processed in several passes over the folds. So the peak is about `3
//! M`, unless a single fit needs more.
//!
//! With a time budget every round of the grids is a pass: the first points of all heads are finished before
//! the second points begin. Candidates that have begun are finished; those that have not begun in time are
//! listed as left out.
//!
//! All results except the seconds are independent of the number of threads and the order.

mod bootstrap;
mod candidates;
mod file;
mod fold_data;
pub(crate) mod log_capture;
mod parallel;
mod results;
mod runs;
mod trial;

use std::time::{Duration, Instant};

use headstock_heads::HeadShape;
use headstock_inference::Progress;
use headstock_split::SplitIndices;
use rayon::prelude::*;

pub use candidates::{Candidate, SharedKey, candidates, candidates_with_keys};
pub use file::ComparisonFile;
pub use results::{
    CandidateResult, CandidateScores, CandidateStatus, ChosenParameter, Comparison, MetricEstimate,
};
pub use runs::{ComparedRun, LeftOutSamples, RunComparison, RunMetric, compare_runs};

pub use crate::bootstrap::Interval;
use crate::bootstrap::{BootstrapUnits, COVERAGE, N_RESAMPLES};
use crate::error::{Remedy, TrainError};
use crate::fit::cross_validation_folds;
use crate::metrics::{Accuracy, Metric};
use crate::prepared_data::PreparedData;
use bootstrap::compare_to_best;
use fold_data::TrainingFeatures;
use parallel::run_parallel;
use trial::{CvScores, TrialOutcome};

/// The version of the JSON of [`Comparison`].
const VERSION: u32 = 1;

/// How candidates are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompareOptions {
    /// The number of folds, at least 2.
    pub folds: usize,
    /// scikit-learn's `random_state` of the folds; also the seed of the resamples.
    pub seed: u32,
    /// The metric that candidates are ordered by.
    pub metric: &'static dyn Metric,
    /// The time after which no candidate begins; `None` for no limit.
    pub budget: Option<Duration>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { folds: 5, seed: 0, metric: &Accuracy, budget: None }
    }
}

/// Compares `candidates`, which are heads with hyperparameters, by cross-validation on the training set, and
/// orders them from the best to the worst.
///
/// ```
/// use std::path::Path;
/// use headstock_heads::Registry;
/// use headstock_train::PreparedData;
/// use headstock_train::compare::{CompareOptions, candidates, compare};
/// use headstock_train::config::{Config, Registries};
/// use headstock_train::metrics::Accuracy;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/feature_file");
/// # let folder = Path::new(folder);
/// let heads = Registry::builtin();
/// let config = "version = 1\n[data]\nfeatures = \"separable.npz\"\n";
/// let settings = Config::parse(config, "example", folder)?.resolve(&Registries::builtin())?;
/// let prepared = PreparedData::prepare(&settings, &())?;
/// let named = ["linear".to_owned(), "svm".to_owned()];
/// let candidates = candidates(&settings, &heads, Some(&named))?;
/// let comparison = compare(&prepared, &candidates, &CompareOptions::default(), &())?;
/// let scores = comparison.best().and_then(|best| best.scores());
/// assert_eq!(scores.map(|scores| scores.metrics[&Accuracy].value), Some(1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TrainError::Data`] for samples that cannot be split into the folds, [`TrainError::Usage`] if no
/// candidate began within the budget. A candidate that fails is not an error: its result has the reason.
pub fn compare(
    prepared: &PreparedData,
    candidates: &[Candidate],
    options: &CompareOptions,
    progress: &dyn Progress,
) -> Result<Comparison, TrainError> {
    let started = Instant::now();
    let has_time = || options.budget.is_none_or(|budget| started.elapsed() < budget);
    compare_while(prepared, candidates, options, &has_time, progress)
}

/// Cross-validates all candidates (heads with hyperparameters) on the training set, and returns them ranked,
/// with bootstrap confidence intervals of their differences to the best. This does the work of [`compare`]. A
/// candidate begins only while `has_time` is true; tests pass a function that does not depend on the clock.
fn compare_while(
    prepared: &PreparedData,
    candidates: &[Candidate],
    options: &CompareOptions,
    has_time: &(dyn Fn() -> bool + Sync),
    progress: &dyn Progress,
) -> Result<Comparison, TrainError> {
    let started = Instant::now();
    let groups = prepared.samples.groups(&prepared.train);
    let labels = prepared.samples.labels(&prepared.train);
    let splits = cross_validation_folds(&labels, groups.as_deref(), options.folds, options.seed)?;
    let features = TrainingFeatures::read(prepared)?;
    progress.begin("comparing heads", (candidates.len() * options.folds) as u64, "fits");
    let rounds = if options.budget.is_some() { Rounds::Separate } else { Rounds::Together };
    let scored = score_candidates(&features, candidates, &splits, rounds, has_time, progress);
    progress.end();
    let scored = scored?;
    if scored.iter().all(|scored| matches!(scored, Err(CandidateStatus::LeftOut))) {
        let problem = "the time budget ended before the first head was fitted: give more seconds";
        return Err(TrainError::Usage(problem.into()).with_remedy(Remedy::LargerBudget));
    }

    // Bootstrap resamples draw these units: samples, or whole groups of samples.
    let units = BootstrapUnits::new(features.labels.len(), groups.as_deref(), options.seed);
    progress.begin("comparing metrics", N_RESAMPLES as u64, "resamples");
    let draw = |resample| {
        progress.step(1);
        units.resample_counts(resample)
    };
    let results = rank_candidates(candidates, scored, options.metric, draw);
    progress.end();
    Ok(Comparison {
        comparison: VERSION,
        metric: options.metric,
        folds: options.folds,
        seed: options.seed,
        samples: features.labels.len(),
        groups: groups.is_some().then_some(units.n_units),
        classes: features.classes,
        features: features.width,
        views: prepared.n_augmented,
        resamples: N_RESAMPLES,
        coverage: COVERAGE,
        passed_over: prepared.passed_over(),
        seconds: started.elapsed().as_secs_f64(),
        candidates: results,
    })
}

/// Whether candidates of different rounds can be in the same pass over the folds. Round `i` has the `i`-th
/// point of each head's hyperparameter grid.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounds {
    Together,
    Separate,
}

/// Fits every candidate in every cross-validation fold and scores its predictions of the fold's test samples.
/// Returns one result per candidate. To limit memory, the candidates are processed in passes; those of a pass
/// go through the folds together and share a fold's features in memory. `rounds` says whether a pass may mix
/// rounds; round `i` has the `i`-th point of each head's grid. `has_time` is false after the time budget.
fn score_candidates(
    features: &TrainingFeatures<'_>,
    candidates: &[Candidate],
    splits: &[SplitIndices],
    rounds: Rounds,
    has_time: &(dyn Fn() -> bool + Sync),
    progress: &dyn Progress,
) -> Result<Vec<TrialOutcome<CvScores>>, TrainError> {
    let (samples, width) = (features.labels.len(), features.width);
    let features_bytes = features.n_rows() * width * size_of::<f32>();
    let logits_bytes = samples * features.classes * size_of::<f32>();
    // The logits of all candidates of a pass get half the memory of the features. Fits get the same, and in
    // addition four `f64` matrices `[width, width]`: see the module docs.
    let max_candidates = (features_bytes / 2 / logits_bytes).max(1);
    let memory_budget = features_bytes / 2 + 4 * width * width * size_of::<f64>();
    let threads = rayon::current_num_threads();

    let mut scored = Vec::with_capacity(candidates.len());
    for pass in plan_passes(candidates, rounds, max_candidates) {
        let mut trials: Vec<TrialOutcome<Vec<trial::FoldTrial>>> =
            pass.iter().map(|_| Ok(Vec::new())).collect();
        for (number, split) in splits.iter().enumerate() {
            let fold = features.copy_fold(split);
            let (train_set, test_features) = (fold.training_set()?, fold.test_features()?);
            let shape =
                HeadShape { samples: train_set.features().len(), features: width, classes: features.classes };
            // A job fits one candidate of the pass, here its index. The slowest fits of the previous fold
            // come first, so that threads are idle for a shorter time at the end.
            let mut jobs: Vec<usize> = (0..pass.len()).collect();
            let last_fit_seconds = |job: &usize| {
                let last = trials[*job].as_ref().ok().and_then(|trials| trials.last());
                last.map_or(0.0, |trial| trial.fit_seconds)
            };
            jobs.sort_by(|a, b| last_fit_seconds(b).total_cmp(&last_fit_seconds(a)));
            // The same share of the threads as of the memory, but at least an equal share for each candidate.
            let threads_needed = |&job: &usize| {
                let memory = u128::from(pass[job].head.memory_bytes(shape));
                let share = (memory * threads as u128).div_ceil(memory_budget as u128);
                usize::try_from(share).unwrap_or(threads).max(threads / pass.len())
            };
            let outcomes = run_parallel(&jobs, threads, threads_needed, |&job| {
                // The budget counts only in the first fold: a candidate that has begun is finished.
                let outcome = match &trials[job] {
                    Ok(_) if number > 0 || has_time() => {
                        trial::fit_fold(pass[job].head.as_ref(), &train_set, test_features)
                    }
                    _ => Err(CandidateStatus::LeftOut),
                };
                progress.step(1);
                outcome
            });
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                trial::add_fold(&mut trials[job], outcome);
            }
        }
        let score = |trials: Vec<trial::FoldTrial>| CvScores::from_folds(&trials, splits, &features.labels);
        scored.par_extend(trials.into_par_iter().map(|trials| trials.map(score)));
    }
    Ok(scored)
}

/// Groups the candidates into passes over the folds, of at most `max_candidates` each, so that their
/// out-of-fold logits fit in memory. With separate rounds, a pass has candidates of one round only, so that a
/// round is finished before the next one begins.
fn plan_passes(candidates: &[Candidate], rounds: Rounds, max_candidates: usize) -> Vec<&[Candidate]> {
    candidates
        .chunk_by(|a, b| rounds == Rounds::Together || a.round == b.round)
        .flat_map(|round| round.chunks(max_candidates))
        .collect()
}

/// The results of all candidates, from the best to the worst in `metric`, then the failed ones, then those
/// that the time budget left out. `scored` has the outcome of each candidate. Each is compared with the best
/// one on bootstrap resamples: `draw(i)` returns how often each sample occurs in resample `i`.
fn rank_candidates(
    candidates: &[Candidate],
    scored: Vec<TrialOutcome<CvScores>>,
    metric: &'static dyn Metric,
    draw: impl Fn(usize) -> Vec<u32> + Sync,
) -> Vec<CandidateResult> {
    let (mut done, mut unscored) = (Vec::new(), Vec::new());
    for (candidate, scored) in candidates.iter().zip(scored) {
        match scored {
            Ok(scored) => done.push((candidate, scored)),
            Err(status) => unscored.push((candidate, status)),
        }
    }
    // The sorts are stable: among equal candidates the earlier round, then the earlier name comes first.
    done.sort_by(|(_, a), (_, b)| a.compare_by(b, metric));
    unscored.sort_by_key(|(_, status)| *status == CandidateStatus::LeftOut);

    let (metrics, values): (Vec<_>, Vec<_>) =
        done.iter().map(|(_, scored)| (&scored.metrics, &scored.values)).unzip();
    // Candidate 0 is the best one now.
    let estimates = compare_to_best(&metrics, &values, 0, N_RESAMPLES, draw);
    let results = done.into_iter().zip(estimates).map(|((candidate, scored), estimates)| {
        let scores = scored.into_candidate_scores(estimates, metric);
        candidate.to_result(CandidateStatus::Compared(Box::new(scores)))
    });
    results.chain(unscored.into_iter().map(|(candidate, status)| candidate.to_result(status))).collect()
}

#[cfg(test)]
mod fold_tests;
#[cfg(test)]
mod ranking_tests;
#[cfg(test)]
mod tests;
