//! The training loop against PyTorch (`reference/tuning/loop.py`), from config text on, so that an ignored
//! key shows.

mod epochs;
mod tiny;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use headstock_heads::linear::LinearConfig;
use headstock_heads::{Differentiable, ForwardMode, HeadError, Tensors};
use serde::Deserialize;
use tempfile::TempDir;

use self::tiny::{NamedValues, RequestedBatches, TinyBackbone, floats};
use super::*;
use crate::config::{Config, Registries, Settings};
use crate::finetune::golden::assert_agree;
use crate::finetune::tests::in_memory;
use crate::finetune::{checkpoint_file, class_weights, find_lr};
use crate::run::RunDir;

const N_CLASSES: usize = 4;
const ACTIVATION_SHAPE: [usize; 3] = [4, 5, 3];

#[derive(Deserialize)]
struct LoopReference {
    labels: Vec<u32>,
    fit: Vec<usize>,
    held_out: Vec<usize>,
    start: NamedValues,
    cases: Vec<ReferenceCase>,
    rates: Vec<RangeTestCase>,
}

#[derive(Deserialize)]
struct ReferenceCase {
    name: String,
    config: String,
    best: Option<u64>,
    values: NamedValues,
    history: Vec<Vec<f64>>,
}

/// A learning-rate range test.
#[derive(Deserialize)]
struct RangeTestCase {
    config: String,
    factors: Vec<f64>,
    losses: Vec<f64>,
}

fn loop_reference() -> LoopReference {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/tuning/loop.json");
    let mut reference: LoopReference = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    reference.cases.iter_mut().for_each(|case| case.config = with_present_keys(&case.config));
    reference.rates.iter_mut().for_each(|case| case.config = with_present_keys(&case.config));
    reference
}

/// Renames keys that had other names when `loop.json` was written.
fn with_present_keys(config: &str) -> String {
    const RENAMED: [(&str, &str); 7] = [
        ("start =", "head_init ="),
        ("accumulate =", "grad_accum_steps ="),
        ("warmup =", "warmup_epochs ="),
        ("clip_norm =", "clip_grad_norm ="),
        ("ema =", "ema_decay ="),
        ("unfreeze =", "unfreeze_epochs ="),
        ("views = \"fresh\"", "augment = \"per-epoch\""),
    ];
    let rename =
        |config: String, (old, new): (&str, &str)| config.replace(&format!("\n{old}"), &format!("\n{new}"));
    RENAMED.into_iter().fold(config.to_owned(), rename)
}

fn settings(config: &str) -> Settings {
    let config_text =
        format!("version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n{config}");
    Config::parse(&config_text, "a case", Path::new("/")).unwrap().resolve(&Registries::builtin()).unwrap()
}

/// Activations by the formula of `reference/tuning/loop.py`; records the requested batches.
struct SyntheticActivations<'a> {
    labels: &'a [u32],
    requested: RequestedBatches,
    /// Number of batches after which it fails.
    max_batches: usize,
}

impl ActivationBatches for SyntheticActivations<'_> {
    fn shape(&self) -> [usize; 3] {
        ACTIVATION_SHAPE
    }

    fn for_each_batch(
        &self,
        batches: &[Vec<BatchItem>],
        on_batch: &mut OnBatch<'_>,
    ) -> Result<(), TrainError> {
        for (index, batch) in batches.iter().enumerate() {
            if self.requested.lock().unwrap().len() == self.max_batches {
                return Err(TrainError::Data("stopped".into()));
            }
            self.requested.lock().unwrap().push(batch.clone());
            let value = |item: &BatchItem, i: usize| {
                let view_number = match item.view {
                    ViewId::Numbered(view) => view as usize,
                    ViewId::PerEpoch { epoch } => 10 + epoch as usize,
                };
                let label = self.labels[item.image] as usize;
                let sum = item.image * 37 + view_number * 101 + i * i * 13 + i * 7 + label * i * 5;
                ((sum % 61) as f32 - 30.0) / 32.0
            };
            let item_len = ACTIVATION_SHAPE.iter().product();
            let values: Vec<f32> =
                batch.iter().flat_map(|item| (0..item_len).map(|i| value(item, i))).collect();
            if on_batch(index, &values)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The result of a training.
struct TrainedState {
    values: BTreeMap<String, Vec<f32>>,
    history: History,
    /// The requested batches.
    requested: Vec<Vec<BatchItem>>,
    /// The step numbers passed to the head in training.
    steps: Vec<u64>,
}

/// A linear head that records the training steps.
#[derive(Default)]
struct StepRecordingHead {
    steps: Mutex<Vec<u64>>,
}

impl Differentiable for StepRecordingHead {
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        LinearConfig::default().initial_parameters(width, classes)
    }

    fn forward(
        &self,
        parameters: &Tensors,
        features: &Tensor,
        mode: ForwardMode,
    ) -> Result<Tensor, HeadError> {
        if let ForwardMode::Train { step } = mode {
            self.steps.lock().unwrap().push(step);
        }
        LinearConfig::default().forward(parameters, features, mode)
    }
}

/// The settings of a config, and a run for checkpoints.
struct TrainerFixture {
    settings: Settings,
    run: RunInProgress,
    _folder: TempDir,
}

impl TrainerFixture {
    fn new(config: &str) -> Self {
        let (settings, folder) = (settings(config), in_memory());
        let run_dir = RunDir::Named(folder.path().join("run"));
        let reservation = run_dir.reserve(&settings.source).unwrap();
        let run = RunInProgress::begin(reservation, "linear", "").unwrap();
        Self { settings, run, _folder: folder }
    }

    /// Calls `act` with a new trainer, which fails after `max_batches` batches; returns the requested
    /// batches.
    fn with_trainer(
        &self,
        reference: &LoopReference,
        fingerprint: &str,
        max_batches: usize,
        act: impl FnOnce(Result<Trainer<'_>, TrainError>, &StepRecordingHead),
    ) -> Vec<Vec<BatchItem>> {
        let options = &self.settings.tune;
        let held_out = if options.validation > 0.0 { reference.held_out.clone() } else { Vec::new() };
        let split = SplitIndices { train: reference.fit.clone(), test: held_out };
        let initial_head: Tensors = [("weight", vec![N_CLASSES, 3]), ("bias", vec![N_CLASSES])]
            .map(|(name, shape)| {
                let values = floats(&reference.start[&format!("head.{name}")]);
                (name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            })
            .into();
        let head = StepRecordingHead::default();
        let backbone =
            TinyBackbone::new(&reference.start, options.first_stage().unwrap(), options.batch_norm);
        let model = FinetuneModel::new(backbone, &head, &initial_head).unwrap();
        let activations =
            SyntheticActivations { labels: &reference.labels, requested: Mutex::default(), max_batches };
        let config = TrainerConfig {
            options,
            split: &split,
            labels: &reference.labels,
            class_weights: class_weights(options, &split, &reference.labels, N_CLASSES),
            n_augmented: self.settings.features.views,
            activations: &activations,
            run: Some(&self.run),
            fingerprint: fingerprint.into(),
            chosen_params: vec![("C".into(), 0.5)],
        };
        act(Trainer::new(config, model), &head);
        activations.requested.into_inner().unwrap()
    }

    /// Trains to the end, or until it fails after `max_batches` batches.
    fn run(&self, reference: &LoopReference, max_batches: usize) -> Result<TrainedState, TrainError> {
        let mut trained = None;
        let requested = self.with_trainer(reference, "here", max_batches, |trainer, head| {
            let trainer = trainer.unwrap();
            let trainer =
                if max_batches < usize::MAX { trainer.with_checkpoint_every_step() } else { trainer };
            let outcome = trainer.run(&());
            trained = Some(outcome.map(|FinetuneResult { mut model, history, chosen_params }| {
                assert_eq!(chosen_params, [("C".to_owned(), 0.5)]);
                let values =
                    model.named_values_mut().into_iter().map(|(name, values)| (name, values.to_vec()));
                let steps = head.steps.lock().unwrap().clone();
                TrainedState { values: values.collect(), history, requested: Vec::new(), steps }
            }));
        });
        Ok(TrainedState { requested, ..trained.unwrap()? })
    }
}

fn run(reference: &LoopReference, config: &str) -> TrainedState {
    TrainerFixture::new(config).run(reference, usize::MAX).unwrap()
}

/// Calls `act` with a new trainer of this config; returns its result and the requested batches.
fn with_new_trainer<R>(
    reference: &LoopReference,
    config: &str,
    act: impl FnOnce(Trainer<'_>) -> R,
) -> (R, Vec<Vec<BatchItem>>) {
    let mut result = None;
    let requested = TrainerFixture::new(config)
        .with_trainer(reference, "here", usize::MAX, |trainer, _| result = Some(act(trainer.unwrap())));
    (result.unwrap(), requested)
}

// effect: tune.from, tune.head_init, tune.epochs, tune.batch_size, tune.grad_accum_steps, tune.optimizer
// effect: tune.lr, tune.backbone_lr
// effect: tune.layer_decay, tune.momentum, tune.nesterov, tune.weight_decay, tune.schedule
// effect: tune.warmup_epochs, tune.step_epochs
// effect: tune.step_gamma, tune.label_smoothing, tune.class_weight, tune.mixup, tune.cutmix
// effect: tune.clip_grad_norm, tune.ema_decay
// effect: tune.batch_norm, tune.unfreeze_epochs, tune.augment, tune.validation, tune.patience, tune.seed
// effect: features.views x tune.augment
// effect: tune.clip_grad_norm x tune.grad_accum_steps, tune.grad_accum_steps x tune.schedule
// effect: tune.batch_norm x tune.ema_decay
// effect: tune.ema_decay x tune.validation, tune.batch_norm x tune.unfreeze_epochs, tune.cutmix x tune.mixup
#[test]
fn every_training_equals_pytorchs() {
    let reference = loop_reference();
    assert_eq!(reference.cases.len(), 48);
    for ReferenceCase { name, config, values, history, .. } in &reference.cases {
        let trained = run(&reference, config);
        assert!(trained.values.keys().eq(values.keys()), "{name}");
        for (value_name, expected) in values {
            let context = format!("{name}: {value_name}");
            assert_agree(&trained.values[value_name], &floats(expected), 2e-5, &context);
        }
        let columns = ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"];
        assert_eq!(trained.history.columns, columns[..history[0].len()], "{name}");
        assert_eq!(trained.history.rows.len(), history.len(), "{name}");
        for (ours, expected) in trained.history.rows.iter().zip(history) {
            for ((ours, expected), column) in ours.iter().zip(expected).zip(columns) {
                assert!(
                    (ours - expected).abs() <= 1e-5 * expected.abs(),
                    "{name}: {column} is {ours}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn the_reference_cases_cover_what_they_should() {
    let reference = loop_reference();
    let case = |name: &str| reference.cases.iter().find(|case| case.name == name).unwrap();
    let n_epochs = |name: &str| case(name).history.len();
    // The best epoch is in the middle; it is the fitted head itself; a random head is never evaluated before
    // training.
    assert!(case("held-out").best.is_some_and(|best| 0 < best && best < 5), "{:?}", case("held-out").best);
    assert_eq!((case("patience-from-the-start").best, n_epochs("patience-from-the-start")), (Some(0), 3));
    assert!(case("held-out-random").best.is_some_and(|best| best > 0));
    let best = case("patience").best.unwrap();
    assert!(best > 0 && n_epochs("patience") == best as usize + 2 && n_epochs("patience") < 12, "{best}");
    // No two cases have the same result.
    for (number, first) in reference.cases.iter().enumerate() {
        for second in &reference.cases[number + 1..] {
            let same = first.values == second.values && first.history == second.history;
            assert!(!same, "{} and {} have the same result", first.name, second.name);
        }
    }
}

// effect: tune.validation, tune.seed, tune.batch_size
#[test]
fn held_out_samples_are_validated_in_their_evaluation_view_and_never_trained_on() {
    let reference = loop_reference();
    let case = |name: &str| reference.cases.iter().find(|case| case.name == name).unwrap();
    for (name, fitted) in [("held-out", true), ("held-out-random", false), ("all-of-sgd", true)] {
        let config = &case(name).config;
        let options = settings(config);
        let (batch_size, n_augmented) = (options.tune.batch_size, options.features.views);
        let mut requested = run(&reference, config).requested.into_iter().map(|batch| {
            batch
                .into_iter()
                .map(|item| match item.view {
                    ViewId::Numbered(view) => (item.image, view),
                    ViewId::PerEpoch { .. } => panic!("there are no per-epoch views here"),
                })
                .collect::<Vec<_>>()
        });
        let validation_batch: Vec<(usize, u32)> =
            reference.held_out.iter().map(|&image| (image, 0)).collect();
        if fitted {
            assert_eq!(requested.next().as_ref(), Some(&validation_batch), "{name}, before the first epoch");
        }
        for epoch in 0..options.tune.epochs {
            let batches: Vec<_> = requested.by_ref().take(reference.fit.len().div_ceil(batch_size)).collect();
            let (last, others) = batches.split_last().unwrap();
            assert!(others.iter().all(|items| items.len() == batch_size), "{name}");
            assert!(last.len() <= batch_size, "{name}");
            let mut trained_on: Vec<usize> = batches.concat().iter().map(|(image, _)| *image).collect();
            trained_on.sort_unstable();
            assert_eq!(trained_on, reference.fit, "{name}, epoch {epoch}");
            assert!(batches.concat().iter().all(|(_, view)| *view <= n_augmented), "{name}");
            assert_eq!(requested.next().as_ref(), Some(&validation_batch), "{name}, after epoch {epoch}");
        }
        assert_eq!(requested.next(), None, "{name}");
    }
}

#[test]
fn randomness_in_a_head_is_keyed_by_the_batch_number() {
    let reference = loop_reference();
    // Validation uses no randomness.
    for (name, n_batches) in [("accumulate", 12), ("held-out", 20)] {
        let config = &reference.cases.iter().find(|case| case.name == name).unwrap().config;
        assert_eq!(run(&reference, config).steps, (0..n_batches).collect::<Vec<_>>(), "{name}");
    }
}

/// A case's config with additional or changed keys of `[tune]`.
fn case_config(reference: &LoopReference, name: &str, keys: &[(&str, &str)]) -> String {
    let case = reference.cases.iter().find(|case| case.name == name).unwrap();
    let mut lines: Vec<String> = case.config.lines().map(str::to_owned).collect();
    for (key, value) in keys {
        lines.retain(|line| !line.starts_with(&format!("{key} =")));
        lines.insert(1, format!("{key} = {value}"));
    }
    lines.join("\n")
}

// effect: tune.batch_size x tune.grad_accum_steps, tune.clip_grad_norm, tune.ema_decay, tune.layer_decay
// effect: tune.momentum
#[test]
fn equivalent_settings_give_the_same_result() {
    let reference = loop_reference();
    let same = |what: &str, first: &[(&str, &str)], second: &[(&str, &str)], tolerance: f32| {
        let base = [
            ("from", "\"layer2\""),
            ("momentum", "0.9"),
            ("weight_decay", "0.1"),
            ("schedule", "\"cosine\""),
        ];
        let [first, second] = [first, second]
            .map(|more| run(&reference, &case_config(&reference, "plain", &[&base, more].concat())));
        for (name, values) in &first.values {
            assert_agree(values, &second.values[name], tolerance, &format!("{what}: {name}"));
        }
    };
    // 14 samples: in both configs the second step of an epoch has six.
    same("accumulated", &[("grad_accum_steps", "2")], &[("batch_size", "8")], 1e-5);
    same("accumulated to an epoch", &[("grad_accum_steps", "9")], &[("batch_size", "14")], 1e-5);
    same("a clip that is never reached", &[("clip_grad_norm", "1e9")], &[], 0.0);
    same("an average that forgets at once", &[("ema_decay", "1e-12")], &[], 1e-6);
    same("a decay of 1", &[("layer_decay", "1")], &[], 0.0);
    same("a gentle warm-up", &[("warmup_epochs", "1e-9")], &[], 0.0);
    same("no mixture", &[("mixup", "0"), ("cutmix", "0"), ("label_smoothing", "0")], &[], 0.0);
    same(
        "a step that never comes",
        &[("schedule", "\"step\""), ("step_epochs", "3")],
        &[("schedule", "\"constant\"")],
        0.0,
    );
}

// effect: train --find-lr
#[test]
fn range_test_losses_equal_pytorchs_across_epochs() {
    let reference = loop_reference();
    assert_eq!(reference.rates.len(), 2);
    for RangeTestCase { config, factors, losses } in &reference.rates {
        let (steps, factors_used) = (factors.len() as u64, factors.clone());
        let (found, requested) = with_new_trainer(&reference, config, |trainer| {
            trainer
                .lr_range_test(Box::new(move |done| factors_used[done as usize]), steps, |_| false, &())
                .unwrap()
        });
        assert_eq!(found.len(), losses.len());
        for (ours, expected) in found.iter().zip(losses) {
            assert!((ours - expected).abs() <= 1e-5 * expected, "{found:?}, expected {losses:?}");
        }
        assert!(requested.concat().iter().all(|item| reference.fit.contains(&item.image)));
        // It ends with the loss at which it should stop.
        let mut n_losses = 0;
        let (losses_until_stop, _) = with_new_trainer(&reference, config, |trainer| {
            let should_stop = |_| {
                n_losses += 1;
                n_losses == 3
            };
            trainer.lr_range_test(Box::new(|_| 1.0), steps, should_stop, &()).unwrap()
        });
        assert_eq!(losses_until_stop.len(), 3);
    }
}

// effect: tune.lr
#[test]
fn divergence_is_reported_with_the_epoch_and_advice() {
    let reference = loop_reference();
    let assert_diverges = |prefix: &str, keys: &[(&str, &str)]| {
        let config = case_config(&reference, "plain", &[&[("lr", "1e300")], keys].concat());
        let error = with_new_trainer(&reference, &config, |trainer| trainer.run(&()).err().unwrap()).0;
        let TrainError::WithRemedy { error, remedy } = error else { panic!("{error}") };
        assert_eq!(remedy, Remedy::LowerLearningRate);
        let error = error.to_string();
        assert!(error.starts_with(prefix) && error.ends_with("in epoch 1"), "{error}");
    };
    assert_diverges("the loss is ", &[]);
    // Gradients are checked before their step.
    assert_diverges("the gradient norm is ", &[("clip_grad_norm", "1")]);
    // With one step per epoch, divergence first shows on the held-out samples.
    assert_diverges("the loss on held-out photos is ", &[("batch_size", "1000"), ("validation", "0.25")]);
    // In a range test divergence ends the test without an error.
    let config = case_config(&reference, "plain", &[("lr", "1e300")]);
    let run_test =
        |trainer: Trainer<'_>| trainer.lr_range_test(Box::new(|_| 1.0), 50, |_| false, &()).unwrap();
    let losses = with_new_trainer(&reference, &config, run_test).0;
    let (last, before) = losses.split_last().unwrap();
    assert!(
        !last.is_finite() && before.iter().all(|loss| loss.is_finite()) && losses.len() < 50,
        "{losses:?}"
    );
}

// effect: train --resume
#[test]
fn a_training_resumed_from_anywhere_ends_the_same() {
    let reference = loop_reference();
    for ReferenceCase { name, config, .. } in &reference.cases {
        let uninterrupted = run(&reference, config);
        let n_batches = uninterrupted.requested.len();
        for max_batches in [n_batches / 3, 2 * n_batches / 3, n_batches - 1] {
            let fixture = TrainerFixture::new(config);
            let stopped = fixture.run(&reference, max_batches).err().unwrap().to_string();
            assert_eq!(stopped, "stopped", "{name} after {max_batches} batches");
            let resumed = fixture.run(&reference, usize::MAX).unwrap();
            assert!(resumed.values == uninterrupted.values, "{name} after {max_batches} batches");
            assert_eq!(resumed.history, uninterrupted.history, "{name} after {max_batches} batches");
            assert!(
                resumed.requested.len() < n_batches || max_batches <= n_batches / 3,
                "{name}: it starts over after {max_batches}"
            );
        }
    }
}

#[test]
fn a_training_with_another_fingerprint_is_not_resumed() {
    let reference = loop_reference();
    let fixture = TrainerFixture::new(&reference.cases[0].config);
    fixture.run(&reference, 5).err().unwrap();
    fixture.with_trainer(&reference, "there", usize::MAX, |trainer, _| {
        let error = trainer.err().unwrap().to_string();
        assert!(
            error.ends_with(
                "have changed since the run began; undo the changes, or start a new run in a different \
                 folder"
            ),
            "{error}"
        );
    });
    fixture.with_trainer(&reference, "here", usize::MAX, |trainer, _| assert!(trainer.is_ok()));
}

// effect: train --find-lr
#[test]
fn a_range_test_covers_its_range_whatever_the_settings_and_keeps_the_ratio_of_rates() {
    let reference = loop_reference();
    let curve_with = |lr: &str, backbone_lr: &str| {
        let config = case_config(
            &reference,
            "plain",
            &[("lr", lr), ("backbone_lr", backbone_lr), ("momentum", "0.5")],
        );
        let options = settings(&config).tune;
        with_new_trainer(&reference, &config, |trainer| {
            find_lr::run_range_test(trainer, &options, &()).unwrap()
        })
        .0
    };
    let (first, second) = (curve_with("0.4", "0.1"), curve_with("0.04", "0.01"));
    assert!((first.backbone_share - 0.25).abs() < 1e-12 && (second.backbone_share - 0.25).abs() < 1e-12);
    assert_eq!(first.points.len(), second.points.len());
    assert!(first.points.len() > 50);
    for (first, second) in first.points.iter().zip(&second.points).take(50) {
        assert!(first.lr == second.lr && (first.loss - second.loss).abs() < 1e-5, "{first:?}, {second:?}");
    }
    // The reported rates are those used.
    let config =
        case_config(&reference, "plain", &[("lr", "1"), ("backbone_lr", "0.25"), ("momentum", "0.5")]);
    let factors_used: Vec<f64> = first.points.iter().map(|point| point.lr).collect();
    let steps = factors_used.len() as u64;
    let factor = Box::new(move |done: u64| factors_used[done as usize]);
    let (losses, _) = with_new_trainer(&reference, &config, |trainer| {
        trainer.lr_range_test(factor, steps, |_| false, &()).unwrap()
    });
    for (point, loss) in first.points.iter().zip(&losses).take(50) {
        assert!((point.loss - loss).abs() < 1e-5, "{point:?}, {loss}");
    }
    let differs = curve_with("0.4", "0.4")
        .points
        .iter()
        .zip(&first.points)
        .any(|(a, b)| (a.loss - b.loss).abs() > 1e-3);
    assert!(differs, "another ratio of the rates gives another curve");
}

#[test]
fn a_checkpoint_of_another_model_is_rejected() {
    let reference = loop_reference();
    let fixture = TrainerFixture::new(&reference.cases[0].config);
    fixture.run(&reference, 5).err().unwrap();
    let path = fixture.run.checkpoint_path("last.safetensors");
    let (state, mut arrays_saved) = checkpoint_file::load::<TrainState>(&path).unwrap().unwrap();
    arrays_saved.insert("layer4.bn.bias".into(), vec![0.0; 2]);
    for _ in 0..2 {
        let arrays = arrays_saved.iter().map(|(name, values)| (name.clone(), values.as_slice())).collect();
        checkpoint_file::save(&path, &state, &arrays).unwrap();
        fixture.with_trainer(&reference, "here", usize::MAX, |trainer, _| {
            let error = trainer.err().unwrap().to_string();
            assert_eq!(
                error,
                "the checkpoint has no `layer4.bn.bias` of 3 values, so it belongs to a different model: \
                 start a new run"
            );
        });
        arrays_saved.remove("layer4.bn.bias");
    }
}

#[test]
fn a_completed_epoch_is_not_repeated() {
    let reference = loop_reference();
    // One batch per epoch: nothing is saved between steps.
    let fixture = TrainerFixture::new(&case_config(&reference, "plain", &[("batch_size", "14")]));
    fixture.run(&reference, 2).err().unwrap();
    assert_eq!(fixture.run(&reference, usize::MAX).unwrap().requested.len(), 1);
}
