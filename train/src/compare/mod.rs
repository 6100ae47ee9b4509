//! Heads against each other, cross-validated on the same features.
//!
//! [`candidates`] lists the configurations; [`compare`] fits each on all folds but one of the training part and lets it
//! predict that one, for each fold in turn, so that every sample is predicted by a head that was not fitted on it. The test
//! part is not looked at. Folds are those of scikit-learn's `StratifiedKFold(shuffle=True)` over the training part in the
//! order of the data, or of `StratifiedGroupKFold(shuffle=True)` where the data names groups. What a candidate is fitted on
//! is what `train` would give it: with augmented views these too, of the photos fitted on; judged are plain views.
//!
//! # Figures
//!
//! Log-loss and calibration error are those of `softmax(logits / T)`, with one temperature `T` a fold, fitted on the logits
//! of the *other* folds: as good as a head's probabilities are once they are calibrated, and no sample has a say in its own.
//! A candidate is as good as the best, as far as one can tell, where the paired bootstrap interval of the difference holds 0
//! ([`Judged::tied`]).
//!
//! # Order, memory, threads
//!
//! With `M` the features of the training part in all views: they are held once (`M`), and the rows of the fold in hand are
//! copied once for all candidates (at most `M`); folds come in turn. What fits take beside the features
//! ([`HeadConfig::memory`](headstock_heads::HeadConfig::memory)) is limited to `M / 2` and four matrices `[F, F]` in `f64`: a
//! candidate gets as large a share of the threads as it takes of that memory, so that few large ones, or many small ones, run
//! side by side. Out-of-fold logits are limited to `M / 2` as well: where they would take more, the candidates come in several
//! passes over the folds. So the peak is about `3 M`, unless one fit alone needs more.
//!
//! With a budget every round of the grids is a pass of its own: the first points of all heads are done before the second
//! ones begin. What has begun is finished; what has not begun in time is listed as left out.
//!
//! Neither the number of threads nor the order changes a figure but the seconds.

mod bootstrap;
mod candidates;
mod file;
pub(crate) mod folds;
pub(crate) mod heard;
mod outcome;
mod schedule;
mod trial;

use std::time::{Duration, Instant};

use headstock_heads::HeadShape;
use headstock_loader::{SplitIndices, stratified_group_k_fold, stratified_k_fold};
use rayon::prelude::*;

pub use candidates::{Candidate, candidates};
pub use file::ComparisonFile;
pub use outcome::{Chosen, Comparison, Criterion, Entry, Figure, Interval, Judged, State};

use crate::error::TrainError;
use crate::prepared::Prepared;
use crate::progress::Progress;
use bootstrap::{COVERAGE, RESAMPLES, Units, compared};
use folds::Held;
use schedule::side_by_side;
use trial::{Attempt, Scored};

/// The version of [`Comparison`] as JSON.
const VERSION: u32 = 1;

/// How candidates are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// How many folds, at least 2.
    pub folds: usize,
    /// scikit-learn's `random_state` of the folds; resamples are keyed by it too.
    pub seed: u32,
    /// What candidates are ordered by.
    pub by: Criterion,
    /// No candidate begins after so long.
    pub budget: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { folds: 5, seed: 0, by: Criterion::Accuracy, budget: None }
    }
}

/// Compares `candidates` on the training part.
///
/// ```
/// use std::path::Path;
/// use headstock_heads::Registry;
/// use headstock_train::Prepared;
/// use headstock_train::compare::{Plan, candidates, compare};
/// use headstock_train::config::Config;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/feature_file");
/// # let folder = Path::new(folder);
/// let heads = Registry::builtin();
/// let config = "version = 1\n[data]\nfeatures = \"separable.npz\"\n";
/// let settings = Config::parse(config, "example", folder)?.resolve(&heads)?;
/// let prepared = Prepared::new(&settings, &())?;
/// let named = ["linear".to_owned(), "svm".to_owned()];
/// let candidates = candidates(&settings, &heads, Some(&named))?;
/// let comparison = compare(&prepared, &candidates, &Plan::default(), &())?;
/// assert_eq!(comparison.best().and_then(|best| best.judged()).map(|best| best.accuracy.value), Some(1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TrainError::Data`] for samples that cannot be folded so, [`TrainError::Usage`] for a budget in which nothing began.
/// A candidate that fails is no error: its entry says why.
pub fn compare(
    prepared: &Prepared,
    candidates: &[Candidate],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Comparison, TrainError> {
    let started = Instant::now();
    let in_time = || plan.budget.is_none_or(|budget| started.elapsed() < budget);
    compare_while(prepared, candidates, plan, &in_time, progress)
}

/// As [`compare`], with what says whether a candidate may still begin.
fn compare_while(
    prepared: &Prepared,
    candidates: &[Candidate],
    plan: &Plan,
    in_time: &(dyn Fn() -> bool + Sync),
    progress: &dyn Progress,
) -> Result<Comparison, TrainError> {
    let started = Instant::now();
    let groups = prepared.samples.groups(&prepared.train);
    let splits = splits(prepared, groups.as_deref(), plan)?;
    let held = Held::read(prepared)?;
    progress.begin("comparing heads", (candidates.len() * plan.folds) as u64, "fits");
    let scored = score(&held, candidates, &splits, plan.budget.is_some(), in_time, progress);
    progress.end();
    let scored = scored?;
    if scored.iter().all(|scored| matches!(scored, Attempt::LeftOut)) {
        return Err(TrainError::Usage(
            "the budget was spent before the first candidate could begin: give more seconds with --budget"
                .into(),
        ));
    }

    let units = Units::new(held.labels().len(), groups.as_deref(), plan.seed);
    progress.begin("comparing figures", RESAMPLES as u64, "resamples");
    let draw = |resample| {
        progress.step(1);
        units.draw(resample)
    };
    let entries = judge(candidates, scored, held.classes(), plan.by, draw);
    progress.end();
    Ok(Comparison {
        comparison: VERSION,
        by: plan.by,
        folds: plan.folds,
        seed: plan.seed,
        samples: held.labels().len(),
        groups: groups.is_some().then_some(units.count()),
        classes: held.classes(),
        features: held.width(),
        views: prepared.views,
        resamples: RESAMPLES,
        coverage: COVERAGE,
        seconds: started.elapsed().as_secs_f64(),
        candidates: entries,
    })
}

fn splits(prepared: &Prepared, groups: Option<&[u32]>, plan: &Plan) -> Result<Vec<SplitIndices>, TrainError> {
    let labels = prepared.samples.labels(&prepared.train);
    let splits = match groups {
        Some(groups) => stratified_group_k_fold(&labels, groups, plan.folds, plan.seed),
        None => stratified_k_fold(&labels, plan.folds, plan.seed),
    };
    let splits = splits.map_err(|error| TrainError::Data(format!("--folds {}: {error}", plan.folds)))?;
    if splits.iter().any(|split| split.test.is_empty() || split.train.is_empty()) {
        let problem = "the groups do not fill them all; ask for fewer";
        return Err(TrainError::Data(format!("--folds {}: {problem}", plan.folds)));
    }
    Ok(splits)
}

/// Fits every candidate in every fold, and scores what it predicts.
fn score(
    held: &Held<'_>,
    candidates: &[Candidate],
    splits: &[SplitIndices],
    rounds_apart: bool,
    in_time: &(dyn Fn() -> bool + Sync),
    progress: &dyn Progress,
) -> Result<Vec<Attempt<Scored>>, TrainError> {
    let (samples, width) = (held.labels().len(), held.width());
    let matrix = held.rows() * width * size_of::<f32>();
    let logits = samples * held.classes() * size_of::<f32>();
    let at_once = (matrix / 2 / logits).max(1);
    let allowance = matrix / 2 + 4 * width * width * size_of::<f64>();
    let threads = rayon::current_num_threads();

    let mut scored = Vec::with_capacity(candidates.len());
    for pass in passes(candidates, rounds_apart, at_once) {
        let mut trials: Vec<Attempt<Vec<trial::Trial>>> =
            pass.iter().map(|_| Attempt::Done(Vec::new())).collect();
        for (number, split) in splits.iter().enumerate() {
            let fold = held.fold(split);
            let (training, tested) = (fold.training_set()?, fold.tested()?);
            let shape =
                HeadShape { samples: training.features().len(), features: width, classes: held.classes() };
            // The longest first, as the fold before had them: threads are idle for a shorter time at the end.
            let mut jobs: Vec<usize> = (0..pass.len()).collect();
            let seconds = |job: &usize| match &trials[*job] {
                Attempt::Done(trials) => trials.last().map_or(0.0, |trial| trial.fit_seconds),
                _ => 0.0,
            };
            jobs.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
            let needs = |&job: &usize| {
                let memory = u128::from(pass[job].head.memory_bytes(shape));
                let share = (memory * threads as u128).div_ceil(allowance as u128);
                usize::try_from(share).unwrap_or(threads).max(threads / pass.len())
            };
            let done = side_by_side(&jobs, threads, needs, |&job| {
                let attempt = match &trials[job] {
                    Attempt::Done(_) if number == 0 && !in_time() => Attempt::LeftOut,
                    Attempt::Done(_) => trial::run(pass[job].head.as_ref(), &training, tested),
                    Attempt::Failed(_) | Attempt::LeftOut => Attempt::LeftOut,
                };
                progress.step(1);
                attempt
            });
            for (job, attempt) in jobs.into_iter().zip(done) {
                trials[job].add(attempt);
            }
        }
        let of_pass: Vec<Attempt<Scored>> = trials
            .into_par_iter()
            .map(|trials| trials.map(|trials| Scored::new(&trials, splits, held.labels())))
            .collect();
        scored.extend(of_pass);
    }
    Ok(scored)
}

/// Candidates that go over the folds together: at most `at_once`, and of one round where rounds are kept apart.
fn passes(candidates: &[Candidate], rounds_apart: bool, at_once: usize) -> Vec<&[Candidate]> {
    candidates
        .chunk_by(|a, b| !rounds_apart || a.round == b.round)
        .flat_map(|round| round.chunks(at_once))
        .collect()
}

/// Orders the candidates and compares each with the best, on resamples that `draw` gives.
fn judge(
    candidates: &[Candidate],
    scored: Vec<Attempt<Scored>>,
    classes: usize,
    by: Criterion,
    draw: impl Fn(usize) -> Vec<u32> + Sync,
) -> Vec<Entry> {
    let (mut done, mut others) = (Vec::new(), Vec::new());
    for (candidate, scored) in candidates.iter().zip(scored) {
        match scored {
            Attempt::Done(scored) => done.push((candidate, scored)),
            Attempt::Failed(error) => others.push((0, candidate, State::Failed { error })),
            Attempt::LeftOut => others.push((1, candidate, State::LeftOut)),
        }
    }
    // Stable: where figures are the same, the earlier round and then the earlier name is before.
    done.sort_by(|(_, a), (_, b)| a.order(b, by, classes));
    others.sort_by_key(|(rank, ..)| *rank);

    let scores: Vec<_> = done.iter().map(|(_, scored)| scored.scores.as_slice()).collect();
    let figures = if scores.is_empty() { Vec::new() } else { compared(&scores, classes, 0, RESAMPLES, draw) };
    let judged = done.into_iter().zip(figures).map(|((candidate, scored), figures)| {
        candidate.entry(State::Compared(Box::new(scored.judged(&figures, by))))
    });
    judged.chain(others.into_iter().map(|(_, candidate, state)| candidate.entry(state))).collect()
}

#[cfg(test)]
mod leaks;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;
