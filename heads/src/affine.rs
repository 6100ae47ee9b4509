//! What every linear head fits: logits that are an affine function of the features.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::data::{Features, Logits};
use crate::error::HeadError;
use crate::head::Tensors;
use crate::vector::Vectors;

const WEIGHT: &str = "weight";
const BIAS: &str = "bias";

/// `logits = features · weightᵀ + bias`, with `weight` `[C, F]` and `bias` `[C]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Affine {
    weight: Vec<f32>,
    bias: Vec<f32>,
    width: usize,
}

impl Affine {
    /// Rounds the `f64` that a solver works in to the `f32` that are kept: `weight` `[C, F]` row-major, `bias` `[C]`.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] for a value that is not finite as an `f32`.
    ///
    /// # Panics
    /// When `weight` is not `[bias.len(), width]`.
    pub(crate) fn from_f64(weight: &[f64], bias: &[f64], width: usize) -> Result<Self, HeadError> {
        assert_eq!(weight.len(), bias.len() * width, "weight is [C, F] and bias [C]");
        let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
        let (weight, bias) = (narrow(weight), narrow(bias));
        if weight.iter().chain(&bias).any(|v| !v.is_finite()) {
            return Err(HeadError::Diverged(
                "the fitted weights leave the range of f32: scale the features, or set `standardize = true`".into(),
            ));
        }
        Ok(Self { weight, bias, width })
    }

    /// Number of features, `F`.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Number of classes, `C`.
    pub(crate) fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Features `[N, F]` to logits `[N, C]`. Sums run in `f64` and in an order that depends on `F` alone.
    ///
    /// # Errors
    /// [`HeadError::Width`] when the features have another width.
    pub(crate) fn logits(&self, features: Features<'_>) -> Result<Logits, HeadError> {
        features.expect_width(self.width)?;
        let vectors = Vectors::new();
        let mut out = vec![0.0; features.len() * self.classes()];
        out.par_chunks_exact_mut(self.classes()).enumerate().for_each(|(i, logits)| {
            let row = features.row(i);
            for ((logit, weight), &bias) in logits.iter_mut().zip(self.weight.chunks_exact(self.width)).zip(&self.bias) {
                *logit = (vectors.dot(row, weight) + f64::from(bias)) as f32;
            }
        });
        Logits::new(out, self.classes())
    }

    /// The tensors `weight` `[C, F]` and `bias` `[C]`.
    ///
    /// # Errors
    /// When candle cannot make them.
    pub(crate) fn tensors(&self) -> Result<Tensors, HeadError> {
        let weight = Tensor::from_slice(&self.weight, (self.classes(), self.width), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.classes(), &Device::Cpu)?;
        Ok(Tensors::from([(WEIGHT.into(), weight), (BIAS.into(), bias)]))
    }

    /// Back from the tensors that [`Affine::tensors`] gave.
    ///
    /// # Errors
    /// [`HeadError::Tensor`] for one that is missing, misshapen, not `f32` or not finite.
    pub(crate) fn load(tensors: &Tensors) -> Result<Self, HeadError> {
        let weight = tensor(tensors, WEIGHT)?;
        let &[classes, width] = weight.dims() else {
            return Err(problem(WEIGHT, format!("has shape {:?}, expected [classes, features]", weight.dims())));
        };
        let bias = tensor(tensors, BIAS)?;
        if bias.dims() != [classes] {
            return Err(problem(BIAS, format!("has shape {:?}, expected [{classes}]", bias.dims())));
        }
        if classes == 0 || width == 0 {
            return Err(problem(WEIGHT, format!("has shape {:?}: it is empty", weight.dims())));
        }
        let head = Self { weight: weight.flatten_all()?.to_vec1()?, bias: bias.to_vec1()?, width };
        for (name, values) in [(WEIGHT, &head.weight), (BIAS, &head.bias)] {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(problem(name, "holds a value that is not finite".into()));
            }
        }
        Ok(head)
    }
}

fn tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor, HeadError> {
    let tensor = tensors.get(name).ok_or_else(|| problem(name, "is missing".into()))?;
    if tensor.dtype() == DType::F32 {
        Ok(tensor)
    } else {
        Err(problem(name, format!("is {}, expected f32", tensor.dtype().as_str())))
    }
}

fn problem(name: &str, problem: String) -> HeadError {
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
        let logits = affine().logits(Features::new(&[1.0, 1.0, 1.0, 2.0, 0.0, -1.0], 3).unwrap()).unwrap();
        assert_eq!(logits.as_slice(), [6.25, -0.75, -0.75, -2.25]);
    }

    #[test]
    fn features_of_another_width_are_refused() {
        let error = affine().logits(Features::new(&[1.0, 2.0], 2).unwrap()).unwrap_err();
        assert!(matches!(error, HeadError::Width { expected: 3, found: 2 }));
    }

    #[test]
    fn tensors_come_back_as_they_were() {
        let head = affine();
        assert_eq!(Affine::load(&head.tensors().unwrap()).unwrap(), head);
    }

    #[test]
    fn a_missing_misshapen_or_mistyped_tensor_is_named() {
        let good = affine().tensors().unwrap();
        let cases = [
            (WEIGHT, None, "tensor `weight`: is missing"),
            (BIAS, Some(Tensor::zeros(3, DType::F32, &Device::Cpu)), "tensor `bias`: has shape [3], expected [2]"),
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
            assert_eq!(Affine::load(&tensors).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn weights_beyond_f32_are_an_error() {
        assert!(matches!(Affine::from_f64(&[1e300], &[0.0], 1), Err(HeadError::Diverged(_))));
    }
}
