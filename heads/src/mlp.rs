//! The head `mlp`: a multi-layer perceptron.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::{Affine, BIAS, PackedAffine, WEIGHT, problem};
use crate::check::{fraction, require};
use crate::data::{ClassWeight, Features, Logits, TrainingSet};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, Parameter, Shape, Tensors};
use crate::keys::{self, Training};
use crate::random::Keyed;
use crate::solver::gradient::stack::{Dropout, Stack};
use crate::solver::gradient::{self, Samples};
use crate::standardize::Prepared;

/// Rows that a thread takes at a time.
const BLOCK: usize = 64;

/// `[head]` with `kind = "mlp"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Units of each hidden layer.
    pub hidden: Vec<u64>,
    /// Part of the hidden units that each step leaves out.
    pub dropout: f64,
    /// Learning rate of AdamW, the highest of the schedule: up to it along a line in a tenth of all steps, then down
    /// along half a cosine.
    pub lr: f64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// Passes over the samples, at most.
    pub epochs: u64,
    /// Samples in a step, at most: an epoch has 16 steps or more.
    pub batch_size: u64,
    /// Part of the photos of each class that is held out, to see when to stop; 0 runs all epochs.
    pub validation: f64,
    /// Epochs without a lower loss on what is held out, after which to stop.
    pub patience: u64,
    /// How much a class counts.
    pub class_weight: ClassWeight,
    /// Whether features are brought to mean 0 and variance 1 first.
    pub standardize: bool,
    /// Key of all that is random.
    pub seed: u64,
}

impl Default for MlpConfig {
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
    const ABOUT: &'static str = "multi-layer perceptron with dropout";
    const PARAMETERS: &'static [Parameter] = &[
        ("hidden", "units of each hidden layer"),
        ("dropout", "part of the hidden units that each step leaves out"),
        keys::LR,
        keys::WEIGHT_DECAY,
        keys::EPOCHS,
        keys::BATCH_SIZE,
        keys::VALIDATION,
        keys::PATIENCE,
        keys::CLASS_WEIGHT,
        keys::STANDARDIZE,
        ("seed", "another seed: other weights to start from, another order, other photos held out"),
    ];
    const WARM: bool = true;
    type Head = MlpHead;

    fn check(&self) -> Result<(), HeadError> {
        let layers =
            self.hidden.len() == self.hidden.iter().filter(|&&units| (1..=1 << 20).contains(&units)).count();
        let hidden = format!("{:?}", self.hidden);
        require(
            layers && !self.hidden.is_empty(),
            "hidden",
            &hidden,
            "must be layers of 1 to 1048576 units, at least one",
        )?;
        fraction("dropout", self.dropout)?;
        self.training().check()
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<MlpHead>, HeadError> {
        let prepared = Prepared::new(data.features(), self.standardize);
        let recipe = self.training().recipe(data.labels().len());
        let class_weights = data.class_weights(self.class_weight);
        let samples = Samples { data, features: prepared.features(), class_weights: &class_weights };
        let (width, classes) = (data.features().width(), data.classes());
        let MlpHead { layers } = match context.start {
            Some(start) => self.load(start)?.continued_on(start, &prepared, classes)?,
            None => self.load(&self.initial(width, classes)?)?,
        };
        let stack = Stack::new(layers, self.dropout());
        let (mut layers, history) = gradient::fit(stack, samples, &recipe, context)?;
        layers[0] = layers[0].of_raw_features(&prepared)?;
        Ok(Fitted::with_history(MlpHead { layers }, history))
    }

    fn load(&self, tensors: &Tensors) -> Result<MlpHead, HeadError> {
        let layers = (0..=self.hidden.len()).map(|layer| Affine::load(tensors, &prefix(layer)));
        let layers: Vec<Affine> = layers.collect::<Result<_, _>>()?;
        for (layer, &units) in self.hidden.iter().enumerate() {
            if layers[layer].classes() as u64 != units || layers[layer + 1].width() as u64 != units {
                let name = format!("{}{WEIGHT}", prefix(layer));
                return Err(problem(&name, format!("does not lead to {units} units, as `hidden` says")));
            }
        }
        Ok(MlpHead { layers })
    }

    fn grid(&self) -> Vec<Self> {
        let wide = self.hidden.iter().map(|units| 2 * units).collect();
        vec![
            self.clone(),
            Self { dropout: 0.5 * self.dropout, ..self.clone() },
            Self { hidden: wide, ..self.clone() },
        ]
    }

    fn memory(&self, shape: Shape) -> u64 {
        let mut width = shape.features;
        let mut maps = Vec::new();
        for units in self.hidden.iter().map(|&units| usize::try_from(units).unwrap_or(usize::MAX)) {
            maps.push([units, width]);
            width = units;
        }
        maps.push([shape.classes, width]);
        let copy = if self.standardize { shape.samples.saturating_mul(shape.features) } else { 0 };
        let copy = (copy as u64).saturating_mul(size_of::<f32>() as u64);
        Stack::memory(&maps, gradient::batch_size(self.batch_size, shape.samples)).saturating_add(copy)
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

/// What the names of a layer's tensors start with.
fn prefix(layer: usize) -> String {
    format!("layers.{layer}.")
}

impl Differentiable for MlpConfig {
    /// Hidden layers as PyTorch's `nn.Linear` starts: uniform within `1/√F` around 0. The last layer starts
    /// at 0, as is usual when a head is grafted on a pretrained network, so that no class is preferred.
    fn initial(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        let mut tensors = Tensors::new();
        let mut width = width;
        for (layer, &units) in self.hidden.iter().enumerate() {
            let units = usize::try_from(units).unwrap_or(usize::MAX);
            let bound = 1.0 / (width as f64).sqrt();
            let mut random = Keyed::new(&[self.seed, layer as u64]);
            let mut uniform = |n: usize| -> Vec<f32> {
                (0..n).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect()
            };
            let weight = Tensor::from_vec(uniform(units * width), (units, width), &Device::Cpu)?;
            let bias = Tensor::from_vec(uniform(units), units, &Device::Cpu)?;
            tensors.extend([(prefix(layer) + WEIGHT, weight), (prefix(layer) + BIAS, bias)]);
            width = units;
        }
        let last = prefix(self.hidden.len());
        let weight = Tensor::zeros((classes, width), DType::F32, &Device::Cpu)?;
        let bias = Tensor::zeros(classes, DType::F32, &Device::Cpu)?;
        tensors.extend([(format!("{last}{WEIGHT}"), weight), (format!("{last}{BIAS}"), bias)]);
        Ok(tensors)
    }

    fn forward(&self, parameters: &Tensors, features: &Tensor, mode: Mode) -> Result<Tensor, HeadError> {
        let mut x = features.clone();
        for layer in 0..self.hidden.len() {
            x = Affine::forward(parameters, &prefix(layer), &x)?.relu()?;
            if let (Mode::Train { step }, Some(dropout)) = (mode, self.dropout()) {
                let (rows, units) = x.dims2()?;
                let mut mask = vec![1.0; rows * units];
                for (row, mask) in mask.chunks_mut(units).enumerate() {
                    dropout.apply(step, layer, row, mask);
                }
                x = (&x * Tensor::from_vec(mask, (rows, units), &Device::Cpu)?)?;
            }
        }
        Affine::forward(parameters, &prefix(self.hidden.len()), &x)
    }
}

impl MlpConfig {
    fn training(&self) -> Training {
        let &Self { lr, weight_decay, epochs, batch_size, validation, patience, seed, .. } = self;
        Training { lr, weight_decay, epochs, batch_size, validation, patience, seed }
    }

    fn dropout(&self) -> Option<Dropout> {
        (self.dropout > 0.0).then_some(Dropout { part: self.dropout, seed: self.seed })
    }
}

/// A fitted `mlp`: tensors `layers.0.weight` `[H, F]`, `layers.0.bias` `[H]`, and so on to the layer of the
/// classes.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpHead {
    layers: Vec<Affine>,
}

impl MlpHead {
    fn last(&self) -> &Affine {
        &self.layers[self.layers.len() - 1]
    }

    /// Where a fit on these features begins: this head with further classes after its own, which start as a fresh
    /// head's do. `tensors` are those that it was loaded from.
    fn continued_on(
        mut self,
        tensors: &Tensors,
        prepared: &Prepared<'_>,
        classes: usize,
    ) -> Result<Self, HeadError> {
        let other = prefix(self.layers.len());
        if let Some(name) = tensors.keys().find(|name| name.starts_with(&other)) {
            return Err(problem(name, "is of a layer that `hidden` does not have".into()));
        }
        gradient::check_start([self.width(), self.classes()], [prepared.features().width(), classes])?;
        self.layers[0] = self.layers[0].of_prepared_features(prepared)?;
        let last = self.layers.pop().map(|last| last.with_classes(classes));
        self.layers.extend(last);
        Ok(self)
    }
}

/// `rows` `[n, F]` through the layers to `out` `[n, C]`, on this thread.
fn apply(layers: &[PackedAffine<'_>], rows: &[f32], out: &mut [f32]) {
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
        self.last().classes()
    }

    fn logits(&self, features: Features<'_>) -> Result<Logits, HeadError> {
        features.expect_width(self.width())?;
        let mut out = vec![0.0; features.len() * self.classes()];
        let layers: Vec<PackedAffine<'_>> = self.layers.iter().map(Affine::packed).collect();
        let blocks = features.as_slice().par_chunks(BLOCK * self.width());
        out.par_chunks_mut(BLOCK * self.classes())
            .zip(blocks)
            .for_each(|(out, rows)| apply(&layers, rows, out));
        Logits::new(out, self.classes())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        let mut tensors = Tensors::new();
        for (layer, map) in self.layers.iter().enumerate() {
            tensors.extend(map.prefixed(&prefix(layer))?);
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn mlp_keeps_the_laws_of_heads() {
        check_head::<MlpConfig>();
    }

    #[test]
    fn a_deep_mlp_on_standardised_features_keeps_the_laws_of_heads() {
        check_head_with(&MlpConfig { hidden: vec![32, 16], standardize: true, ..MlpConfig::default() });
    }

    #[test]
    fn tensors_of_another_shape_are_named() {
        let config = MlpConfig { hidden: vec![3], ..MlpConfig::default() };
        let other = MlpConfig { hidden: vec![4], ..MlpConfig::default() };
        let tensors = other.initial(2, 5).unwrap();
        let error = config.load(&tensors).unwrap_err().to_string();
        assert_eq!(error, "tensor `layers.0.weight`: does not lead to 3 units, as `hidden` says");
        let mut missing = config.initial(2, 5).unwrap();
        missing.remove("layers.1.bias");
        assert_eq!(config.load(&missing).unwrap_err().to_string(), "tensor `layers.1.bias`: is missing");
    }

    /// Features `[150, 6]` from 0 to 1, where one of them is higher: that of the class, from 0 to 2.
    fn clouds() -> (Vec<f32>, Vec<u32>) {
        let mut random = Keyed::new(&[8]);
        let labels: Vec<u32> = (0..150).map(|i| i % 3).collect();
        let row = |&label: &u32| -> Vec<f32> {
            (0..6).map(|f| random.uniform() as f32 + if f == label { 1.0 } else { 0.0 }).collect()
        };
        (labels.iter().flat_map(row).collect(), labels)
    }

    fn small() -> MlpConfig {
        MlpConfig { hidden: vec![16], epochs: 3, dropout: 0.0, lr: 1e-4, ..MlpConfig::default() }
    }

    #[test]
    fn a_fit_from_another_head_goes_on_where_that_one_was_with_new_classes_at_0() {
        let (values, labels) = clouds();
        for standardize in [false, true] {
            let config = MlpConfig { standardize, ..small() };
            // Photos of the first two classes alone, then of all three.
            let two: Vec<usize> = (0..150).filter(|&row| labels[row] < 2).collect();
            let values_of_two: Vec<f32> =
                two.iter().flat_map(|&row| &values[row * 6..row * 6 + 6]).copied().collect();
            let labels_of_two: Vec<u32> = two.iter().map(|&row| labels[row]).collect();
            let features = Features::new(&values_of_two, 6).unwrap();
            let first = TrainingSet::new(features, &labels_of_two, 2).unwrap();
            let long = MlpConfig { epochs: 60, lr: 1e-2, ..config.clone() };
            let start = long.fit(&first, &FitContext::quiet()).unwrap().head.tensors().unwrap();

            let all = TrainingSet::new(Features::new(&values, 6).unwrap(), &labels, 3).unwrap();
            let cold = config.fit(&all, &FitContext::quiet()).unwrap().history.rows;
            let warm = config.fit(&all, &FitContext::quiet().starting_from(&start)).unwrap();
            assert_eq!(warm.head.classes(), 3);
            // Where all stays as it was, the loss would be that of the start.
            let still = MlpConfig { lr: 1e-30, ..config.clone() };
            let unmoved = still.fit(&first, &FitContext::quiet().starting_from(&start)).unwrap().head;
            let before = config.load(&start).unwrap().logits(features).unwrap();
            let after = unmoved.logits(features).unwrap();
            for (a, b) in before.as_slice().iter().zip(after.as_slice()) {
                assert!((a - b).abs() < 1e-4, "{a} and {b}");
            }
            // And the photos of the two classes are told apart from the first epoch on.
            let again = config.fit(&first, &FitContext::quiet().starting_from(&start)).unwrap().history.rows;
            assert!(again[0][1] < 0.2, "{again:?}");
            assert!(cold[0][1] > 1.0, "{cold:?}");
        }
    }

    #[test]
    fn a_start_that_does_not_fit_is_refused_with_the_reason() {
        let (values, labels) = clouds();
        let data = TrainingSet::new(Features::new(&values, 6).unwrap(), &labels, 3).unwrap();
        let refusal = |hidden: &[u64], width: usize, classes: usize| {
            let other = MlpConfig { hidden: hidden.to_vec(), ..small() };
            let start = other.initial(width, classes).unwrap();
            small().fit(&data, &FitContext::quiet().starting_from(&start)).unwrap_err().to_string()
        };
        let units = "tensor `layers.0.weight`: does not lead to 16 units, as `hidden` says";
        assert_eq!(refusal(&[8], 6, 3), units);
        let deeper = "tensor `layers.2.bias`: is of a layer that `hidden` does not have";
        assert_eq!(refusal(&[16, 8], 6, 3), deeper);
        assert_eq!(refusal(&[16], 5, 3), "the head takes 5 features a photo, these have 6");
        let classes = "the head to start from tells 4 classes apart, the data has 3: its classes must be the first of them";
        assert_eq!(refusal(&[16], 6, 4), classes);
    }

    #[test]
    fn the_memory_of_a_fit_is_that_of_its_parameters_times_what_is_kept_of_each() {
        let shape = Shape { samples: 100_000, features: 2048, classes: 1000 };
        let plain = MlpConfig::default().memory(shape);
        let parameters = 4 * (512 * 2049 + 1000 * 513);
        assert!((5 * parameters..10 * parameters).contains(&plain), "{plain}");
        let standardized = MlpConfig { standardize: true, ..MlpConfig::default() }.memory(shape);
        assert_eq!(standardized - plain, 100_000 * 2048 * 4);
    }
}
