//! Gradients against PyTorch (`reference/heads/make.py`), and early stopping.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::autograd::AutogradLearner;
use super::cosine_learner::CosineLearner;
use super::mlp_learner::{Dropout, MlpLearner};
use super::*;
use crate::affine::Affine;
use crate::cosine::CosineConfig;
use crate::differentiable::{Differentiable, ForwardMode};
use crate::fixtures::{assert_disjoint_groups, example_groupings};
use crate::head::{Head, HeadConfig};
use crate::linear::{LinearConfig, LinearSolver};
use crate::mlp::MlpConfig;
use crate::tensors::Tensors;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load(file: &str) -> Self {
        let path = format!("{}/../reference/{file}", env!("CARGO_MANIFEST_DIR"));
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    /// The tensors whose names start with `prefix`, with the prefix removed.
    fn tensors(&self, prefix: &str) -> Tensors {
        let rest = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))
        };
        self.0.iter().filter_map(rest).collect()
    }

    fn features(&self) -> (Vec<f32>, usize) {
        let features = &self.0["set.features"];
        (features.flatten_all().unwrap().to_vec1().unwrap(), features.dims()[1])
    }

    fn labels(&self) -> Vec<u32> {
        self.0["set.labels"].to_vec1().unwrap()
    }

    /// The loss of each step.
    fn losses(&self, name: &str) -> Vec<f64> {
        self.0[name].to_vec1().unwrap()
    }
}

const HEADS: &str = "heads/pytorch.safetensors";

fn assert_near(found: &Tensors, expected: &Tensors, tolerance: f32) {
    assert!(
        !expected.is_empty() && found.keys().eq(expected.keys()),
        "{:?} and {:?}",
        found.keys(),
        expected.keys()
    );
    for (name, expected) in expected {
        let values = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
        let (found, expected) = (values(&found[name]), values(expected));
        let largest = expected.iter().fold(0f32, |top, value| top.max(value.abs()));
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= tolerance * largest, "{name} is off by {error} where the largest is {largest}");
    }
}

const MLP: fn() -> MlpConfig = || MlpConfig { hidden: vec![16, 8], dropout: 0.0, ..MlpConfig::default() };

/// A perceptron with hand-written gradients.
fn mlp_learner(config: &MlpConfig, initial: &Tensors, dropout: Option<Dropout>) -> MlpLearner {
    MlpLearner::new(maps(config, initial), dropout)
}

fn maps(config: &MlpConfig, tensors: &Tensors) -> Vec<Affine> {
    let map = |layer: usize| Affine::load(tensors, &format!("layers.{layer}.")).unwrap();
    (0..=config.hidden.len()).map(map).collect()
}

fn tensors(maps: &[Affine]) -> Tensors {
    let layer_tensors =
        |(layer, map): (usize, &Affine)| map.tensors_with_prefix(&format!("layers.{layer}.")).unwrap();
    maps.iter().enumerate().flat_map(layer_tensors).collect()
}

const STEP: StepParams = StepParams { steps_done: 0, lr: 0.01, weight_decay: 0.1, penalty: 0.0 };

/// Gradients on all samples by candle's autograd.
fn gradients(head: &dyn Differentiable, parameters: &Tensors, samples: WeightedSamples<'_>) -> Tensors {
    let rows: Vec<usize> = (0..samples.features.len()).collect();
    let traced = AutogradLearner::new(head, parameters).unwrap();
    let (_, gradients) = traced.gradients(Batch { samples, rows: &rows }, 0).unwrap();
    let named = |((name, tensor), gradient): ((&String, &Tensor), Option<Vec<f32>>)| {
        (name.clone(), Tensor::from_vec(gradient.unwrap(), tensor.dims(), &Device::Cpu).unwrap())
    };
    parameters.iter().zip(gradients).map(named).collect()
}

/// Full batches, so that the order of the samples does not matter.
fn recipe(steps: u64, samples: usize) -> Recipe {
    Recipe {
        lr: 0.01,
        schedule: LrSchedule::Constant,
        weight_decay: 0.1,
        penalty: 0.0,
        epochs: steps,
        batch_size: samples,
        seed: 0,
        early_stopping: None,
    }
}

fn assert_losses(history: &History, expected: &[f64]) {
    for (row, loss) in history.rows.iter().zip(expected) {
        assert!((row[1] - loss).abs() < 1e-5, "{row:?}, expected {loss}");
    }
}

#[test]
fn the_gradients_of_a_perceptron_are_pytorchs() {
    let golden = Golden::load(HEADS);
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 3).unwrap();
    let class_weights = data.class_weights(ClassWeight::Balanced);
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &class_weights };
    let rows: Vec<usize> = (0..labels.len()).collect();
    let (initial, expected) = (golden.tensors("mlp.initial."), golden.tensors("mlp.gradient."));

    let mut learner = mlp_learner(&MLP(), &initial, None);
    learner.step(Batch { samples, rows: &rows }, STEP).unwrap();
    assert_near(&tensors(&learner.gradients()), &expected, 1e-5);
    assert_near(&gradients(&MLP(), &initial, samples), &expected, 1e-5);

    let logits = |tensor: Tensor| Tensors::from([("logits".to_string(), tensor)]);
    let features = Tensor::from_slice(&values, (labels.len(), width), &Device::Cpu).unwrap();
    let found = MLP().forward(&initial, &features, ForwardMode::Train { step: 0 }).unwrap();
    assert_near(&logits(found), &logits(golden.0["mlp.logits"].clone()), 1e-5);
}

#[test]
fn steps_of_adamw_lead_where_pytorchs_lead() {
    let golden = Golden::load(HEADS);
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 3).unwrap();
    let class_weights = data.class_weights(ClassWeight::Balanced);
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &class_weights };
    let initial = golden.tensors("mlp.initial.");
    for steps in [1, 20] {
        let recipe = recipe(steps, labels.len());
        let expected = golden.tensors(&format!("mlp.after-{steps}."));
        let learner = mlp_learner(&MLP(), &initial, None);
        let (found, history) = fit(learner, samples, &recipe, &FitContext::silent()).unwrap();
        assert_near(&tensors(&found), &expected, 1e-4);
        assert_losses(&history, &golden.losses("mlp.losses"));
        let config = MLP();
        let autograd = AutogradLearner::new(&config, &initial).unwrap();
        let (found, history) = fit(autograd, samples, &recipe, &FitContext::silent()).unwrap();
        assert_near(&found, &expected, 1e-4);
        assert_losses(&history, &golden.losses("mlp.losses"));
    }
}

#[test]
fn linear_with_adam_matches_the_pytorch_training_loop() {
    let golden = Golden::load(HEADS);
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 3).unwrap();
    let config = LinearConfig {
        solver: LinearSolver::Adam,
        c: 0.1.into(),
        epochs: 30,
        batch_size: labels.len() as u64,
        lr: 0.01,
        ..LinearConfig::default()
    };
    let head = config.fit(&data, &FitContext::silent()).unwrap().head;
    assert_near(&head.tensors().unwrap(), &golden.tensors("adam."), 1e-4);
}

/// Records the rows it is trained and evaluated on; its held-out loss is given for each epoch.
#[derive(Clone, Default)]
struct Recorder {
    losses: Vec<f64>,
    steps: Vec<(Vec<usize>, StepParams)>,
    evaluated: Vec<Vec<usize>>,
    epoch: usize,
}

impl Learner for Recorder {
    type Parameters = usize;

    fn step(&mut self, Batch { rows, .. }: Batch<'_>, step: StepParams) -> Result<f64, HeadError> {
        self.steps.push((rows.to_vec(), step));
        Ok(rows.iter().sum::<usize>() as f64 / rows.len() as f64)
    }

    fn evaluate(&mut self, Batch { rows, .. }: Batch<'_>) -> Result<(f64, usize), HeadError> {
        self.evaluated.push(rows.to_vec());
        Ok((self.losses[self.epoch] * rows.len() as f64, 1))
    }

    /// The number of steps taken.
    fn parameters(&self) -> Result<usize, HeadError> {
        Ok(self.steps.len())
    }
}

/// A learner that the test keeps access to.
struct SharedRecorder<'a>(&'a mut Recorder, usize);

impl Learner for SharedRecorder<'_> {
    type Parameters = usize;

    fn step(&mut self, batch: Batch<'_>, step: StepParams) -> Result<f64, HeadError> {
        self.0.epoch = self.0.steps.len() / self.1;
        self.0.step(batch, step)
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(f64, usize), HeadError> {
        self.0.evaluate(batch)
    }

    fn parameters(&self) -> Result<usize, HeadError> {
        self.0.parameters()
    }
}

/// Fits a recorder with these held-out losses.
fn record_fit(data: &TrainingSet<'_>, recipe: &Recipe, losses: &[f64]) -> (Recorder, usize, History) {
    let fitted_on = match recipe.early_stopping {
        Some(stopping) => {
            hold_out(data.labels(), data.groups(), stopping.validation, recipe.seed).train.len()
        }
        None => data.labels().len(),
    };
    let samples = WeightedSamples { data, features: data.features(), class_weights: &[1.0; 4] };
    let mut recorder = Recorder { losses: losses.to_vec(), ..Recorder::default() };
    let steps = fitted_on.div_ceil(recipe.batch_size);
    let (returned, history) =
        fit(SharedRecorder(&mut recorder, steps), samples, recipe, &FitContext::silent()).unwrap();
    (recorder, returned, history)
}

// effect: features.views x head.mlp.validation, features.views x head.cosine.validation
// effect: data.group x head.mlp.validation, data.group x head.cosine.validation
#[test]
fn early_stopping_evaluates_groups_that_are_not_trained_on() {
    for (name, labels, groups) in example_groupings() {
        let values = vec![0.0; labels.len()];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &labels, 4).unwrap();
        let data = data.with_groups(&groups).unwrap();
        for seed in 0..5 {
            let stopping = EarlyStopping { validation: 0.3, patience: 9 };
            let recipe = Recipe { batch_size: 7, seed, early_stopping: Some(stopping), ..recipe(3, 7) };
            let (Recorder { steps, evaluated, .. }, ..) = record_fit(&data, &recipe, &[3.0, 2.0, 1.0]);
            let mut held_out = evaluated.concat();
            held_out.sort_unstable();
            held_out.dedup();
            assert_eq!(
                (evaluated.concat().len(), held_out.is_empty()),
                (3 * held_out.len(), false),
                "{name}"
            );
            let parts = hold_out(&labels, Some(&groups), 0.3, seed);
            assert_eq!(held_out, parts.test, "{name}");
            for epoch in steps.chunks(parts.train.len().div_ceil(7)) {
                let mut learned: Vec<usize> = epoch.iter().flat_map(|(rows, _)| rows.clone()).collect();
                learned.sort_unstable();
                assert_eq!(learned, parts.train, "{name}");
                assert_disjoint_groups(&labels, &groups, &learned, &held_out);
            }
        }
    }
}

#[test]
fn every_epoch_visits_every_row_once_in_an_order_set_by_seed_and_epoch() {
    let values = vec![0.0; 20];
    let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &[0; 20], 1).unwrap();
    let order = |seed| {
        let recipe = Recipe { batch_size: 8, seed, ..recipe(2, 8) };
        let (Recorder { steps, evaluated, .. }, returned, history) = record_fit(&data, &recipe, &[]);
        let sizes: Vec<usize> = steps.iter().map(|(rows, _)| rows.len()).collect();
        assert_eq!((sizes, evaluated.len(), returned), (vec![8, 8, 4, 8, 8, 4], 0, 6));
        // The mean over rows, not over steps: the last step has fewer rows.
        assert_eq!(
            history,
            History { columns: vec!["epoch", "loss"], rows: vec![vec![1.0, 9.5], vec![2.0, 9.5]] }
        );
        let done: Vec<u64> = steps.iter().map(|(_, step)| step.steps_done).collect();
        assert_eq!(done, [0, 1, 2, 3, 4, 5]);
        let rows: Vec<usize> = steps.into_iter().flat_map(|(rows, _)| rows).collect();
        for epoch in rows.chunks(20) {
            let mut rows = epoch.to_vec();
            rows.sort_unstable();
            assert!(rows.into_iter().eq(0..20));
        }
        rows
    };
    let (one, other) = (order(1), order(2));
    assert!(one[..20] != one[20..] && one[..20] != other[..20]);
    assert_eq!(one, order(1));
}

/// Three epochs after the best, or after the first of equals.
#[test]
fn patience_counts_epochs_without_a_lower_loss() {
    let (values, labels) = (vec![0.0; 20], [0; 20]);
    let data = TrainingSet::new(FeatureMatrix::new(&values, 1).unwrap(), &labels, 1).unwrap();
    for (losses, epochs, best) in [
        (vec![5.0, 4.0, 4.0, 4.5, 4.0, 1.0], 5, 2),
        (vec![5.0, 4.0, 4.5, 4.5, 3.9, 4.0], 6, 5),
        (vec![1.0, 2.0, 2.0, 2.0, 0.0, 0.0], 4, 1),
        (vec![6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 6, 6),
    ] {
        let stopping = EarlyStopping { validation: 0.2, patience: 3 };
        let recipe = Recipe { batch_size: 16, early_stopping: Some(stopping), ..recipe(6, 16) };
        let (_, returned, history) = record_fit(&data, &recipe, &losses);
        // One step per epoch.
        assert_eq!((history.rows.len(), returned), (epochs, best), "{losses:?}");
        assert_eq!(history.columns, ["epoch", "loss", "validation_loss", "validation_accuracy"]);
        for (row, loss) in history.rows.iter().zip(&losses) {
            assert_eq!(row[2..], [*loss, 0.25], "one of four is right");
        }
    }
}

/// Random labels, so that the held-out loss soon rises.
fn noise() -> (Vec<f32>, Vec<u32>) {
    let mut rng = KeyedRng::new(&[5]);
    let values = (0..60 * 30).map(|_| rng.uniform() as f32).collect();
    (values, (0..60).map(|_| rng.below(3) as u32).collect())
}

/// Stops early on noise and returns the best epoch.
fn assert_stops_early<L: Learner>(
    make_learner: impl Fn(&Tensors) -> L,
    to_tensors: impl Fn(L::Parameters) -> Tensors,
) {
    let (values, labels) = noise();
    let data = TrainingSet::new(FeatureMatrix::new(&values, 30).unwrap(), &labels, 3).unwrap();
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &[1.0; 3] };
    let stopping = EarlyStopping { validation: 0.3, patience: 4 };
    let recipe = Recipe {
        weight_decay: 0.0,
        batch_size: 16,
        seed: 3,
        early_stopping: Some(stopping),
        ..recipe(500, labels.len())
    };
    let learner = make_learner(&MLP().initial_parameters(30, 3).unwrap());
    let (parameters, history) = fit(learner, samples, &recipe, &FitContext::silent()).unwrap();
    let losses: Vec<f64> = history.rows.iter().map(|row| row[2]).collect();
    let best = (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap();
    assert_eq!(losses.len(), best + 1 + 4, "{losses:?}");

    let held_out = hold_out(data.labels(), data.groups(), stopping.validation, recipe.seed).test;
    let batch = Batch { samples, rows: &held_out };
    let (loss, n_correct) = make_learner(&to_tensors(parameters)).evaluate(batch).unwrap();
    let count = held_out.len() as f64;
    assert!((loss / count - history.rows[best][2]).abs() < 1e-6);
    assert_eq!(n_correct as f64 / count, history.rows[best][3]);
}

#[test]
fn early_stopping_ends_after_patience_and_returns_the_best_epoch() {
    assert_stops_early(|initial| mlp_learner(&MLP(), initial, None), |maps| tensors(&maps));
    let config = MLP();
    assert_stops_early(|initial| AutogradLearner::new(&config, initial).unwrap(), |tensors| tensors);
}

#[test]
fn the_mlp_learner_and_autograd_agree_under_dropout() {
    let (values, labels) = noise();
    let data = TrainingSet::new(FeatureMatrix::new(&values, 30).unwrap(), &labels, 3).unwrap();
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &[1.0, 2.0, 0.5] };
    let recipe = Recipe { batch_size: 16, schedule: LrSchedule::WarmupCosine, ..recipe(5, labels.len()) };
    let config = MlpConfig { dropout: 0.4, ..MLP() };
    let initial = config.initial_parameters(30, 3).unwrap();
    let learner = mlp_learner(&config, &initial, Some(Dropout { rate: 0.4, seed: config.seed }));
    let (trained, _) = fit(learner, samples, &recipe, &FitContext::silent()).unwrap();
    let autograd = AutogradLearner::new(&config, &initial).unwrap();
    let (expected, _) = fit(autograd, samples, &recipe, &FitContext::silent()).unwrap();
    assert_near(&tensors(&trained), &expected, 1e-4);
}

fn cosine_learner(initial: &Tensors) -> CosineLearner {
    let weight = &initial["weight"];
    let values = weight.flatten_all().unwrap().to_vec1().unwrap();
    CosineLearner::new(values, initial["log_scale"].to_scalar().unwrap(), weight.dims()[1])
}

fn cosine_tensors((weight, log_scale): (Vec<f32>, f32), width: usize) -> Tensors {
    let shape = (weight.len() / width, width);
    let weight = Tensor::from_vec(weight, shape, &Device::Cpu).unwrap();
    Tensors::from([
        ("weight".into(), weight),
        ("log_scale".into(), Tensor::new(log_scale, &Device::Cpu).unwrap()),
    ])
}

const COSINE: &str = "cosine/pytorch.safetensors";

/// One of the rows is 0.
#[test]
fn logits_and_gradients_of_cosines_are_pytorchs() {
    let golden = Golden::load(COSINE);
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 4).unwrap();
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &[1.0; 4] };
    let (config, initial) = (CosineConfig::default(), golden.tensors("initial."));
    let found = gradients(&config, &initial, samples);
    assert_near(&found, &golden.tensors("gradient."), 1e-5);
    let rows: Vec<usize> = (0..labels.len()).collect();
    let mut learner = cosine_learner(&initial);
    learner.step(Batch { samples, rows: &rows }, STEP).unwrap();
    assert_near(&cosine_tensors(learner.gradients(), width), &golden.tensors("gradient."), 1e-5);
    let logits = config.load(&initial).unwrap().logits(data.features()).unwrap();
    let found = Tensor::from_slice(logits.as_slice(), (labels.len(), 4), &Device::Cpu).unwrap();
    let logits = |tensor: Tensor| Tensors::from([("logits".to_string(), tensor)]);
    assert_near(&logits(found), &logits(golden.0["logits"].clone()), 1e-5);
}

#[test]
fn cosines_with_a_warmup_cosine_schedule_match_pytorch_and_transformers() {
    let golden = Golden::load(COSINE);
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 4).unwrap();
    let samples = WeightedSamples { data: &data, features: data.features(), class_weights: &[1.0; 4] };
    let rates: Vec<f64> = golden.0["rates"].to_vec1().unwrap();
    let steps = rates.len() as u64;
    for (done, rate) in (0..).zip(rates) {
        assert!((LrSchedule::WarmupCosine.multiplier(done, steps) - rate).abs() < 1e-12, "step {done}");
    }
    let recipe = Recipe { lr: 0.05, schedule: LrSchedule::WarmupCosine, ..recipe(steps, labels.len()) };
    let config = CosineConfig::default();
    let (initial, expected) = (golden.tensors("initial."), golden.tensors("after."));
    let autograd = AutogradLearner::new(&config, &initial).unwrap();
    let (found, history) = fit(autograd, samples, &recipe, &FitContext::silent()).unwrap();
    assert_near(&found, &expected, 1e-4);
    assert_losses(&history, &golden.losses("losses"));
    let (found, history) = fit(cosine_learner(&initial), samples, &recipe, &FitContext::silent()).unwrap();
    assert_near(&cosine_tensors(found, width), &expected, 1e-4);
    assert_losses(&history, &golden.losses("losses"));
}

#[test]
fn small_data_sets_get_smaller_batches() {
    let sizes = [1, 16, 17, 320, 10_000].map(|samples| effective_batch_size(128, samples));
    assert_eq!(sizes, [1, 1, 2, 20, 128]);
}

#[test]
fn a_learning_rate_far_too_high_is_reported_as_divergence() {
    let (values, labels) = noise();
    let values: Vec<f32> = values.iter().map(|v| v * 1e30).collect();
    let data = TrainingSet::new(FeatureMatrix::new(&values, 30).unwrap(), &labels, 3).unwrap();
    let config = MlpConfig { lr: 1e20, ..MLP() };
    let error = config.fit(&data, &FitContext::silent()).unwrap_err();
    assert!(matches!(&error, HeadError::Diverged(message) if message.contains("lower `lr`")), "{error}");
}
