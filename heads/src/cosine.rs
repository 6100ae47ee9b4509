//! The head `cosine`: softmax over cosine similarities with a learned scale.

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::WEIGHT;
use crate::check::require_positive;
use crate::data::{ClassWeight, FeatureMatrix, Logits, TrainingSet};
use crate::differentiable::{Differentiable, ForwardMode};
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape};
use crate::params::AdamWParams;
use crate::solver::gradient::cosine_learner::{CosineLearner, MIN_NORM, clamped_norm};
use crate::solver::gradient::{self, WeightedSamples};
use crate::tensors::{Tensors, f32_matrix, f32_tensor, tensor_error};

/// Name of the scalar tensor that holds the logarithm of the scale.
const LOG_SCALE: &str = "log_scale";

/// `[head]` with `kind = "cosine"`: `logit_c = s · cos(features, w_c)` with one learned scale
/// `s = exp(log_scale)` for all classes (NormFace, Wang et al. 2017; the cosine classifier of Gidaris and
/// Komodakis, CVPR 2018). The norm of the features does not matter.
///
/// Rows of features and of weights are divided by their norm, but by at least 1e-12: all-zero features have
/// the logit 0 for every class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {
    /// Initial value of the learned scale `s`, greater than 0: a larger scale gives more confident
    /// predictions.
    pub scale: f64,
    /// Peak learning rate of AdamW: linear warmup over a tenth of all steps, then cosine decay.
    pub lr: f64,
    /// Decoupled weight decay of AdamW, at least 0; the scale does not decay.
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
    /// Random seed of the order of the photos and of the held-out ones.
    pub seed: u64,
}

impl Default for CosineConfig {
    /// The hyperparameters of a `cosine` head when the config does not set them.
    fn default() -> Self {
        Self {
            scale: 20.0,
            lr: 3e-3,
            weight_decay: 0.01,
            epochs: 15,
            batch_size: 128,
            validation: 0.0,
            patience: 5,
            class_weight: ClassWeight::None,
            seed: 0,
        }
    }
}

impl HeadConfig for CosineConfig {
    const KIND: &'static str = "cosine";
    const ABOUT: &'static str = "softmax of cosine similarities with a learned scale";
    const SUPPORTS_WARM_START: bool = true;
    type Head = CosineHead;

    /// Checks that the hyperparameters are in range.
    fn check(&self) -> Result<(), HeadError> {
        require_positive("scale", self.scale)?;
        self.adamw_params().check()
    }

    /// Fits the weights and the scale with AdamW, from a warm start if `context` has one, otherwise from the
    /// initial parameters.
    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<CosineHead>, HeadError> {
        let recipe = self.adamw_params().recipe(data.labels().len());
        let class_weights = data.class_weights(self.class_weight);
        let samples = WeightedSamples { data, features: data.features(), class_weights: &class_weights };
        let initial_head = self.load(&self.initial_parameters(data.features().width(), data.classes())?)?;
        let initial = match context.warm_start {
            Some(warm_start) => self.load(warm_start)?.with_new_classes_from(&initial_head)?,
            None => initial_head,
        };
        let width = initial.width;
        let learner = CosineLearner::new(initial.weight, initial.log_scale, width);
        let ((weight, log_scale), history) = gradient::fit(learner, samples, &recipe, context)?;
        let head = CosineHead { weight, log_scale, width };
        match head.non_finite_tensor() {
            None => Ok(Fitted::with_history(head, history)),
            Some(name) => Err(HeadError::Diverged(format!(
                "the fitted `{name}` is too large for 32-bit numbers: lower `lr`"
            ))),
        }
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<CosineHead, HeadError> {
        let (weight, _, width) = f32_matrix(tensors, WEIGHT)?;
        let log_scale = f32_tensor(tensors, LOG_SCALE)?;
        if log_scale.rank() != 0 {
            return Err(tensor_error(
                LOG_SCALE,
                format!("has shape {:?}, expected a scalar", log_scale.dims()),
            ));
        }
        let head = CosineHead { weight, log_scale: log_scale.to_scalar()?, width };
        match head.non_finite_tensor() {
            None => Ok(head),
            Some(name) => Err(tensor_error(name, "contains a NaN or an infinite value".into())),
        }
    }

    /// The configurations that the command `compare` fits to find the best: this one, and
    /// the same with three times the learning rate.
    fn candidate_configs(&self) -> Vec<Self> {
        // Rounded to 9 decimals, so that tables show 0.009, not 0.009000000000000001.
        let tripled_lr = (3e9 * self.lr).round() / 1e9;
        [self.lr, tripled_lr].map(|lr| Self { lr, ..self.clone() }).into()
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, to warn the user before it starts.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let rows = gradient::effective_batch_size(self.batch_size, shape.samples);
        CosineLearner::memory_bytes(shape.classes, shape.features, rows)
    }

    /// The head as a function that candle differentiates, for fine-tuning a backbone.
    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl CosineConfig {
    /// The hyperparameters of the optimizer AdamW, which other heads have too.
    fn adamw_params(&self) -> AdamWParams {
        let &Self { lr, weight_decay, epochs, batch_size, validation, patience, seed, .. } = self;
        AdamWParams { lr, weight_decay, epochs, batch_size, validation, patience, seed }
    }
}

impl Differentiable for CosineConfig {
    /// The parameters at the start of a fit, for `F = width` features and `C = classes`. Every class has the
    /// same unit vector as weights, along the diagonal, so that no class is preferred.
    fn initial_parameters(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        let weight = Tensor::full((1.0 / (width as f64).sqrt()) as f32, (classes, width), &Device::Cpu)?;
        let log_scale = Tensor::new(self.scale.ln() as f32, &Device::Cpu)?;
        Ok(Tensors::from([(WEIGHT.into(), weight), (LOG_SCALE.into(), log_scale)]))
    }

    /// Computes the logits `[N, C]` of features `[N, F]`, cosine similarities times the scale, in operations
    /// that candle can differentiate. Nothing is random, so the mode has no effect.
    fn forward(&self, parameters: &Tensors, features: &Tensor, _: ForwardMode) -> Result<Tensor, HeadError> {
        let weight = f32_tensor(parameters, WEIGHT)?;
        let directions = weight.broadcast_div(&row_norms(weight)?)?;
        // Dividing the products by the norms is cheaper than normalizing the features.
        let cosines = features.matmul(&directions.t()?)?.broadcast_div(&row_norms(features)?)?;
        Ok(cosines.broadcast_mul(&f32_tensor(parameters, LOG_SCALE)?.exp()?)?)
    }
}

/// The norm of each row, `[n, 1]`, but at least [`MIN_NORM`]. That floor is applied under the root, because
/// the gradient of the root at 0 is not finite.
fn row_norms(rows: &Tensor) -> Result<Tensor, HeadError> {
    Ok(rows.sqr()?.sum_keepdim(1)?.maximum(MIN_NORM * MIN_NORM)?.sqrt()?)
}

/// A fitted `cosine` head: tensors `weight` `[C, F]` and scalar `log_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct CosineHead {
    /// `[C, F]`, row-major; not normalized.
    weight: Vec<f32>,
    /// Logarithm of the scale `s`.
    log_scale: f32,
    /// Number of features, `F`.
    width: usize,
}

impl CosineHead {
    /// The name of a tensor that has a NaN or an infinite value, if any, for the error message of a damaged
    /// file or a fit that diverged. The scale must be finite, too, not only its logarithm.
    fn non_finite_tensor(&self) -> Option<&'static str> {
        if self.weight.iter().any(|w| !w.is_finite()) {
            return Some(WEIGHT);
        }
        (!self.log_scale.exp().is_finite()).then_some(LOG_SCALE)
    }

    /// This earlier head as the start of a fit on data with more classes: keeps its weights and scale, and
    /// appends the weights of the new classes from `initial`, an unfitted head for all classes of the data.
    fn with_new_classes_from(mut self, initial: &Self) -> Result<Self, HeadError> {
        gradient::check_warm_start(&self, initial.width, initial.classes())?;
        self.weight.extend_from_slice(&initial.weight[self.weight.len()..]);
        Ok(self)
    }

    /// The normalized weights of each class times the scale, `s · w_c / |w_c|`, `[C, F]`. The dot product of
    /// such a row with a row of features, divided by the norm of the features, is the logit of class `c`.
    fn scaled_directions(&self) -> Vec<f64> {
        let scale = f64::from(self.log_scale).exp();
        let rows = self.weight.chunks_exact(self.width);
        rows.flat_map(|row| {
            let factor = scale / clamped_norm(row);
            row.iter().map(move |&w| factor * f64::from(w))
        })
        .collect()
    }
}

impl Head for CosineHead {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.weight.len() / self.width
    }

    /// The logits `[N, C]` of features `[N, F]`, cosine similarities times the scale, in parallel over blocks
    /// of rows. Sums are computed in `f64`, in an order that depends on `F` only: the logits of a row do not
    /// depend on the other rows.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let classes = self.classes();
        let packed = PackedWeights::pack(&self.scaled_directions(), self.width);
        features.logits_by_block(self.width, classes, |rows, out| {
            let mut sums = vec![0.0; out.len()];
            packed.multiply(rows, &mut sums);
            let rows = rows.chunks_exact(self.width).zip(sums.chunks_exact(classes));
            for (out, (row, sums)) in out.chunks_exact_mut(classes).zip(rows) {
                let norm = clamped_norm(row);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum / norm) as f32;
                }
            }
        })
    }

    /// The tensors to save: `weight` `[C, F]` and the scalar `log_scale`.
    fn tensors(&self) -> Result<Tensors, HeadError> {
        let weight = Tensor::from_slice(&self.weight, (self.classes(), self.width), &Device::Cpu)?;
        let log_scale = Tensor::new(self.log_scale, &Device::Cpu)?;
        Ok(Tensors::from([(WEIGHT.into(), weight), (LOG_SCALE.into(), log_scale)]))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn cosine_passes_check_head() {
        check_head::<CosineConfig>();
    }

    #[test]
    fn cosine_with_early_stopping_passes_check_head() {
        check_head_with(&CosineConfig { validation: 0.1, scale: 5.0, ..CosineConfig::default() });
    }

    fn head() -> CosineHead {
        CosineHead { weight: vec![3.0, 4.0, 0.0, -2.0], log_scale: 10f32.ln(), width: 2 }
    }

    #[test]
    fn logits_are_cosines_times_the_scale_whatever_the_norms() {
        let logits =
            head().logits(FeatureMatrix::new(&[1.0, 0.0, 60.0, 80.0, 0.0, 1e-9], 2).unwrap()).unwrap();
        for (found, expected) in logits.as_slice().iter().zip([6.0, 0.0, 10.0, -8.0, 8.0, -10.0]) {
            assert!((found - expected).abs() < 1e-5, "{logits:?}");
        }
    }

    #[test]
    fn all_zero_features_have_equal_logits() {
        let logits = head().logits(FeatureMatrix::new(&[0.0, 0.0], 2).unwrap()).unwrap();
        assert_eq!(logits.as_slice(), [0.0, 0.0]);
    }

    /// Six directions, two per class.
    const VALUES: [f32; 12] = [1.0, 0.1, 2.0, 0.0, 0.1, 1.0, 0.0, 3.0, -1.0, 0.2, -2.0, 0.1];

    #[test]
    fn features_near_the_end_of_f32_are_fitted_as_their_directions() {
        let labels = [0, 0, 1, 1, 2, 2];
        let fit = |values: &[f32]| {
            let data = TrainingSet::new(FeatureMatrix::new(values, 2).unwrap(), &labels, 3).unwrap();
            *CosineConfig::default().fit(&data, &FitContext::silent()).unwrap().head
        };
        let huge = VALUES.map(|value| value * 2f32.powi(126));
        assert_eq!(fit(&huge).weight, fit(&VALUES).weight);
    }

    #[test]
    fn a_warm_start_continues_with_initial_directions_for_new_classes() {
        let features = FeatureMatrix::new(&VALUES[..8], 2).unwrap();
        let first = TrainingSet::new(features, &[0, 0, 1, 1], 2).unwrap();
        let all = TrainingSet::new(FeatureMatrix::new(&VALUES, 2).unwrap(), &[0, 0, 1, 1, 2, 2], 3).unwrap();
        let config = CosineConfig { lr: 1e-30, weight_decay: 0.0, ..CosineConfig::default() };
        let long = CosineConfig { epochs: 100, lr: 0.03, ..config.clone() };
        let before = *long.fit(&first, &FitContext::silent()).unwrap().head;
        let start = before.tensors().unwrap();
        let after = config.fit(&all, &FitContext::silent().with_warm_start(&start)).unwrap();
        let initial_weight = (0.5f32).sqrt();
        assert_eq!(after.head.weight, [&before.weight[..], &[initial_weight, initial_weight]].concat());
        assert_eq!(after.head.log_scale, before.log_scale);
        let cold = config.fit(&first, &FitContext::silent()).unwrap().history.rows;
        let warm = config.fit(&first, &FitContext::silent().with_warm_start(&start)).unwrap().history.rows;
        assert!(warm[0][1] < 0.1 * cold[0][1], "{warm:?} and {cold:?}");

        let wide = CosineHead { width: 4, ..before.clone() }.tensors().unwrap();
        let error = config.fit(&all, &FitContext::silent().with_warm_start(&wide)).unwrap_err();
        assert!(
            error.to_string().starts_with("the head expects 4 features per photo, but the data has 2"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_misshapen_or_mistyped_tensor_is_named() {
        let good = head().tensors().unwrap();
        let cases = [
            (LOG_SCALE, None, "`log_scale` is missing"),
            (
                LOG_SCALE,
                Some(Tensor::zeros(1, DType::F32, &Device::Cpu)),
                "`log_scale` has shape [1], expected a scalar",
            ),
            (
                LOG_SCALE,
                Some(Tensor::new(100f32, &Device::Cpu)),
                "`log_scale` contains a NaN or an infinite value",
            ),
            (
                WEIGHT,
                Some(Tensor::zeros(6, DType::F32, &Device::Cpu)),
                "`weight` has shape [6], expected [classes, features]",
            ),
            (WEIGHT, Some(Tensor::zeros((2, 2), DType::F64, &Device::Cpu)), "`weight` is f64, expected f32"),
        ];
        for (name, replacement, message) in cases {
            let mut tensors = good.clone();
            tensors.remove(name);
            if let Some(tensor) = replacement {
                tensors.insert(name.into(), tensor.unwrap());
            }
            let error = CosineConfig::default().load(&tensors).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the head's tensor {message}: ")), "{error}");
        }
    }
}
