//! The head `mlp`: a multi-layer perceptron.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::{Affine, BIAS, PackedAffine, WEIGHT, problem};
use crate::check::{at_least_one, fraction, not_negative, positive, require};
use crate::data::{ClassWeight, Features, Logits, TrainingSet};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, Parameter, Tensors};
use crate::random::Keyed;
use crate::solver::gradient::{self, EarlyStopping, Recipe, Samples};
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
    /// Learning rate of AdamW.
    pub lr: f64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// Passes over the samples, at most.
    pub epochs: u64,
    /// Samples in a step.
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
            dropout: 0.2,
            lr: 3e-4,
            weight_decay: 0.01,
            epochs: 200,
            batch_size: 128,
            validation: 0.1,
            patience: 5,
            class_weight: ClassWeight::None,
            standardize: false,
            seed: 0,
        }
    }
}

impl HeadConfig for MlpConfig {
    const KIND: &'static str = "mlp";
    const ABOUT: &'static str = "multi-layer perceptron with dropout, stopped early";
    const PARAMETERS: &'static [Parameter] = &[
        ("hidden", "units of each hidden layer"),
        ("dropout", "part of the hidden units that each step leaves out"),
        ("lr", "learning rate of AdamW"),
        ("weight_decay", "decoupled weight decay of AdamW"),
        ("epochs", "passes over the samples, at most"),
        ("batch_size", "samples in a step"),
        ("validation", "part of each class's photos held out to see when to stop; 0 runs all epochs"),
        ("patience", "epochs without a lower loss on what is held out, after which to stop"),
        ("class_weight", "\"none\", or \"balanced\": a rare class counts as much as a frequent one"),
        ("standardize", "bring each feature to mean 0 and variance 1 first"),
        ("seed", "another seed: other weights to start from, another order, other photos held out"),
    ];
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
        positive("lr", self.lr)?;
        not_negative("weight_decay", self.weight_decay)?;
        at_least_one("epochs", self.epochs)?;
        at_least_one("batch_size", self.batch_size)?;
        fraction("validation", self.validation)?;
        at_least_one("patience", self.patience)
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<MlpHead>, HeadError> {
        let prepared = Prepared::new(data.features(), self.standardize);
        let early_stopping = EarlyStopping { validation: self.validation, patience: self.patience };
        let recipe = Recipe {
            lr: self.lr,
            weight_decay: self.weight_decay,
            penalty: 0.0,
            epochs: self.epochs,
            batch_size: usize::try_from(self.batch_size).unwrap_or(usize::MAX),
            seed: self.seed,
            early_stopping: (self.validation > 0.0).then_some(early_stopping),
        };
        let class_weights = data.class_weights(self.class_weight);
        let samples = Samples { data, features: prepared.features(), class_weights: &class_weights };
        let initial = self.initial(data.features().width(), data.classes())?;
        let (parameters, history) = gradient::fit(self, &initial, samples, &recipe, context)?;
        let MlpHead { mut layers } = self.load(&parameters)?;
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
            if let Mode::Train { step } = mode
                && self.dropout > 0.0
            {
                x = (&x * self.mask(x.dims(), &[self.seed, step, layer as u64])?)?;
            }
        }
        Affine::forward(parameters, &prefix(self.hidden.len()), &x)
    }
}

impl MlpConfig {
    /// 0 where a unit is left out, and what keeps the mean elsewhere.
    fn mask(&self, shape: &[usize], key: &[u64]) -> Result<Tensor, HeadError> {
        let mut random = Keyed::new(key);
        let kept = (1.0 / (1.0 - self.dropout)) as f32;
        let draw = |_| if random.uniform() < self.dropout { 0.0 } else { kept };
        let mask: Vec<f32> = (0..shape.iter().product()).map(draw).collect();
        Ok(Tensor::from_vec(mask, shape, &Device::Cpu)?)
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
    fn dropout_leaves_out_its_share_and_keeps_the_mean() {
        let config = MlpConfig { dropout: 0.3, ..MlpConfig::default() };
        let mask = |step: u64| {
            config.mask(&[100, 100], &[0, step, 0]).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let values: Vec<f32> = mask(0);
        let dropped = values.iter().filter(|&&value| value == 0.0).count();
        assert!((2800..3200).contains(&dropped), "{dropped} of 10000");
        assert!(values.iter().all(|&value| value == 0.0 || value == 1.0 / 0.7));
        assert_ne!(values, mask(1));
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
}
