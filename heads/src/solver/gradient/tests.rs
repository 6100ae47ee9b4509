//! Against PyTorch (`reference/heads/make.py`), and what stopping early keeps.

use std::collections::HashMap;

use super::*;
use crate::head::HeadConfig;
use crate::linear::{LinearConfig, LinearSolver};
use crate::mlp::MlpConfig;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/heads/pytorch.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    /// The tensors whose names start with `prefix`, without it.
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
}

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

#[test]
fn the_gradients_of_a_perceptron_are_pytorchs() {
    let golden = Golden::load();
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(Features::new(&values, width).unwrap(), &labels, 3).unwrap();
    let class_weights = data.class_weights(crate::ClassWeight::Balanced);
    let samples = Samples { data: &data, features: data.features(), class_weights: &class_weights };
    let (vars, parameters) = variables(&golden.tensors("mlp.initial.")).unwrap();
    let rows: Vec<usize> = (0..labels.len()).collect();
    let logits = MLP().forward(&parameters, &samples.batch(&rows).unwrap(), Mode::Train { step: 0 }).unwrap();
    let logits_by_name = |tensor: Tensor| Tensors::from([("logits".to_string(), tensor)]);
    assert_near(&logits_by_name(logits.clone()), &logits_by_name(golden.0["mlp.logits"].clone()), 1e-5);
    let gradients = samples.loss(&logits, &rows).unwrap().backward().unwrap();
    let of = |(name, var): (&String, &Var)| (name.clone(), gradients.get(var).unwrap().clone());
    assert_near(&parameters.keys().zip(&vars).map(of).collect(), &golden.tensors("mlp.gradient."), 1e-5);
}

#[test]
fn steps_of_adamw_lead_where_pytorchs_lead() {
    let golden = Golden::load();
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(Features::new(&values, width).unwrap(), &labels, 3).unwrap();
    let class_weights = data.class_weights(crate::ClassWeight::Balanced);
    let samples = Samples { data: &data, features: data.features(), class_weights: &class_weights };
    for steps in [1, 20] {
        let recipe = Recipe {
            lr: 0.01,
            weight_decay: 0.1,
            penalty: 0.0,
            epochs: steps,
            batch_size: labels.len(),
            seed: 0,
            early_stopping: None,
        };
        let initial = golden.tensors("mlp.initial.");
        let (parameters, history) = fit(&MLP(), &initial, samples, &recipe, &FitContext::quiet()).unwrap();
        assert_near(&parameters, &golden.tensors(&format!("mlp.after-{steps}.")), 1e-4);
        let losses: Vec<f64> = golden.0["mlp.losses"].to_vec1().unwrap();
        for (row, loss) in history.rows.iter().zip(losses) {
            assert!((row[1] - loss).abs() < 1e-5, "{row:?}, expected {loss}");
        }
    }
}

#[test]
fn linear_by_adam_goes_the_way_of_the_tutorials_loop() {
    let golden = Golden::load();
    let ((values, width), labels) = (golden.features(), golden.labels());
    let data = TrainingSet::new(Features::new(&values, width).unwrap(), &labels, 3).unwrap();
    let config = LinearConfig {
        solver: LinearSolver::Adam,
        c: 0.1.into(),
        epochs: 30,
        batch_size: labels.len() as u64,
        lr: 0.01,
        ..LinearConfig::default()
    };
    let head = config.fit(&data, &FitContext::quiet()).unwrap().head;
    assert_near(&crate::Head::tensors(&*head).unwrap(), &golden.tensors("adam."), 1e-4);
}

/// Labels at random, so that what is held out soon gets worse.
fn noise() -> (Vec<f32>, Vec<u32>) {
    let mut random = Keyed::new(&[5]);
    let values = (0..60 * 30).map(|_| random.uniform() as f32).collect();
    (values, (0..60).map(|_| random.below(3) as u32).collect())
}

#[test]
fn an_early_stop_comes_after_patience_runs_out_and_keeps_the_best_epoch() {
    let (values, labels) = noise();
    let data = TrainingSet::new(Features::new(&values, 30).unwrap(), &labels, 3).unwrap();
    let samples = Samples { data: &data, features: data.features(), class_weights: &[1.0; 3] };
    let stopping = EarlyStopping { validation: 0.3, patience: 4 };
    let recipe = Recipe {
        lr: 0.01,
        weight_decay: 0.0,
        penalty: 0.0,
        epochs: 500,
        batch_size: 16,
        seed: 3,
        early_stopping: Some(stopping),
    };
    let initial = MLP().initial(30, 3).unwrap();
    let (parameters, history) = fit(&MLP(), &initial, samples, &recipe, &FitContext::quiet()).unwrap();
    let losses: Vec<f64> = history.rows.iter().map(|row| row[2]).collect();
    let best = (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap();
    assert_eq!(losses.len(), best + 1 + 4, "{losses:?}");

    let held_out = hold_out(&data, stopping.validation, recipe.seed).held_out;
    let (loss, accuracy) = samples.judge(&MLP(), &parameters, &held_out).unwrap();
    assert_eq!([loss, accuracy], history.rows[best][2..]);
}

#[test]
fn a_rate_far_too_high_is_a_divergence_that_says_what_to_do() {
    let (values, labels) = noise();
    let values: Vec<f32> = values.iter().map(|v| v * 1e30).collect();
    let data = TrainingSet::new(Features::new(&values, 30).unwrap(), &labels, 3).unwrap();
    let config = MlpConfig { lr: 1e20, ..MLP() };
    let error = config.fit(&data, &FitContext::quiet()).unwrap_err();
    assert!(matches!(&error, HeadError::Diverged(message) if message.contains("lower `lr`")), "{error}");
}
