//! What every linear head fits: logits that are an affine function of the features.
//!
//! A head of your own whose fit ends in weights and a bias needs no more than `type Head = Affine`.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::head::{Head, Tensors};
use crate::solver::gradient::check_warm_start;
use crate::standardize::PreparedFeatures;

/// Name of the tensor `[C, F]`, after the prefix.
pub(crate) const WEIGHT: &str = "weight";
/// Name of the tensor `[C]`, after the prefix.
pub(crate) const BIAS: &str = "bias";
/// The logit of a class that had no sample, beside others near 0: a softmax makes it 0.
pub(crate) const ABSENT_CLASS_LOGIT: f64 = -1e4;
/// Rows that a thread takes at a time.
const ROWS_PER_TASK: usize = 64;

/// A fitted linear head: `logits = features · weightᵀ + bias`, with the tensors `weight` `[C, F]` and `bias` `[C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    weight: Vec<f32>,
    bias: Vec<f32>,
    width: usize,
}

impl Affine {
    /// Rounds the `f64` that a solver works in to the `f32` that are kept: `weight` `[C, F]` row-major,
    /// `bias` `[C]`.
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

    /// The map with these weights `[C, F]` and biases `[C]`.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite.
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>, width: usize) -> Result<Self, HeadError> {
        if weight.iter().chain(&bias).any(|v| !v.is_finite()) {
            return Err(HeadError::Diverged(
                "the fitted weights leave the range of f32: scale the features, or set `standardize = true`"
                    .into(),
            ));
        }
        Ok(Self { weight, bias, width })
    }

    /// Weights `[C, F]`, biases `[C]` and `F`.
    pub(crate) fn into_parts(self) -> (Vec<f32>, Vec<f32>, usize) {
        (self.weight, self.bias, self.width)
    }

    /// The same map with outputs that are 0 after its own, `classes` in all.
    #[must_use]
    pub(crate) fn with_classes(mut self, classes: usize) -> Self {
        self.weight.resize(classes * self.width, 0.0);
        self.bias.resize(classes, 0.0);
        self
    }

    /// The map, laid out for many products.
    pub(crate) fn to_packed(&self) -> PackedAffine<'_> {
        PackedAffine { weight: PackedWeights::new(&self.weight, self.width), bias: &self.bias }
    }

    /// The same map of features as they come, where this one takes those that were fitted on.
    ///
    /// # Errors
    /// As [`Affine::from_f64`].
    pub(crate) fn for_raw_features(&self, prepared: &PreparedFeatures<'_>) -> Result<Self, HeadError> {
        self.transformed(|weight, bias| prepared.unstandardize_weights(weight, bias))
    }

    /// The same map of the features that are fitted on, where this one takes them as they come.
    ///
    /// # Errors
    /// As [`Affine::from_f64`].
    pub(crate) fn for_prepared_features(&self, prepared: &PreparedFeatures<'_>) -> Result<Self, HeadError> {
        self.transformed(|weight, bias| prepared.standardize_weights(weight, bias))
    }

    /// The map of an earlier fit, to start one on `data` from: new classes have zeros, and so has a class that had no sample.
    ///
    /// # Errors
    /// [`HeadError::Tensor`], [`HeadError::Width`] for other many features, and [`HeadError::Data`] when it knows more classes.
    pub(crate) fn warm_start(tensors: &Tensors, data: &TrainingSet<'_>) -> Result<Self, HeadError> {
        let mut map = Self::load(tensors, "")?;
        let width = map.width;
        check_warm_start([width, map.bias.len()], [data.features().width(), data.classes()])?;
        for (bias, weight) in map.bias.iter_mut().zip(map.weight.chunks_exact_mut(width)) {
            if *bias <= ABSENT_CLASS_LOGIT as f32 {
                *bias = 0.0;
                weight.fill(0.0);
            }
        }
        Ok(map.with_classes(data.classes()))
    }

    /// `weight` `[C, F]` and `bias` `[C]`, as solvers take them.
    pub(crate) fn to_f64(&self) -> (Vec<f64>, Vec<f64>) {
        let as_f64 = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
        (as_f64(&self.weight), as_f64(&self.bias))
    }

    fn transformed(&self, transform: impl FnOnce(&mut [f64], &mut [f64])) -> Result<Self, HeadError> {
        let (mut weight, mut bias) = self.to_f64();
        transform(&mut weight, &mut bias);
        Self::from_f64(&weight, &bias, self.width)
    }

    /// The map as operations on tensors, for gradients: `features` `[N, F]` to `[N, C]`.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for a parameter that is missing; candle's for shapes that do not fit.
    pub fn forward(parameters: &Tensors, prefix: &str, features: &Tensor) -> Result<Tensor, HeadError> {
        let weight = f32_tensor(parameters, &format!("{prefix}{WEIGHT}"))?;
        let bias = f32_tensor(parameters, &format!("{prefix}{BIAS}"))?;
        Ok(features.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    /// The tensors `weight` `[C, F]` and `bias` `[C]`, with `prefix` before their names.
    ///
    /// # Errors
    /// When candle cannot make them.
    pub fn tensors_with_prefix(&self, prefix: &str) -> Result<Tensors, HeadError> {
        let weight = Tensor::from_slice(&self.weight, (self.bias.len(), self.width), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.bias.len(), &Device::Cpu)?;
        Ok(Tensors::from([(format!("{prefix}{WEIGHT}"), weight), (format!("{prefix}{BIAS}"), bias)]))
    }

    /// Back from the tensors that [`Head::tensors`] gave, `prefix` before their names.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for one that is missing, misshapen, not `f32` or not finite.
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
                return Err(tensor_error(name, "holds a value that is not finite".into()));
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

    /// Sums run in `f64` and in an order that depends on `F` alone.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        features.expect_width(self.width)?;
        let mut out = vec![0.0; features.len() * self.classes()];
        let packed = self.to_packed();
        let blocks = features.as_slice().par_chunks(ROWS_PER_TASK * self.width);
        out.par_chunks_mut(ROWS_PER_TASK * self.classes())
            .zip(blocks)
            .for_each(|(out, rows)| packed.apply(rows, out));
        Logits::new(out, self.classes())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        self.tensors_with_prefix("")
    }
}

/// An [`Affine`], laid out for many products.
pub(crate) struct PackedAffine<'a> {
    weight: PackedWeights,
    bias: &'a [f32],
}

impl PackedAffine<'_> {
    /// Number of classes, `C`.
    pub(crate) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// `rows` `[n, F]` to `out` `[n, C]` on this thread.
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

/// A tensor of those that were saved.
///
/// # Errors
/// [`HeadError::Tensor`] for one that is missing or not `f32`.
pub(crate) fn f32_tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor, HeadError> {
    let tensor = tensors.get(name).ok_or_else(|| tensor_error(name, "is missing".into()))?;
    if tensor.dtype() == DType::F32 {
        Ok(tensor)
    } else {
        Err(tensor_error(name, format!("is {}, expected f32", tensor.dtype().as_str())))
    }
}

/// A matrix `[C, F]` of the tensors that were saved, with `C` and `F`.
///
/// # Errors
/// [`HeadError::Tensor`] for one that is missing, not `f32`, misshapen or empty.
pub(crate) fn f32_matrix(tensors: &Tensors, name: &str) -> Result<(Vec<f32>, usize, usize), HeadError> {
    let matrix = f32_tensor(tensors, name)?;
    let &[classes, width] = matrix.dims() else {
        return Err(tensor_error(
            name,
            format!("has shape {:?}, expected [classes, features]", matrix.dims()),
        ));
    };
    if classes == 0 || width == 0 {
        return Err(tensor_error(name, format!("has shape {:?}: it is empty", matrix.dims())));
    }
    Ok((matrix.flatten_all()?.to_vec1()?, classes, width))
}

pub(crate) fn tensor_error(name: &str, problem: String) -> HeadError {
    HeadError::Tensor { name: name.into(), problem }
}

#[cfg(test)]
mod tests {
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
            (WEIGHT, None, "tensor `weight`: is missing"),
            (
                BIAS,
                Some(Tensor::zeros(3, DType::F32, &Device::Cpu)),
                "tensor `bias`: has shape [3], expected [2]",
            ),
            (
                WEIGHT,
                Some(Tensor::zeros(6, DType::F32, &Device::Cpu)),
                "tensor `weight`: has shape [6], expected [classes, features]",
            ),
            (BIAS, Some(Tensor::zeros(2, DType::F64, &Device::Cpu)), "tensor `bias`: is f64, expected f32"),
        ];
        for (name, replacement, message) in cases {
            let mut tensors = good.clone();
            tensors.remove(name);
            if let Some(tensor) = replacement {
                tensors.insert(name.into(), tensor.unwrap());
            }
            assert_eq!(Affine::load(&tensors, "").unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn weights_beyond_f32_are_an_error() {
        assert!(matches!(Affine::from_f64(&[1e300], &[0.0], 1), Err(HeadError::Diverged(_))));
    }
}
