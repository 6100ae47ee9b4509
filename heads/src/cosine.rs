//! The head `cosine`: a softmax of cosines with a learned scale.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::{WEIGHT, matrix, problem, tensor};
use crate::check::positive;
use crate::data::{ClassWeight, Features, Logits, TrainingSet};
use crate::differentiable::{Differentiable, Mode};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, Parameter, Shape, Tensors};
use crate::keys::{self, Training};
use crate::product::PackedWeights;
use crate::solver::gradient::cosines::{Cosines, FLOOR, norm};
use crate::solver::gradient::{self, Samples};

/// Name of the scalar that the scale is the exponential of.
const LOG_SCALE: &str = "log_scale";
/// Rows that a thread takes at a time.
const BLOCK: usize = 64;

/// `[head]` with `kind = "cosine"`: `logit_c = s · cos(features, w_c)` with one learned `s = exp(log_scale)` for all
/// classes (NormFace, Wang et al. 2017; the cosine classifier of Gidaris and Komodakis, CVPR 2018). How long the
/// features are does not count.
///
/// A row of features, or of weights, is divided by its norm or by 1e-12 if that is more: features that are all 0 have
/// the logit 0 for every class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {
    /// The scale to start from.
    pub scale: f64,
    /// Learning rate of AdamW, the highest of the schedule.
    pub lr: f64,
    /// Decoupled weight decay of AdamW; the scale does not decay.
    pub weight_decay: f64,
    /// Passes over the samples, at most.
    pub epochs: u64,
    /// Samples in a step, at most.
    pub batch_size: u64,
    /// Part of the photos of each class that is held out, to see when to stop; 0 runs all epochs.
    pub validation: f64,
    /// Epochs without a lower loss on what is held out, after which to stop.
    pub patience: u64,
    /// How much a class counts.
    pub class_weight: ClassWeight,
    /// Key of all that is random.
    pub seed: u64,
}

impl Default for CosineConfig {
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
    const ABOUT: &'static str = "softmax of cosines with a learned scale";
    const PARAMETERS: &'static [Parameter] = &[
        ("scale", "the scale of the cosines to start from; it is learned"),
        keys::LR,
        keys::WEIGHT_DECAY,
        keys::EPOCHS,
        keys::BATCH_SIZE,
        keys::VALIDATION,
        keys::PATIENCE,
        keys::CLASS_WEIGHT,
        ("seed", "another seed: another order of the samples, other photos held out"),
    ];
    const WARM: bool = true;
    type Head = CosineHead;

    fn check(&self) -> Result<(), HeadError> {
        positive("scale", self.scale)?;
        self.training().check()
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<CosineHead>, HeadError> {
        let recipe = self.training().recipe(data.labels().len());
        let class_weights = data.class_weights(self.class_weight);
        let samples = Samples { data, features: data.features(), class_weights: &class_weights };
        let fresh = self.load(&self.initial(data.features().width(), data.classes())?)?;
        let initial = match context.start {
            Some(start) => self.load(start)?.continued_by(&fresh)?,
            None => fresh,
        };
        let width = initial.width;
        let cosines = Cosines::new(initial.weight, initial.log_scale, width);
        let ((weight, log_scale), history) = gradient::fit(cosines, samples, &recipe, context)?;
        let head = CosineHead { weight, log_scale, width };
        match head.not_finite() {
            None => Ok(Fitted::with_history(head, history)),
            Some(name) => Err(HeadError::Diverged(format!("`{name}` leaves the range of f32: lower `lr`"))),
        }
    }

    fn load(&self, tensors: &Tensors) -> Result<CosineHead, HeadError> {
        CosineHead::load(tensors)
    }

    fn grid(&self) -> Vec<Self> {
        let tripled = (3e9 * self.lr).round() / 1e9;
        [self.lr, tripled].map(|lr| Self { lr, ..self.clone() }).into()
    }

    fn memory(&self, shape: Shape) -> u64 {
        let rows = gradient::batch_size(self.batch_size, shape.samples);
        Cosines::memory(shape.classes, shape.features, rows)
    }

    fn differentiable(&self) -> Option<&dyn Differentiable> {
        Some(self)
    }
}

impl CosineConfig {
    fn training(&self) -> Training {
        let &Self { lr, weight_decay, epochs, batch_size, validation, patience, seed, .. } = self;
        Training { lr, weight_decay, epochs, batch_size, validation, patience, seed }
    }
}

impl Differentiable for CosineConfig {
    /// All classes look the same way, along the diagonal, so that none is preferred.
    fn initial(&self, width: usize, classes: usize) -> Result<Tensors, HeadError> {
        let weight = Tensor::full((1.0 / (width as f64).sqrt()) as f32, (classes, width), &Device::Cpu)?;
        let log_scale = Tensor::new(self.scale.ln() as f32, &Device::Cpu)?;
        Ok(Tensors::from([(WEIGHT.into(), weight), (LOG_SCALE.into(), log_scale)]))
    }

    fn forward(&self, parameters: &Tensors, features: &Tensor, _: Mode) -> Result<Tensor, HeadError> {
        let weight = tensor(parameters, WEIGHT)?;
        let directions = weight.broadcast_div(&norms(weight)?)?;
        // The products are divided, which are fewer than the features.
        let cosines = features.matmul(&directions.t()?)?.broadcast_div(&norms(features)?)?;
        Ok(cosines.broadcast_mul(&tensor(parameters, LOG_SCALE)?.exp()?)?)
    }
}

/// The norm of each row, `[n, 1]`. The floor is under the root, whose gradient at 0 would not be finite.
fn norms(rows: &Tensor) -> Result<Tensor, HeadError> {
    Ok(rows.sqr()?.sum_keepdim(1)?.maximum(FLOOR * FLOOR)?.sqrt()?)
}

/// A fitted `cosine`: tensors `weight` `[C, F]` and the scalar `log_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct CosineHead {
    weight: Vec<f32>,
    log_scale: f32,
    width: usize,
}

impl CosineHead {
    fn load(tensors: &Tensors) -> Result<Self, HeadError> {
        let (weight, _, width) = matrix(tensors, WEIGHT)?;
        let log_scale = tensor(tensors, LOG_SCALE)?;
        if log_scale.rank() != 0 {
            return Err(problem(LOG_SCALE, format!("has shape {:?}, expected a scalar", log_scale.dims())));
        }
        let head = Self { weight, log_scale: log_scale.to_scalar()?, width };
        match head.not_finite() {
            None => Ok(head),
            Some(name) => Err(problem(name, "holds a value that is not finite".into())),
        }
    }

    /// The name of a tensor that holds a value that is not finite.
    fn not_finite(&self) -> Option<&'static str> {
        if self.weight.iter().any(|w| !w.is_finite()) {
            return Some(WEIGHT);
        }
        (!self.log_scale.exp().is_finite()).then_some(LOG_SCALE)
    }

    /// This head, with the classes that only `fresh` has after its own.
    fn continued_by(mut self, fresh: &Self) -> Result<Self, HeadError> {
        gradient::check_start([self.width, self.classes()], [fresh.width, fresh.classes()])?;
        self.weight.extend_from_slice(&fresh.weight[self.weight.len()..]);
        Ok(self)
    }

    /// `s · w_c / |w_c|`, `[C, F]`.
    fn directions(&self) -> Vec<f64> {
        let scale = f64::from(self.log_scale).exp();
        let rows = self.weight.chunks_exact(self.width);
        rows.flat_map(|row| {
            let part = scale / norm(row);
            row.iter().map(move |&w| part * f64::from(w))
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

    /// Sums run in `f64` and in an order that depends on `F` alone.
    fn logits(&self, features: Features<'_>) -> Result<Logits, HeadError> {
        features.expect_width(self.width)?;
        let classes = self.classes();
        let mut out = vec![0.0; features.len() * classes];
        let packed = PackedWeights::new(&self.directions(), self.width);
        let blocks = features.as_slice().par_chunks(BLOCK * self.width);
        out.par_chunks_mut(BLOCK * classes).zip(blocks).for_each(|(out, rows)| {
            let mut sums = vec![0.0; out.len()];
            packed.times(rows, &mut sums);
            let rows = rows.chunks_exact(self.width).zip(sums.chunks_exact(classes));
            for (out, (row, sums)) in out.chunks_exact_mut(classes).zip(rows) {
                let norm = norm(row);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum / norm) as f32;
                }
            }
        });
        Logits::new(out, classes)
    }

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
    fn cosine_keeps_the_laws_of_heads() {
        check_head::<CosineConfig>();
    }

    #[test]
    fn cosine_that_may_stop_early_keeps_the_laws_of_heads() {
        check_head_with(&CosineConfig { validation: 0.1, scale: 5.0, ..CosineConfig::default() });
    }

    fn head() -> CosineHead {
        CosineHead { weight: vec![3.0, 4.0, 0.0, -2.0], log_scale: 10f32.ln(), width: 2 }
    }

    #[test]
    fn logits_are_cosines_times_the_scale_whatever_the_norms() {
        let logits = head().logits(Features::new(&[1.0, 0.0, 60.0, 80.0, 0.0, 1e-9], 2).unwrap()).unwrap();
        for (found, expected) in logits.as_slice().iter().zip([6.0, 0.0, 10.0, -8.0, 8.0, -10.0]) {
            assert!((found - expected).abs() < 1e-5, "{logits:?}");
        }
    }

    #[test]
    fn features_that_are_all_0_have_no_class_that_is_nearer() {
        let logits = head().logits(Features::new(&[0.0, 0.0], 2).unwrap()).unwrap();
        assert_eq!(logits.as_slice(), [0.0, 0.0]);
    }

    /// Six directions, two a class.
    const VALUES: [f32; 12] = [1.0, 0.1, 2.0, 0.0, 0.1, 1.0, 0.0, 3.0, -1.0, 0.2, -2.0, 0.1];

    #[test]
    fn features_near_the_end_of_f32_are_fitted_as_their_directions() {
        let labels = [0, 0, 1, 1, 2, 2];
        let fit = |values: &[f32]| {
            let data = TrainingSet::new(Features::new(values, 2).unwrap(), &labels, 3).unwrap();
            *CosineConfig::default().fit(&data, &FitContext::quiet()).unwrap().head
        };
        let huge = VALUES.map(|value| value * 2f32.powi(126));
        assert_eq!(fit(&huge).weight, fit(&VALUES).weight);
    }

    #[test]
    fn a_fit_from_another_head_goes_on_where_that_one_was_with_fresh_directions_for_new_classes() {
        let features = Features::new(&VALUES[..8], 2).unwrap();
        let first = TrainingSet::new(features, &[0, 0, 1, 1], 2).unwrap();
        let all = TrainingSet::new(Features::new(&VALUES, 2).unwrap(), &[0, 0, 1, 1, 2, 2], 3).unwrap();
        let config = CosineConfig { lr: 1e-30, weight_decay: 0.0, ..CosineConfig::default() };
        let long = CosineConfig { epochs: 100, lr: 0.03, ..config.clone() };
        let before = *long.fit(&first, &FitContext::quiet()).unwrap().head;
        let start = before.tensors().unwrap();
        let after = config.fit(&all, &FitContext::quiet().starting_from(&start)).unwrap();
        let fresh = (0.5f32).sqrt();
        assert_eq!(after.head.weight, [&before.weight[..], &[fresh, fresh]].concat());
        assert_eq!(after.head.log_scale, before.log_scale);
        let cold = config.fit(&first, &FitContext::quiet()).unwrap().history.rows;
        let warm = config.fit(&first, &FitContext::quiet().starting_from(&start)).unwrap().history.rows;
        assert!(warm[0][1] < 0.1 * cold[0][1], "{warm:?} and {cold:?}");

        let wide = CosineHead { width: 4, ..before.clone() }.tensors().unwrap();
        let error = config.fit(&all, &FitContext::quiet().starting_from(&wide)).unwrap_err();
        assert_eq!(error.to_string(), "the head takes 4 features a photo, these have 2");
    }

    #[test]
    fn a_missing_misshapen_or_mistyped_tensor_is_named() {
        let good = head().tensors().unwrap();
        let cases = [
            (LOG_SCALE, None, "tensor `log_scale`: is missing"),
            (
                LOG_SCALE,
                Some(Tensor::zeros(1, DType::F32, &Device::Cpu)),
                "tensor `log_scale`: has shape [1], expected a scalar",
            ),
            (
                LOG_SCALE,
                Some(Tensor::new(100f32, &Device::Cpu)),
                "tensor `log_scale`: holds a value that is not finite",
            ),
            (
                WEIGHT,
                Some(Tensor::zeros(6, DType::F32, &Device::Cpu)),
                "tensor `weight`: has shape [6], expected [classes, features]",
            ),
            (
                WEIGHT,
                Some(Tensor::zeros((2, 2), DType::F64, &Device::Cpu)),
                "tensor `weight`: is f64, expected f32",
            ),
        ];
        for (name, replacement, message) in cases {
            let mut tensors = good.clone();
            tensors.remove(name);
            if let Some(tensor) = replacement {
                tensors.insert(name.into(), tensor.unwrap());
            }
            assert_eq!(CosineHead::load(&tensors).unwrap_err().to_string(), message);
        }
    }
}
