//! The fitted form of every linear head: logits that are an affine function of the features.
//!
//! A custom head whose fit ends in weights and a bias only needs `type Head = Affine`.

use candle_core::{Device, Tensor};

use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::head::Head;
use crate::solver::gradient::check_warm_start;
use crate::standardize::PreparedFeatures;
use crate::tensors::{Tensors, f32_matrix, f32_tensor, tensor_error};

/// Name of the weight tensor `[C, F]`, after the prefix.
pub(crate) const WEIGHT: &str = "weight";
/// Name of the bias tensor `[C]`, after the prefix.
pub(crate) const BIAS: &str = "bias";
/// Logit of a class without training samples. Other logits are near 0, so a softmax gives it probability 0.
pub(crate) const ABSENT_CLASS_LOGIT: f64 = -1e4;

/// A fitted linear head `logits = features · weightᵀ + bias`: tensors `weight` `[C, F]` and `bias` `[C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// `[C, F]`, row-major.
    weight: Vec<f32>,
    /// `[C]`
    bias: Vec<f32>,
    /// Number of features, `F`.
    width: usize,
}

impl Affine {
    /// Makes a map from the weights `[C, F]` (row-major) and biases `[C]` that a solver computed in `f64`,
    /// rounded to `f32`. `width` is the number of features, `F`.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite as an `f32`.
    ///
    /// # Panics
    /// When `weight` is not `[bias.len(), width]`.
    pub fn from_f64(weight: &[f64], bias: &[f64], width: usize) -> Result<Self, HeadError> {
        assert_eq!(weight.len(), bias.len() * width, "weight is [C, F] and bias [C]");
        let to_f32 = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
        Self::new(to_f32(weight), to_f32(bias), width)
    }

    /// Makes a map from fitted weights `[C, F]` (row-major) and biases `[C]`, after a check that the fit did
    /// not diverge. `width` is the number of features, `F`.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, width: usize) -> Result<Self, HeadError> {
        if weight.iter().chain(&bias).any(|v| !v.is_finite()) {
            return Err(HeadError::Diverged(
                "the fitted weights are too large for 32-bit numbers: scale the features, or set \
                 `standardize = true`"
                    .into(),
            ));
        }
        Ok(Self { weight, bias, width })
    }

    /// The map whose weights and biases are 0: no class is preferred.
    pub(crate) fn zeros(width: usize, classes: usize) -> Self {
        Self { weight: vec![0.0; classes * width], bias: vec![0.0; classes], width }
    }

    /// Splits the map into its parts `(weights [C, F], biases [C], F)`, without a copy.
    pub(crate) fn into_parts(self) -> (Vec<f32>, Vec<f32>, usize) {
        (self.weight, self.bias, self.width)
    }

    /// The map for more classes: appends zero weights and a zero bias for each new class until there are
    /// `classes`, for a warm start on data with new classes.
    #[must_use]
    pub(crate) fn with_classes(mut self, classes: usize) -> Self {
        self.weight.resize(classes * self.width, 0.0);
        self.bias.resize(classes, 0.0);
        self
    }

    /// The map with its weights packed (copied into the order in which the matrix product reads them), once
    /// for all blocks of rows.
    pub(crate) fn to_packed(&self) -> PackedAffine<'_> {
        PackedAffine { weight: PackedWeights::pack(&self.weight, self.width), bias: &self.bias }
    }

    /// Converts a map of the prepared (standardized) features into the same map of the raw features, so that
    /// the saved head needs no scaler.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite as an `f32`.
    pub(crate) fn for_raw_features(&self, prepared: &PreparedFeatures<'_>) -> Result<Self, HeadError> {
        self.transformed(|weight, bias| prepared.unstandardize_weights(weight, bias))
    }

    /// Converts a map of the raw features into the same map of the prepared (standardized) features, for a
    /// warm start from a saved head.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite as an `f32`.
    pub(crate) fn for_prepared_features(&self, prepared: &PreparedFeatures<'_>) -> Result<Self, HeadError> {
        self.transformed(|weight, bias| prepared.standardize_weights(weight, bias))
    }

    /// Loads the map of an earlier fit (of the raw features) as the start of a fit on `data`. New classes
    /// start with zero weights and bias; so do classes that had no samples in the earlier fit, which are
    /// known by their bias of at most [`ABSENT_CLASS_LOGIT`].
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a tensor that is missing or invalid; [`HeadError::Width`] for a different
    /// number of features; [`HeadError::Data`] when the earlier head has more classes than `data`.
    pub(crate) fn load_warm_start(tensors: &Tensors, data: &TrainingSet<'_>) -> Result<Self, HeadError> {
        let mut map = Self::load(tensors, "")?;
        check_warm_start(&map, data.features().width(), data.classes())?;
        for (bias, weight) in map.bias.iter_mut().zip(map.weight.chunks_exact_mut(map.width)) {
            if *bias <= ABSENT_CLASS_LOGIT as f32 {
                *bias = 0.0;
                weight.fill(0.0);
            }
        }
        Ok(map.with_classes(data.classes()))
    }

    /// `weight` `[C, F]` and `bias` `[C]` as `f64`, for solvers.
    pub(crate) fn to_f64(&self) -> (Vec<f64>, Vec<f64>) {
        let as_f64 = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
        (as_f64(&self.weight), as_f64(&self.bias))
    }

    /// A copy of the map, in which `transform` has changed the weights `[C, F]` and biases `[C]`. It gets
    /// them as `f64`, and they are rounded to `f32` after it. The conversions between raw and standardized
    /// features share this.
    fn transformed(&self, transform: impl FnOnce(&mut [f64], &mut [f64])) -> Result<Self, HeadError> {
        let (mut weight, mut bias) = self.to_f64();
        transform(&mut weight, &mut bias);
        Self::from_f64(&weight, &bias, self.width)
    }

    /// Computes the logits `[N, C]` of features `[N, F]` as candle operations, for autograd. The weights and
    /// biases are the tensors `weight` and `bias` of `parameters`, with `prefix` before their names.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a missing parameter; candle's errors for shapes that do not match.
    pub fn forward(parameters: &Tensors, prefix: &str, features: &Tensor) -> Result<Tensor, HeadError> {
        let weight = f32_tensor(parameters, &format!("{prefix}{WEIGHT}"))?;
        let bias = f32_tensor(parameters, &format!("{prefix}{BIAS}"))?;
        Ok(features.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    /// The tensors in which the map is saved, by name: `weight` `[C, F]` and `bias` `[C]`, with `prefix`
    /// before their names (a head with several maps needs different ones).
    ///
    /// # Errors
    /// When candle cannot create them.
    pub fn tensors_with_prefix(&self, prefix: &str) -> Result<Tensors, HeadError> {
        let weight = Tensor::from_slice(&self.weight, (self.bias.len(), self.width), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.bias.len(), &Device::Cpu)?;
        Ok(Tensors::from([(format!("{prefix}{WEIGHT}"), weight), (format!("{prefix}{BIAS}"), bias)]))
    }

    /// Restores a map from saved tensors: those of [`tensors_with_prefix`](Self::tensors_with_prefix) with
    /// the same `prefix`.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a tensor that is missing, misshapen, not `f32` or not finite.
    pub fn load(tensors: &Tensors, prefix: &str) -> Result<Self, HeadError> {
        let names = [format!("{prefix}{WEIGHT}"), format!("{prefix}{BIAS}")];
        let (weight, classes, width) = f32_matrix(tensors, &names[0])?;
        let bias = f32_tensor(tensors, &names[1])?;
        if bias.dims() != [classes] {
            return Err(tensor_error(
                &names[1],
                format!("has shape {:?}, expected [{classes}]", bias.dims()),
            ));
        }
        let map = Self { weight, bias: bias.to_vec1()?, width };
        for (name, values) in names.iter().zip([&map.weight, &map.bias]) {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(tensor_error(name, "contains a NaN or an infinite value".into()));
            }
        }
        Ok(map)
    }
}

impl Head for Affine {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.bias.len()
    }

    /// The logits `[N, C]` of features `[N, F]`, in parallel over blocks of rows. Sums are computed in `f64`,
    /// in an order that depends on `F` only: the logits of a row do not depend on the other rows.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let packed = self.to_packed();
        features.logits_by_block(self.width, self.classes(), |rows, out| packed.apply(rows, out))
    }

    /// The tensors to save: `weight` `[C, F]` and `bias` `[C]`.
    fn tensors(&self) -> Result<Tensors, HeadError> {
        self.tensors_with_prefix("")
    }
}

/// An [`Affine`] map whose weights are packed (copied into the order in which the matrix product reads them).
pub(crate) struct PackedAffine<'a> {
    weight: PackedWeights,
    bias: &'a [f32],
}

impl PackedAffine<'_> {
    /// Number of classes, `C`.
    pub(crate) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Computes the logits `rows · weightᵀ + bias` of some rows of features, `rows` `[n, F]`, and overwrites
    /// `out` `[n, C]` with them, on the calling thread. Sums are in `f64`.
    pub(crate) fn apply(&self, rows: &[f32], out: &mut [f32]) {
        let mut sums = vec![0.0; out.len()];
        self.weight.multiply(rows, &mut sums);
        for (out, sums) in out.chunks_exact_mut(self.classes()).zip(sums.chunks_exact(self.classes())) {
            for ((out, sum), &bias) in out.iter_mut().zip(sums).zip(self.bias) {
                *out = (sum + f64::from(bias)) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn affine() -> Affine {
        Affine::from_f64(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.0], &[0.25, -0.25], 3).unwrap()
    }

    #[test]
    fn logits_are_rows_times_weights_plus_bias() {
        let logits =
            affine().logits(FeatureMatrix::new(&[1.0, 1.0, 1.0, 2.0, 0.0, -1.0], 3).unwrap()).unwrap();
        assert_eq!(logits.as_slice(), [6.25, -0.75, -0.75, -2.25]);
    }

    #[test]
    fn features_of_another_width_are_refused() {
        let error = affine().logits(FeatureMatrix::new(&[1.0, 2.0], 2).unwrap()).unwrap_err();
        assert!(matches!(error, HeadError::Width { expected: 3, found: 2 }));
    }

    #[test]
    fn tensors_come_back_as_they_were() {
        let head = affine();
        assert_eq!(Affine::load(&head.tensors_with_prefix("layer.").unwrap(), "layer.").unwrap(), head);
    }

    #[test]
    fn a_missing_misshapen_or_mistyped_tensor_is_named() {
        let good = affine().tensors().unwrap();
        let cases = [
            (WEIGHT, None, "`weight` is missing"),
            (BIAS, Some(Tensor::zeros(3, DType::F32, &Device::Cpu)), "`bias` has shape [3], expected [2]"),
            (
                WEIGHT,
                Some(Tensor::zeros(6, DType::F32, &Device::Cpu)),
                "`weight` has shape [6], expected [classes, features]",
            ),
            (BIAS, Some(Tensor::zeros(2, DType::F64, &Device::Cpu)), "`bias` is f64, expected f32"),
        ];
        for (name, replacement, message) in cases {
            let mut tensors = good.clone();
            tensors.remove(name);
            if let Some(tensor) = replacement {
                tensors.insert(name.into(), tensor.unwrap());
            }
            let error = Affine::load(&tensors, "").unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("the head's tensor {message}: the model file is damaged")),
                "{error}"
            );
        }
    }

    #[test]
    fn weights_beyond_f32_are_an_error() {
        assert!(matches!(Affine::from_f64(&[1e300], &[0.0], 1), Err(HeadError::Diverged(_))));
    }
}
