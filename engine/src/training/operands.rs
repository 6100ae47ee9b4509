//! The arguments and results of training convolutions, and the check of their lengths.

use crate::conv_shape::ConvShape;
use crate::error::EngineError;

/// Weights `[K, K, C, O]` of a convolution, multiplied by a scale per output channel.
#[derive(Clone, Copy, Debug)]
pub struct ScaledWeights<'a> {
    /// The weights.
    pub values: &'a [f32],
    /// The scale, `[O]`; `None` for 1.
    pub scale: Option<&'a [f32]>,
}

/// What is applied to the sums of a convolution or gradient before they are stored, in the order of the
/// fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainEpilogue<'a> {
    /// Adds the values already in the result, which must be 0 where `mask` is not positive.
    pub accumulate: bool,
    /// Adds a value per channel of the result.
    pub bias: Option<&'a [f32]>,
    /// Adds a tensor of the result's size.
    pub addend: Option<&'a [f32]>,
    /// Applies a ReLU.
    pub relu: bool,
    /// A tensor of the result's size: the result is 0 where it is not positive (the gradient of a ReLU).
    pub mask: Option<&'a [f32]>,
}

/// Destination of the gradient of the weights.
#[derive(Debug)]
pub struct WeightGrad<'a> {
    /// `[K, K, C, O]`
    pub values: &'a mut [f32],
    /// Whether the gradient is added to the values, or replaces them.
    pub accumulate: bool,
}

/// Gradients with respect to the scale of the weights and to a bias, given the gradient `G` of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleBiasGrad {
    /// Sum over positions of `G` times the convolution without the scale, `[O]`.
    pub scale: Vec<f32>,
    /// Sum over positions of `G`, `[O]`.
    pub bias: Vec<f32>,
}

/// Name, length and expected length of a slice argument, for [`check_lengths`].
pub(super) type SliceLength = (&'static str, usize, usize);

impl ScaledWeights<'_> {
    /// Lengths of weights and scale for [`check_lengths`]; no scale has the expected length.
    pub(super) fn slice_lengths(&self, shape: &ConvShape) -> [SliceLength; 2] {
        let scale = self.scale.map_or(shape.outputs, <[f32]>::len);
        [("weights", self.values.len(), shape.weights_len()), ("scale", scale, shape.outputs)]
    }
}

impl TrainEpilogue<'_> {
    /// Lengths of bias, addend and mask for [`check_lengths`], for a result of `result_len` values
    /// in `channels` channels; a missing one has the expected length.
    pub(super) fn slice_lengths(&self, channels: usize, result_len: usize) -> [SliceLength; 3] {
        let len_or = |slice: Option<&[f32]>, default| slice.map_or(default, <[f32]>::len);
        [
            ("bias", len_or(self.bias, channels), channels),
            ("addend", len_or(self.addend, result_len), result_len),
            ("mask", len_or(self.mask, result_len), result_len),
        ]
    }
}

/// Checks that no size is 0 and that slices have the expected lengths, so that kernels need no checks.
///
/// # Errors
/// [`EngineError::Convolution`] with what is wrong.
pub(super) fn check_lengths(shape: &ConvShape, slices: &[SliceLength]) -> Result<(), EngineError> {
    let reject = |problem: String| Err(EngineError::Convolution { shape: *shape, problem });
    let ConvShape { batch, height, width, inputs, outputs, kernel, stride, .. } = *shape;
    let sizes = [batch, inputs, outputs, kernel, stride, height, width];
    if sizes.contains(&0) || shape.output_size().contains(&0) {
        return reject("a size is 0 or the kernel does not fit the input".to_owned());
    }
    match slices.iter().find(|(_, found, expected)| found != expected) {
        Some((name, found, expected)) => reject(format!("{name} has {found} values, expected {expected}")),
        None => Ok(()),
    }
}
