//! The tensors of a fitted head, and the checks of those that are read from a file.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::HeadError;

/// The tensors of a fitted head by name, as saved in `model.safetensors`.
pub type Tensors = BTreeMap<String, Tensor>;

/// Looks up a saved tensor of a head by name and checks its type.
///
/// # Errors
/// [`HeadError::Tensor`] when it is missing or has another type than `dtype`.
pub(crate) fn typed_tensor<'a>(
    tensors: &'a Tensors,
    name: &str,
    dtype: DType,
) -> Result<&'a Tensor, HeadError> {
    let tensor = tensors.get(name).ok_or_else(|| tensor_error(name, "is missing".into()))?;
    if tensor.dtype() == dtype {
        Ok(tensor)
    } else {
        Err(tensor_error(name, format!("is {}, expected {}", tensor.dtype().as_str(), dtype.as_str())))
    }
}

/// Looks up a saved tensor of a head by name and checks that it is `f32`.
///
/// # Errors
/// [`HeadError::Tensor`] when it is missing or not `f32`.
pub(crate) fn f32_tensor<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor, HeadError> {
    typed_tensor(tensors, name, DType::F32)
}

/// Looks up a saved weight matrix `[C, F]` by name; returns `(values, C, F)`, with the values row-major.
///
/// # Errors
/// [`HeadError::Tensor`] when it is missing, not `f32`, misshapen or empty.
pub(crate) fn f32_matrix(tensors: &Tensors, name: &str) -> Result<(Vec<f32>, usize, usize), HeadError> {
    let matrix = f32_tensor(tensors, name)?;
    let &[classes, width] = matrix.dims() else {
        return Err(tensor_error(
            name,
            format!("has shape {:?}, expected [classes, features]", matrix.dims()),
        ));
    };
    if classes == 0 || width == 0 {
        return Err(tensor_error(name, format!("is empty (shape {:?})", matrix.dims())));
    }
    Ok((matrix.flatten_all()?.to_vec1()?, classes, width))
}

/// The error of a tensor that is missing or invalid.
pub(crate) fn tensor_error(name: &str, problem: String) -> HeadError {
    HeadError::Tensor { name: name.into(), problem }
}
