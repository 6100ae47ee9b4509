//! Layers as they are given, and as they are kept.

use rayon::prelude::*;

use crate::cell::Cell;
use crate::error::EngineError;
use crate::image;
use crate::isa::Precision;
use crate::machine::Form;
use crate::pack::{Panels, Place, pack};
use crate::rounding::{self, Gram};
use crate::winograd;

/// A convolution, with BatchNorm folded in where there was one.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// Channels that come in, `C`.
    pub inputs: usize,
    /// Channels that go out, `O`.
    pub outputs: usize,
    /// Height and width of the kernel, `K`.
    pub kernel: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros around the input, on each side.
    pub padding: usize,
    /// `[O, C, K, K]`.
    pub weights: Vec<f32>,
    /// `[O]`.
    pub bias: Vec<f32>,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The first layer, from the photo's rows: stride 2.
    Image,
    /// 1 x 1: a matrix product; a stride above 1 takes a copy first.
    Pointwise,
    /// A product over all taps, from a copy with a margin.
    Direct,
    /// Winograd's F(4 x 4, 3 x 3).
    Winograd,
}

/// A convolution, packed for a kernel.
pub(crate) struct Packed {
    pub(crate) method: Method,
    pub(crate) panels: Panels,
    pub(crate) weights: Vec<Cell>,
    /// Zeros after the last output.
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// Channels are kept in multiples of this, whatever the width of panels and cells: the rest are zeros.
const WHOLE: usize = 32;

/// Blocks of cells of `precision` for `channels`.
pub(crate) fn blocks(precision: Precision, channels: usize) -> usize {
    vectors(channels) / precision.parts()
}

/// Vectors of 16 for `channels`.
pub(crate) fn vectors(channels: usize) -> usize {
    channels.div_ceil(WHOLE) * WHOLE / 16
}

impl Convolution {
    /// What is wrong with it, if anything.
    fn problem(&self, first: bool) -> Option<String> {
        let Self { inputs, outputs, kernel, stride, padding, .. } = *self;
        let product = [outputs, inputs, kernel, kernel].into_iter().try_fold(1, usize::checked_mul);
        if product != Some(self.weights.len()) || self.bias.len() != outputs || self.weights.is_empty() {
            let (weights, bias) = (self.weights.len(), self.bias.len());
            return Some(format!(
                "{weights} weights and {bias} biases are not [{outputs}, {inputs}, {kernel}, {kernel}] and [{outputs}]"
            ));
        }
        if stride == 0 || padding >= kernel {
            return Some(format!(
                "stride {stride} and padding {padding} do not go with a kernel of {kernel}"
            ));
        }
        if first && (inputs, stride) != (image::CHANNELS, 2) {
            return Some(format!(
                "the first layer takes 3 channels and a stride of 2, not {inputs} and {stride}"
            ));
        }
        None
    }

    /// Packs it for kernels of `form`; where `bf16` is read, weights are rounded with an eye on what was seen of the inputs.
    pub(crate) fn pack(
        self,
        name: &str,
        form: Form,
        first: bool,
        seen: Option<&[Gram]>,
    ) -> Result<Packed, EngineError> {
        if let Some(problem) = self.problem(first) {
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let Self { inputs, outputs, kernel, stride, padding, .. } = self;
        let method = match (kernel, stride, padding) {
            _ if first => Method::Image,
            (1, _, 0) => Method::Pointwise,
            (3, 1, 1) if form.winograd => Method::Winograd,
            _ => Method::Direct,
        };
        // Channels in a cell, which is what a segment sums over; values of a kernel's row for the first layer.
        let (channels, taps) = (16 * form.parts, kernel * kernel);
        let input_blocks = inputs.div_ceil(channels);
        let (segments, steps) = match method {
            Method::Image => (kernel, inputs * kernel),
            Method::Pointwise | Method::Winograd => (input_blocks, 16),
            Method::Direct => (input_blocks * taps, 16),
        };
        let panels = Panels { count: vectors(outputs) / form.vectors, segments, steps };
        let matrices = if method == Method::Winograd { winograd::POINTS } else { 1 };
        let mut weights = Cell::zeros(matrices * panels.count * panels.cells(form));
        let of = |output: usize, input: usize, tap: usize| {
            let inside = output < outputs && input < inputs;
            if inside { f64::from(self.weights[(output * inputs + input) * taps + tap]) } else { 0.0 }
        };
        let compensate = |matrix: &mut [f64], index: usize| {
            // Other kernels than the one that was watched may take another way, whose sums are of other lengths.
            let fits =
                |grams: &&[Gram]| form.parts == 2 && grams.len() == matrices && grams[index].size() == inputs;
            if let Some(gram) =
                seen.filter(fits).filter(|_| method != Method::Direct).map(|grams| &grams[index])
            {
                rounding::compensated(matrix, gram);
            }
        };
        match method {
            Method::Image => pack(form, panels, &mut weights, |Place { output, segment, index }| {
                if index < inputs * kernel {
                    of(output, index % inputs, segment * kernel + index / inputs)
                } else {
                    0.0
                }
            }),
            Method::Pointwise | Method::Direct | Method::Winograd => {
                // One matrix whose sums go over taps as well, or one a point.
                let taps = if method == Method::Winograd { 1 } else { taps };
                let each = panels.count * panels.cells(form);
                for (index, weights) in weights.chunks_exact_mut(each).enumerate() {
                    let mut matrix = self.matrix(method, index);
                    compensate(&mut matrix, index);
                    pack(form, panels, weights, |Place { output, segment, index }| {
                        let (input, tap) = (segment / taps * channels + index, segment % taps);
                        let inside = output < outputs && input < inputs;
                        if inside { matrix[(output * inputs + input) * taps + tap] } else { 0.0 }
                    });
                }
            }
        }
        let mut bias = self.bias;
        bias.resize(16 * vectors(outputs), 0.0);
        Ok(Packed { method, panels, weights, bias, inputs, outputs, kernel, stride, padding })
    }
}

impl Convolution {
    /// The matrix `[O, C * K * K]` of a product, or `[O, C]` of one of Winograd's points.
    fn matrix(&self, method: Method, point: usize) -> Vec<f64> {
        if method != Method::Winograd {
            return self.weights.iter().map(|&weight| f64::from(weight)).collect();
        }
        let factors = winograd::weight_factors(point);
        let at_point = |kernel: &[f32]| {
            factors.iter().zip(kernel).map(|(factor, &weight)| factor * f64::from(weight)).sum()
        };
        self.weights.par_chunks_exact(factors.len()).map(at_point).collect()
    }
}

impl Packed {
    /// Outputs along an axis of `size`; none where the kernel does not fit.
    pub(crate) fn outputs_along(&self, size: usize) -> Option<usize> {
        Some((size + 2 * self.padding).checked_sub(self.kernel)? / self.stride + 1)
    }
}
