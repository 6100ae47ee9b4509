//! Layers as they are given, and as they are kept.

use rayon::prelude::*;

use crate::cell::Cell;
use crate::error::EngineError;
use crate::image;
use crate::isa::Precision;
use crate::machine::Layout;
use crate::pack::{Panels, Position, pack};
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

    /// Packs it for kernels of `layout`; where `bf16` is read, weights are rounded with an eye on what was seen of the inputs.
    pub(crate) fn pack(
        self,
        name: &str,
        layout: Layout,
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
            (3, 1, 1) if layout.winograd => Method::Winograd,
            _ => Method::Direct,
        };
        // Channels in a cell, which is what a segment sums over; values of a kernel's row for the first layer.
        let (channels, taps) = (16 * layout.parts, kernel * kernel);
        let input_blocks = inputs.div_ceil(channels);
        let (segments, steps) = match method {
            Method::Image => (kernel, inputs * kernel),
            Method::Pointwise | Method::Winograd => (input_blocks, 16),
            Method::Direct => (input_blocks * taps, 16),
        };
        let panels = Panels { count: vectors(outputs) / layout.vectors, segments, steps };
        let matrices = if method == Method::Winograd { winograd::POINTS } else { 1 };
        let mut weights = Cell::zeros(matrices * panels.count * panels.cells(layout));
        let of = |output: usize, input: usize, tap: usize| {
            let inside = output < outputs && input < inputs;
            if inside { f64::from(self.weights[(output * inputs + input) * taps + tap]) } else { 0.0 }
        };
        let compensate = |matrix: &mut [f64], index: usize| {
            // Other kernels than the one that was watched may take another way, whose sums are of other lengths.
            let fits = |grams: &&[Gram]| {
                layout.parts == 2 && grams.len() == matrices && grams[index].size() == inputs
            };
            if let Some(gram) =
                seen.filter(fits).filter(|_| method != Method::Direct).map(|grams| &grams[index])
            {
                rounding::compensated(matrix, gram);
            }
        };
        match method {
            Method::Image => pack(layout, panels, &mut weights, |Position { output, segment, index }| {
                if index < inputs * kernel {
                    of(output, index % inputs, segment * kernel + index / inputs)
                } else {
                    0.0
                }
            }),
            Method::Pointwise | Method::Direct | Method::Winograd => {
                // One matrix whose sums go over taps as well, or one a point.
                let taps = if method == Method::Winograd { 1 } else { taps };
                let each = panels.count * panels.cells(layout);
                for (index, weights) in weights.chunks_exact_mut(each).enumerate() {
                    let mut matrix = self.matrix(method, index);
                    compensate(&mut matrix, index);
                    pack(layout, panels, weights, |Position { output, segment, index }| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::tests::Numbers;

    fn packed(winograd: bool, seen: Option<&[Gram]>) -> Vec<u8> {
        let layout = Layout { rows: 1, vectors: 2, parts: 2, winograd };
        let convolution = Numbers(3).convolution([16, 32, 3, 1, 1]);
        let packed = convolution.pack("layer", layout, false, seen).unwrap();
        bytemuck::cast_slice::<Cell, u8>(&packed.weights).to_vec()
    }

    /// With AMX a layer is direct that was Winograd's on the kernel of `f32` that was watched.
    #[test]
    fn weights_are_compensated_for_what_was_seen_on_their_own_way_only() {
        let mut numbers = Numbers(4);
        let samples: Vec<f32> = (0..64).flat_map(|_| vec![numbers.next(); 16]).collect();
        let grams: Vec<Gram> = (0..winograd::POINTS)
            .map(|_| {
                let mut gram = Gram::new(16);
                gram.add_many(Machine::PortableF32, &samples);
                gram
            })
            .collect();
        assert!(packed(true, Some(&grams)) != packed(true, None));
        assert!(packed(false, Some(&grams)) == packed(false, None));
        assert!(packed(true, Some(&grams[..1])) == packed(true, None));
    }
}
