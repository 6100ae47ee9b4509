//! The head `mlp`: a multi-layer perceptron.

use candle_core::{Device, Tensor};
use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::{Affine, PackedAffine, WEIGHT};
use crate::check::{require, require_fraction};
use crate::data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape};
use crate::params::AdamWParams;
use crate::solver::gradient::mlp_learner::{Dropout, MlpLearner};
use crate::solver::gradient::{self, WeightedSamples};
use crate::standardize::PreparedFeatures;
use crate::tensors::{Tensors, tensor_error};

/// `[head]` with `kind = "mlp"`.
///
/// Hidden layers, each an affine map followed by a ReLU and dropout, and an affine output layer, fitted by
/// AdamW to the lowest log-loss. The output layer starts at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Number of units of each hidden layer, in order: at least one layer.
    pub hidden: Vec<u64>,
    /// Fraction of the hidden units that are dropped at random in each step, at least 0 and less than 1.
    pub dropout: f64,
    /// Peak learning rate of AdamW: linear warmup over a tenth of all steps, then cosine decay.
    pub lr: f64,
    /// Decoupled weight decay of AdamW, at least 0.
    pub weight_decay: f64,
    /// Maximum number of epochs (passes over the training photos).
    pub epochs: u64,
    /// Maximum number of photos per step; an epoch has at least 16 steps.
    pub batch_size: u64,
    /// Fraction of the photos of each class to hold out for early stopping; with 0 all epochs run.
    pub validation: f64,
    /// Number of epochs without a lower loss on the held-out photos after which the fit stops early.
    pub patience: u64,
    /// How much the photos of each class count in the loss.
    pub class_weight: ClassWeight,
    /// Whether to standardize the features to mean 0 and variance 1 before the fit.
    pub standardize: bool,
    /// Random seed of the initial weights, of dropout, of the order of the photos and of the held-out ones.
    pub seed: u64,
}

impl Default for MlpConfig {
    /// The values of the keys that a config leaves out.
    fn default() -> Self {
        Self {
            hidden: vec![512],
            dropout: 0.5,
            lr: 1e-3,
            weight_decay: 0.01,
            epochs: 15,
            batch_size: 128,
            validation: 0.0,
            patience: 5,
            class_weight: ClassWeight::None,
            standardize: false,
            seed: 0,
        }
    }
}

impl HeadConfig for MlpConfig {
    const KIND: &'static str = "mlp";
    const ABOUT: &'static str = "a small neural network (multi-layer perceptron) with dropout";
    const SUPPORTS_WARM_START: bool = true;
    type Head = MlpHead;

    /// Checks that the hyperparameters are in range.
    fn check(&self) -> Result<(), HeadError> {
        let sizes_valid = self.hidden.iter().all(|units| (1..=1_048_576).contains(units));
        let hidden = format!("{:?}", self.hidden);
        require(
            sizes_valid && !self.hidden.is_empty(),
            "hidden",
            &hidden,
            "must list at least one layer, each of 1 to 1048576 units",
        )?;
        require_fraction("dropout", self.dropout)?;
        self.adamw_params().check()
    }

    /// Fits with AdamW on the prepared (perhaps standardized) features, then converts the first layer so that
    /// the head takes raw features. Starts from the warm start of `context` if there is one. The history of
    /// the result has the losses of each epoch.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<MlpHead>, HeadError> {
        let prepared = PreparedFeatures::new(data.features(), self.standardize);
        let recipe = self.adamw_params().recipe(data.labels().len());
        let class_weights = data.class_weights(self.class_weight);
        let samples = WeightedSamples { data, features: prepared.features(), class_weights: &class_weights };
        let (width, classes) = (data.features().width(), data.classes());
        let MlpHead { layers } = match context.warm_start {
            Some(start) => self.load(start)?.for_warm_start(start, &prepared, classes)?,
            None => self.load(&self.initial_parameters(width, classes)?)?,
        };
        let learner = MlpLearner::new(layers, self.dropout());
        let (mut layers, history) = gradient::fit(learner, samples, &recipe, context)?;
        layers[0] = layers[0].for_raw_features(&prepared)?;
        Ok(Fitted::with_history(MlpHead { layers }, history))
    }

    /// Restores a fitted head from the tensors of its layers, whose shapes must match `hidden`.
    fn load(&self, tensors: &Tensors) -> Result<MlpHead, HeadError> {
        let layers = (0..=self.hidden.len()).map(|layer| Affine::load(tensors, &layer_prefix(layer)));
        let layers: Vec<Affine> = layers.collect::<Result<_, _>>()?;
        for (layer, &units) in self.hidden.iter().enumerate() {
            if layers[layer].classes() as u64 != units || layers[layer + 1].width() as u64 != units {
                let name = format!("{}{WEIGHT}", layer_prefix(layer));
                return Err(tensor_error(
                    &name,
                    format!("does not match the layer of {units} units in `hidden`"),
                ));
            }
        }
        Ok(MlpHead { layers })
    }

    /// The configurations that the command `compare` fits to find the best: this one, one with half the
    /// dropout, and one with twice the units in each hidden layer.
    fn candidate_configs(&self) -> Vec<Self> {
        let doubled = self.hidden.iter().map(|units| 2 * units).collect();
        vec![
            self.clone(),
            Self { dropout: 0.5 * self.dropout, ..self.clone() },
            Self { hidden: doubled, ..self.clone() },
        ]
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, to warn the user before it starts: the
    /// layers with their optimizer state, and the standardized copy of the features, if any.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let copied_values = if self.standardize { shape.samples.saturating_mul(shape.features) } else { 0 };
        let copied_bytes = (copied_values as u64).saturating_mul(size_of::<f32>() as u64);
        MlpLearner::memory_bytes(
            &self.layer_shapes(shape.features, shape.classes),
            gradient::effective_batch_size(self.batch_size, shape.samples),
        )
        .saturating_add(copied_bytes)
    }

    /// The head as a function that candle differentiates, for fine-tuning a backbone.
    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

/// Prefix of the names of a layer's tensors, such as `layers.0.` for the first.
fn layer_prefix(layer: usize) -> String {
    format!("layers.{layer}.")
}

impl Differentiable for MlpConfig {
    /// The tensors of the layers from which a fit and fine-tuning start. Hidden layers start as in PyTorch's
    /// `nn.Linear`: uniform from `-1/√F` to `1/√F`, with the number `F` of inputs of the layer. The last
    /// layer starts at 0, as is usual for a new head on a pretrained network, so that no class is preferred.
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        let shapes = self.layer_shapes(width, classes);
        let mut tensors = Tensors::new();
        let last = self.hidden.len();
        for (layer, &[units, width]) in shapes[..last].iter().enumerate() {
            let bound = 1.0 / (width as f64).sqrt();
            let mut rng = KeyedRng::new(&[self.seed, layer as u64]);
            let mut uniform = |n: usize| -> Vec<f32> {
                (0..n).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect()
            };
            let map = Affine::new(uniform(units * width), uniform(units), width)?;
            tensors.extend(map.tensors_with_prefix(&layer_prefix(layer))?);
        }
        tensors.extend(Affine::zeros(shapes[last][1], classes).tensors_with_prefix(&layer_prefix(last))?);
        Ok(tensors)
    }

    /// The logits `[N, C]` of features `[N, F]` with these `parameters` (the tensors of the layers), computed
    /// by candle's operations, so that candle can differentiate them in fine-tuning. With dropout in
    /// training, as `mode` says.
    fn forward(
        &self,
        parameters: &Tensors,
        features: &Tensor,
        mode: ForwardMode,
    ) -> Result<Tensor, HeadError> {
        let mut x = features.clone();
        for layer in 0..self.hidden.len() {
            x = Affine::forward(parameters, &layer_prefix(layer), &x)?.relu()?;
            if let (ForwardMode::Train { step }, Some(dropout)) = (mode, self.dropout()) {
                let (rows, units) = x.dims2()?;
                // The factor of each unit: 0 if it is dropped.
                let mut mask = vec![1.0; rows * units];
                for (row, mask) in mask.chunks_mut(units).enumerate() {
                    dropout.apply_to_row(step, layer, row, mask);
                }
                x = (&x * Tensor::from_vec(mask, (rows, units), &Device::Cpu)?)?;
            }
        }
        Affine::forward(parameters, &layer_prefix(self.hidden.len()), &x)
    }
}

impl MlpConfig {
    /// The numbers of outputs and inputs of each layer, first to last.
    fn layer_shapes(&self, features: usize, classes: usize) -> Vec<[usize; 2]> {
        let hidden = self.hidden.iter().map(|&units| usize::try_from(units).unwrap_or(usize::MAX));
        let sizes: Vec<usize> = [features].into_iter().chain(hidden).chain([classes]).collect();
        sizes.windows(2).map(|pair| [pair[1], pair[0]]).collect()
    }

    /// The keys that are shared with other heads.
    fn adamw_params(&self) -> AdamWParams {
        let &Self { lr, weight_decay, epochs, batch_size, validation, patience, seed, .. } = self;
        AdamWParams { lr, weight_decay, epochs, batch_size, validation, patience, seed }
    }

    /// The dropout after each hidden layer; `None` if its rate is 0.
    fn dropout(&self) -> Option<Dropout> {
        (self.dropout > 0.0).then_some(Dropout { rate: self.dropout, seed: self.seed })
    }
}

/// A fitted `mlp`: tensors `layers.0.weight` `[H, F]`, `layers.0.bias` `[H]`, and so on to the output layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpHead {
    layers: Vec<Affine>,
}

impl MlpHead {
    /// Adapts this loaded head as a warm start of a fit on these features: the first layer is converted to
    /// the prepared features; new classes are appended and start at 0, as in a new head. `tensors` are those
    /// that the head was loaded from; a layer in them that `hidden` lacks is an error.
    fn for_warm_start(
        mut self,
        tensors: &Tensors,
        prepared: &PreparedFeatures<'_>,
        classes: usize,
    ) -> Result<Self, HeadError> {
        let next_prefix = layer_prefix(self.layers.len());
        if let Some(name) = tensors.keys().find(|name| name.starts_with(&next_prefix)) {
            return Err(tensor_error(name, "belongs to a layer that is not in `hidden`".into()));
        }
        gradient::check_warm_start(&self, prepared.features().width(), classes)?;
        self.layers[0] = self.layers[0].for_prepared_features(prepared)?;
        let last = self.layers.pop().map(|last| last.with_classes(classes));
        self.layers.extend(last);
        Ok(self)
    }
}

/// Writes the logits `[n, C]` of the features `rows` `[n, F]` to `out`, on the calling thread: affine layers,
/// with a ReLU after each but the last. For prediction, so without dropout.
fn forward_layers(layers: &[PackedAffine<'_>], rows: &[f32], out: &mut [f32]) {
    let Some((last, hidden)) = layers.split_last() else { return };
    let n = out.len() / last.classes();
    let mut x = rows.to_vec();
    for layer in hidden {
        let mut y = vec![0.0; n * layer.classes()];
        layer.apply(&x, &mut y);
        for value in &mut y {
            *value = value.max(0.0);
        }
        x = y;
    }
    last.apply(&x, out);
}

impl Head for MlpHead {
    fn width(&self) -> usize {
        self.layers[0].width()
    }

    fn classes(&self) -> usize {
        self.layers[self.layers.len() - 1].classes()
    }

    /// Computes the logits of raw features, in parallel over blocks of rows. The weights of the layers are
    /// first copied into the order that matrix products need, once for all rows.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let layers: Vec<PackedAffine<'_>> = self.layers.iter().map(Affine::to_packed).collect();
        features.logits_by_block(self.width(), self.classes(), |rows, out| forward_layers(&layers, rows, out))
    }

    /// The weights and biases of all layers by name, such as `layers.0.weight`: what is saved of the head.
    fn tensors(&self) -> Result<Tensors, HeadError> {
        let mut tensors = Tensors::new();
        for (layer, affine) in self.layers.iter().enumerate() {
            tensors.extend(affine.tensors_with_prefix(&layer_prefix(layer))?);
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn mlp_passes_check_head() {
        check_head::<MlpConfig>();
    }

    #[test]
    fn a_deep_mlp_on_standardized_features_passes_check_head() {
        check_head_with(&MlpConfig { hidden: vec![32, 16], standardize: true, ..MlpConfig::default() });
    }

    #[test]
    fn tensors_of_another_shape_are_named() {
        let config = MlpConfig { hidden: vec![3], ..MlpConfig::default() };
        let other = MlpConfig { hidden: vec![4], ..MlpConfig::default() };
        let tensors = other.initial_parameters(2, 5).unwrap();
        let error = config.load(&tensors).unwrap_err().to_string();
        assert!(
            error.contains("`layers.0.weight` does not match the layer of 3 units in `hidden`"),
            "{error}"
        );
        let mut missing = config.initial_parameters(2, 5).unwrap();
        missing.remove("layers.1.bias");
        let error = config.load(&missing).unwrap_err().to_string();
        assert!(error.contains("tensor `layers.1.bias` is missing"), "{error}");
    }

    /// Uniform features `[150, 6]` from 0 to 1; the feature of the class, 0 to 2, is higher by 1.
    fn shifted_uniform() -> (Vec<f32>, Vec<u32>) {
        let mut rng = KeyedRng::new(&[8]);
        let labels: Vec<u32> = (0..150).map(|i| i % 3).collect();
        let row = |&label: &u32| -> Vec<f32> {
            (0..6).map(|f| rng.uniform() as f32 + if f == label { 1.0 } else { 0.0 }).collect()
        };
        (labels.iter().flat_map(row).collect(), labels)
    }

    fn small_config() -> MlpConfig {
        MlpConfig { hidden: vec![16], epochs: 3, dropout: 0.0, lr: 1e-4, ..MlpConfig::default() }
    }

    #[test]
    fn a_warm_start_continues_with_new_classes_at_zero() {
        let (values, labels) = shifted_uniform();
        for standardize in [false, true] {
            let config = MlpConfig { standardize, ..small_config() };
            // Photos of the first two classes only, then of all three.
            let two: Vec<usize> = (0..150).filter(|&row| labels[row] < 2).collect();
            let values_of_two: Vec<f32> =
                two.iter().flat_map(|&row| &values[row * 6..row * 6 + 6]).copied().collect();
            let labels_of_two: Vec<u32> = two.iter().map(|&row| labels[row]).collect();
            let features = FeatureMatrix::new(&values_of_two, 6).unwrap();
            let first = TrainingSet::new(features, &labels_of_two, 2).unwrap();
            let long = MlpConfig { epochs: 60, lr: 1e-2, ..config.clone() };
            let start = long.fit(&first, &FitContext::silent()).unwrap().head.tensors().unwrap();

            let all = TrainingSet::new(FeatureMatrix::new(&values, 6).unwrap(), &labels, 3).unwrap();
            let cold = config.fit(&all, &FitContext::silent()).unwrap().history.rows;
            let warm = config.fit(&all, &FitContext::silent().with_warm_start(&start)).unwrap();
            assert_eq!(warm.head.classes(), 3);
            // With a vanishing learning rate the head must not change.
            let frozen_config = MlpConfig { lr: 1e-30, ..config.clone() };
            let unmoved =
                frozen_config.fit(&first, &FitContext::silent().with_warm_start(&start)).unwrap().head;
            let before = config.load(&start).unwrap().logits(features).unwrap();
            let after = unmoved.logits(features).unwrap();
            for (a, b) in before.as_slice().iter().zip(after.as_slice()) {
                assert!((a - b).abs() < 1e-4, "{a} and {b}");
            }
            // And the two classes are separated from the first epoch on.
            let again =
                config.fit(&first, &FitContext::silent().with_warm_start(&start)).unwrap().history.rows;
            assert!(again[0][1] < 0.2, "{again:?}");
            assert!(cold[0][1] > 1.0, "{cold:?}");
        }
    }

    #[test]
    fn an_incompatible_warm_start_is_refused_with_the_reason() {
        let (values, labels) = shifted_uniform();
        let data = TrainingSet::new(FeatureMatrix::new(&values, 6).unwrap(), &labels, 3).unwrap();
        let refusal = |hidden: &[u64], width: usize, classes: usize| {
            let other = MlpConfig { hidden: hidden.to_vec(), ..small_config() };
            let start = other.initial_parameters(width, classes).unwrap();
            small_config().fit(&data, &FitContext::silent().with_warm_start(&start)).unwrap_err().to_string()
        };
        for (refusal, expected) in [
            (
                refusal(&[8], 6, 3),
                "tensor `layers.0.weight` does not match the layer of 16 units in `hidden`",
            ),
            (refusal(&[16, 8], 6, 3), "tensor `layers.2.bias` belongs to a layer that is not in `hidden`"),
            (refusal(&[16], 5, 3), "the head expects 5 features per photo, but the data has 6"),
            (refusal(&[16], 6, 4), "the earlier head has more classes (4) than the data (3)"),
        ] {
            assert!(refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn memory_is_a_multiple_of_the_parameter_count() {
        let shape = HeadShape { samples: 100_000, features: 2048, classes: 1000 };
        let plain = MlpConfig::default().memory_bytes(shape);
        let parameters = 4 * (512 * 2049 + 1000 * 513);
        assert!((5 * parameters..10 * parameters).contains(&plain), "{plain}");
        let standardized = MlpConfig { standardize: true, ..MlpConfig::default() }.memory_bytes(shape);
        assert_eq!(standardized - plain, 100_000 * 2048 * 4);
    }
}
