//! The course of a tuning beside PyTorch's (`reference/tuning/loop.py`), from the text of a config on: a key that is not passed on is
//! another course.

mod tiny;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use headstock_heads::linear::LinearConfig;
use headstock_heads::{Differentiable, ForwardMode, HeadError, Registry, Tensors};
use serde::Deserialize;
use tempfile::TempDir;

use self::tiny::{NamedValues, RequestedBatches, TinyBackbone, floats};
use super::*;
use crate::config::{Config, Settings};
use crate::finetune::golden::assert_agree;
use crate::finetune::tests::in_memory;
use crate::finetune::{checkpoint_file, class_weights, find_lr};
use crate::run::RunDir;

const N_CLASSES: usize = 4;
const ACTIVATION_SHAPE: [usize; 3] = [4, 5, 3];

#[derive(Deserialize)]
struct Golden {
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

/// Rates that rise from step to step.
#[derive(Deserialize)]
struct RangeTestCase {
    config: String,
    factors: Vec<f64>,
    losses: Vec<f64>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/tuning/loop.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn settings(config: &str) -> Settings {
    let text =
        format!("version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n{config}");
    Config::parse(&text, "a case", Path::new("/")).unwrap().resolve(&Registry::builtin()).unwrap()
}

/// Activations by the formula of `reference/tuning/loop.py`; what was asked for is written down.
struct SyntheticActivations<'a> {
    labels: &'a [u32],
    requested: RequestedBatches,
    /// Batches that are given before it fails.
    max_batches: usize,
}

impl ActivationBatches for SyntheticActivations<'_> {
    fn shape(&self) -> [usize; 3] {
        ACTIVATION_SHAPE
    }

    fn for_each_batch(&self, batches: &[Vec<BatchItem>], act: &mut OnBatch<'_>) -> Result<(), TrainError> {
        for (number, batch) in batches.iter().enumerate() {
            if self.requested.lock().unwrap().len() == self.max_batches {
                return Err(TrainError::Data("it is stopped".into()));
            }
            self.requested.lock().unwrap().push(batch.clone());
            let value = |item: &BatchItem, i: usize| {
                let rendering = match item.view {
                    ViewId::Numbered(view) => view as usize,
                    ViewId::PerEpoch { epoch } => 10 + epoch as usize,
                };
                let label = self.labels[item.image] as usize;
                let sum = item.image * 37 + rendering * 101 + i * i * 13 + i * 7 + label * i * 5;
                ((sum % 61) as f32 - 30.0) / 32.0
            };
            let each = ACTIVATION_SHAPE.iter().product();
            let values: Vec<f32> = batch.iter().flat_map(|item| (0..each).map(|i| value(item, i))).collect();
            if act(number, &values)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What a course ends with.
struct TrainedState {
    values: BTreeMap<String, Vec<f32>>,
    history: History,
    /// The batches that it asked for.
    requested: Vec<Vec<BatchItem>>,
    /// What it said to its head: the number of each step of training.
    steps: Vec<u64>,
}

/// A linear head that writes down which steps it was told of.
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

/// The settings of a config, and a place for its checkpoints.
struct TrainerFixture {
    settings: Settings,
    unfinished: RunInProgress,
    _folder: TempDir,
}

impl TrainerFixture {
    fn new(config: &str) -> Self {
        let (settings, folder) = (settings(config), in_memory());
        let place = RunDir::Named(folder.path().join("run"));
        let reserved = place.reserve(&settings.source).unwrap();
        let unfinished = RunInProgress::with_trainer(reserved, "linear", "").unwrap();
        Self { settings, unfinished, _folder: folder }
    }

    /// Calls `act` with what there is of a course, which is stopped after `most` batches; what was asked for.
    fn begin(
        &self,
        golden: &Golden,
        origin: &str,
        most: usize,
        act: impl FnOnce(Result<Trainer<'_>, TrainError>, &StepRecordingHead),
    ) -> Vec<Vec<BatchItem>> {
        let options = &self.settings.options.tune;
        let held_out = if options.validation > 0.0 { golden.held_out.clone() } else { Vec::new() };
        let parts = HoldoutSplit { fit: golden.fit.clone(), held_out };
        let start: Tensors = [("weight", vec![N_CLASSES, 3]), ("bias", vec![N_CLASSES])]
            .map(|(name, shape)| {
                let values = floats(&golden.start[&format!("head.{name}")]);
                (name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            })
            .into();
        let head = StepRecordingHead::default();
        let trunk = TinyBackbone::new(&golden.start, options.first_stage().unwrap(), options.batch_norm);
        let network = FinetuneModel::new(trunk, &head, &start).unwrap();
        let inputs =
            SyntheticActivations { labels: &golden.labels, requested: Mutex::default(), max_batches: most };
        let setup = TrainerConfig {
            options,
            split: &parts,
            labels: &golden.labels,
            class_weights: class_weights(options, &parts, &golden.labels, N_CLASSES),
            n_views: self.settings.options.features.views,
            activations: &inputs,
            run: Some(&self.unfinished),
            fingerprint: origin.into(),
            chosen_params: vec![("C".into(), 0.5)],
        };
        act(Trainer::new(setup, network), &head);
        inputs.requested.into_inner().unwrap()
    }

    /// Trains to the end, or until it is stopped after `most` batches.
    fn run(&self, golden: &Golden, most: usize) -> Result<TrainedState, TrainError> {
        let mut end = None;
        let asked = self.begin(golden, "here", most, |course, head| {
            let course = course.unwrap();
            let course = if most < usize::MAX { course.with_checkpoint_every_step() } else { course };
            let outcome = course.run(&());
            end =
                Some(outcome.map(|FinetuneResult { model: mut network, history, chosen_params: chosen }| {
                    assert_eq!(chosen, [("C".to_owned(), 0.5)]);
                    let values =
                        network.named_values_mut().into_iter().map(|(name, values)| (name, values.to_vec()));
                    let steps = head.steps.lock().unwrap().clone();
                    TrainedState { values: values.collect(), history, requested: Vec::new(), steps }
                }));
        });
        Ok(TrainedState { requested: asked, ..end.unwrap()? })
    }
}

fn run(golden: &Golden, config: &str) -> TrainedState {
    TrainerFixture::new(config).run(golden, usize::MAX).unwrap()
}

/// Calls `act` with a course of such a config: what it gives, and what it asked for.
fn with_new_trainer<R>(
    golden: &Golden,
    config: &str,
    act: impl FnOnce(Trainer<'_>) -> R,
) -> (R, Vec<Vec<BatchItem>>) {
    let mut result = None;
    let asked = TrainerFixture::new(config)
        .begin(golden, "here", usize::MAX, |course, _| result = Some(act(course.unwrap())));
    (result.unwrap(), asked)
}

// effect: tune.from, tune.start, tune.epochs, tune.batch_size, tune.accumulate, tune.optimizer, tune.lr, tune.backbone_lr
// effect: tune.layer_decay, tune.momentum, tune.nesterov, tune.weight_decay, tune.schedule, tune.warmup, tune.step_epochs
// effect: tune.step_gamma, tune.label_smoothing, tune.class_weight, tune.mixup, tune.cutmix, tune.clip_norm, tune.ema
// effect: tune.batch_norm, tune.unfreeze, tune.views, tune.validation, tune.patience, tune.seed, features.views x tune.views
// effect: tune.accumulate x tune.clip_norm, tune.accumulate x tune.schedule, tune.batch_norm x tune.ema
// effect: tune.ema x tune.validation, tune.batch_norm x tune.unfreeze, tune.cutmix x tune.mixup
#[test]
fn every_course_is_pytorchs_whatever_is_asked_for() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 48);
    for ReferenceCase { name, config, values, history, .. } in &golden.cases {
        let end = run(&golden, config);
        assert!(end.values.keys().eq(values.keys()), "{name}");
        for (part, oracle) in values {
            assert_agree(&end.values[part], &floats(oracle), 2e-5, &format!("{name}: {part}"));
        }
        let columns = ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"];
        assert_eq!(end.history.columns, columns[..history[0].len()], "{name}");
        assert_eq!(end.history.rows.len(), history.len(), "{name}");
        for (ours, oracle) in end.history.rows.iter().zip(history) {
            for ((ours, oracle), column) in ours.iter().zip(oracle).zip(columns) {
                assert!(
                    (ours - oracle).abs() <= 1e-5 * oracle.abs(),
                    "{name}: {column} is {ours}, expected {oracle}"
                );
            }
        }
    }
}

#[test]
fn the_cases_hold_what_they_are_to_show() {
    let golden = golden();
    let case = |name: &str| golden.cases.iter().find(|case| case.name == name).unwrap();
    let lasts = |name: &str| case(name).history.len();
    // The best is neither the first nor the last; the fitted head itself; and that of a head that knows nothing is never looked at.
    assert!(case("held-out").best.is_some_and(|best| 0 < best && best < 5), "{:?}", case("held-out").best);
    assert_eq!((case("patience-from-the-start").best, lasts("patience-from-the-start")), (Some(0), 3));
    assert!(case("held-out-random").best.is_some_and(|best| best > 0));
    let best = case("patience").best.unwrap();
    assert!(best > 0 && lasts("patience") == best as usize + 2 && lasts("patience") < 12, "{best}");
    // Each case is one of its own.
    for (number, one) in golden.cases.iter().enumerate() {
        for other in &golden.cases[number + 1..] {
            let same = one.values == other.values && one.history == other.history;
            assert!(!same, "{} shows nothing that {} does not", one.name, other.name);
        }
    }
}

// effect: tune.validation, tune.seed, tune.batch_size
#[test]
fn what_is_held_out_is_judged_in_its_plain_view_and_never_learned_from() {
    let golden = golden();
    let of_case = |name: &str| golden.cases.iter().find(|case| case.name == name).unwrap();
    for (name, fitted) in [("held-out", true), ("held-out-random", false), ("all-of-sgd", true)] {
        let config = &of_case(name).config;
        let options = settings(config).options;
        let (batch, views) = (options.tune.batch_size, options.features.views);
        let mut asked = run(&golden, config).requested.into_iter().map(|batch| {
            batch
                .into_iter()
                .map(|item| match item.view {
                    ViewId::Numbered(view) => (item.image, view),
                    ViewId::PerEpoch { .. } => panic!("nothing is fresh here"),
                })
                .collect::<Vec<_>>()
        });
        let judged: Vec<(usize, ViewIndex)> = golden.held_out.iter().map(|&photo| (photo, 0)).collect();
        if fitted {
            assert_eq!(asked.next().as_ref(), Some(&judged), "{name}, before the first epoch");
        }
        for epoch in 0..options.tune.epochs {
            let batches: Vec<_> = asked.by_ref().take(golden.fit.len().div_ceil(batch)).collect();
            let (last, whole) = batches.split_last().unwrap();
            assert!(whole.iter().all(|photos| photos.len() == batch) && last.len() <= batch, "{name}");
            let mut learned: Vec<usize> = batches.concat().iter().map(|(photo, _)| *photo).collect();
            learned.sort_unstable();
            assert_eq!(learned, golden.fit, "{name}, epoch {epoch}");
            assert!(batches.concat().iter().all(|(_, view)| *view <= views), "{name}");
            assert_eq!(asked.next().as_ref(), Some(&judged), "{name}, after epoch {epoch}");
        }
        assert_eq!(asked.next(), None, "{name}");
    }
}

#[test]
fn what_is_random_in_a_head_is_keyed_by_the_number_of_the_batch() {
    let golden = golden();
    // Nothing is random where photos are judged.
    for (name, batches) in [("accumulate", 12), ("held-out", 20)] {
        let config = &golden.cases.iter().find(|case| case.name == name).unwrap().config;
        assert_eq!(run(&golden, config).steps, (0..batches).collect::<Vec<_>>(), "{name}");
    }
}

/// A case's config, with a key of `[tune]` more or another value of it.
fn case_config(golden: &Golden, name: &str, keys: &[(&str, &str)]) -> String {
    let case = golden.cases.iter().find(|case| case.name == name).unwrap();
    let mut lines: Vec<String> = case.config.lines().map(str::to_owned).collect();
    for (key, value) in keys {
        lines.retain(|line| !line.starts_with(&format!("{key} =")));
        lines.insert(1, format!("{key} = {value}"));
    }
    lines.join("\n")
}

// effect: tune.accumulate x tune.batch_size, tune.clip_norm, tune.ema, tune.layer_decay, tune.momentum
#[test]
fn what_comes_to_the_same_ends_the_same() {
    let golden = golden();
    let same = |what: &str, one: &[(&str, &str)], other: &[(&str, &str)], tolerance: f32| {
        let base = [
            ("from", "\"layer2\""),
            ("momentum", "0.9"),
            ("weight_decay", "0.1"),
            ("schedule", "\"cosine\""),
        ];
        let [one, other] =
            [one, other].map(|more| run(&golden, &case_config(&golden, "plain", &[&base, more].concat())));
        for (name, values) in &one.values {
            assert_agree(values, &other.values[name], tolerance, &format!("{what}: {name}"));
        }
    };
    // 14 photos: of the second group of an epoch both have six.
    same("accumulated", &[("accumulate", "2")], &[("batch_size", "8")], 1e-5);
    same("accumulated to an epoch", &[("accumulate", "9")], &[("batch_size", "14")], 1e-5);
    same("a clip that is never met", &[("clip_norm", "1e9")], &[], 0.0);
    same("an average that forgets at once", &[("ema", "1e-12")], &[], 1e-6);
    same("a decay of 1", &[("layer_decay", "1")], &[], 0.0);
    same("a gentle warm-up", &[("warmup", "1e-9")], &[], 0.0);
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
fn the_losses_under_rising_rates_are_pytorchs_across_epochs() {
    let golden = golden();
    assert_eq!(golden.rates.len(), 2);
    for RangeTestCase { config, factors, losses } in &golden.rates {
        let (steps, rates) = (factors.len() as u64, factors.clone());
        let (found, asked) = with_new_trainer(&golden, config, |course| {
            course.lr_range_test(Box::new(move |done| rates[done as usize]), steps, |_| false, &()).unwrap()
        });
        assert_eq!(found.len(), losses.len());
        for (ours, oracle) in found.iter().zip(losses) {
            assert!((ours - oracle).abs() <= 1e-5 * oracle, "{found:?}, expected {losses:?}");
        }
        assert!(asked.concat().iter().all(|item| golden.fit.contains(&item.image)));
        // It ends with the loss that is too much.
        let mut told = 0;
        let (ended, _) = with_new_trainer(&golden, config, |course| {
            let is_over = |_| {
                told += 1;
                told == 3
            };
            course.lr_range_test(Box::new(|_| 1.0), steps, is_over, &()).unwrap()
        });
        assert_eq!(ended.len(), 3);
    }
}

// effect: tune.lr
#[test]
fn a_rate_that_is_far_too_high_ends_with_the_epoch_and_what_to_do() {
    let golden = golden();
    let begins = |begin: &str, keys: &[(&str, &str)]| {
        let config = case_config(&golden, "plain", &[&[("lr", "1e300")], keys].concat());
        let error = with_new_trainer(&golden, &config, |course| course.run(&()).err().unwrap().to_string()).0;
        let end = "in epoch 1: lower `tune.lr`, or set `tune.clip_norm`";
        assert!(error.starts_with(begin) && error.ends_with(end), "{error}");
    };
    begins("the loss is ", &[]);
    // Gradients are looked at before the step that they would make.
    begins("the norm of the gradients is ", &[("clip_norm", "1")]);
    // One step an epoch: what it did shows on the photos held out first.
    begins("the loss on photos held out is ", &[("batch_size", "1000"), ("validation", "0.25")]);
    // Where rates are tried, that is the end of them, and no error.
    let config = case_config(&golden, "plain", &[("lr", "1e300")]);
    let tried = |course: Trainer<'_>| course.lr_range_test(Box::new(|_| 1.0), 50, |_| false, &()).unwrap();
    let losses = with_new_trainer(&golden, &config, tried).0;
    let (last, before) = losses.split_last().unwrap();
    assert!(
        !last.is_finite() && before.iter().all(|loss| loss.is_finite()) && losses.len() < 50,
        "{losses:?}"
    );
}

// effect: train --resume
#[test]
fn a_course_that_is_stopped_anywhere_goes_on_to_the_same_end() {
    let golden = golden();
    for ReferenceCase { name, config, .. } in &golden.cases {
        let whole = run(&golden, config);
        let batches = whole.requested.len();
        for most in [batches / 3, 2 * batches / 3, batches - 1] {
            let desk = TrainerFixture::new(config);
            let stopped = desk.run(&golden, most).err().unwrap().to_string();
            assert_eq!(stopped, "it is stopped", "{name} after {most} batches");
            let rest = desk.run(&golden, usize::MAX).unwrap();
            assert!(rest.values == whole.values, "{name} after {most} batches");
            assert_eq!(rest.history, whole.history, "{name} after {most} batches");
            assert!(
                rest.requested.len() < batches || most <= batches / 3,
                "{name}: it begins anew after {most}"
            );
        }
    }
}

#[test]
fn a_course_of_something_else_does_not_go_on() {
    let golden = golden();
    let desk = TrainerFixture::new(&golden.cases[0].config);
    desk.run(&golden, 5).err().unwrap();
    desk.begin(&golden, "there", usize::MAX, |course, _| {
        let refused = course.err().unwrap().to_string();
        assert!(
            refused.ends_with("not those that it began with; train anew, under another name"),
            "{refused}"
        );
    });
    desk.begin(&golden, "here", usize::MAX, |course, _| assert!(course.is_ok()));
}

// effect: train --find-lr
#[test]
fn rates_are_tried_from_tiny_to_large_whatever_the_settings_have_and_keep_their_shares() {
    let golden = golden();
    let of = |lr: &str, backbone_lr: &str| {
        let config =
            case_config(&golden, "plain", &[("lr", lr), ("backbone_lr", backbone_lr), ("momentum", "0.5")]);
        let options = settings(&config).options.tune;
        with_new_trainer(&golden, &config, |course| find_lr::run_range_test(course, &options, &()).unwrap()).0
    };
    let (one, other) = (of("0.4", "0.1"), of("0.04", "0.01"));
    assert!((one.backbone_share - 0.25).abs() < 1e-12 && (other.backbone_share - 0.25).abs() < 1e-12);
    assert_eq!(one.points.len(), other.points.len());
    assert!(one.points.len() > 50);
    for (one, other) in one.points.iter().zip(&other.points).take(50) {
        assert!(one.lr == other.lr && (one.loss - other.loss).abs() < 1e-5, "{one:?}, {other:?}");
    }
    // The rates are those that are told.
    let config = case_config(&golden, "plain", &[("lr", "1"), ("backbone_lr", "0.25"), ("momentum", "0.5")]);
    let rates: Vec<f64> = one.points.iter().map(|point| point.lr).collect();
    let steps = rates.len() as u64;
    let factor = Box::new(move |done: u64| rates[done as usize]);
    let (losses, _) = with_new_trainer(&golden, &config, |course| {
        course.lr_range_test(factor, steps, |_| false, &()).unwrap()
    });
    for (point, loss) in one.points.iter().zip(&losses).take(50) {
        assert!((point.loss - loss).abs() < 1e-5, "{point:?}, {loss}");
    }
    let differs =
        of("0.4", "0.4").points.iter().zip(&one.points).any(|(a, b)| (a.loss - b.loss).abs() > 1e-3);
    assert!(differs, "a larger share of the backbone's is another curve");
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let golden = golden();
    let desk = TrainerFixture::new(&golden.cases[0].config);
    desk.run(&golden, 5).err().unwrap();
    let path = desk.unfinished.checkpoint_path("last.safetensors");
    let (position, mut kept) = checkpoint_file::load::<TrainState>(&path).unwrap().unwrap();
    kept.insert("layer4.bn.bias".into(), vec![0.0; 2]);
    for _ in 0..2 {
        let arrays = kept.iter().map(|(name, values)| (name.clone(), values.as_slice())).collect();
        checkpoint_file::save(&path, &position, &arrays).unwrap();
        desk.begin(&golden, "here", usize::MAX, |course, _| {
            let refused = course.err().unwrap().to_string();
            assert_eq!(refused, "a checkpoint has no `layer4.bn.bias` of 3 values: it is of another network");
        });
        kept.remove("layer4.bn.bias");
    }
}

#[test]
fn an_epoch_that_is_done_is_not_done_again() {
    let golden = golden();
    // A batch an epoch: between steps nothing is saved.
    let desk = TrainerFixture::new(&case_config(&golden, "plain", &[("batch_size", "14")]));
    desk.run(&golden, 2).err().unwrap();
    assert_eq!(desk.run(&golden, usize::MAX).unwrap().requested.len(), 1);
}
