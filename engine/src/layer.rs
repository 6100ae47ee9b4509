//! Layers as they are given, and as they are kept.

use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;
use crate::error::EngineError;
use crate::gptq::{self, Gram};
use crate::image;
use crate::isa::Precision;
use crate::pack::{Panels, Position, pack};
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
pub(crate) struct PackedConv {
    pub(crate) method: Method,
    pub(crate) panels: Panels,
    pub(crate) weights: Vec<CacheLine>,
    /// Zeros after the last output.
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// Channels are kept in multiples of this, whatever the width of panels and cells: the rest are zeros.
const CHANNEL_MULTIPLE: usize = 32;

/// Blocks of cells of `precision` for `channels`.
pub(crate) fn channel_blocks(precision: Precision, channels: usize) -> usize {
    channel_vectors(channels) / precision.parts()
}

/// Vectors of 16 for `channels`.
pub(crate) fn channel_vectors(channels: usize) -> usize {
    channels.div_ceil(CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE / 16
}

impl Convolution {
    /// What is wrong with it, if anything.
    fn invalid_reason(&self, first: bool) -> Option<String> {
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
        layout: KernelLayout,
        first: bool,
        grams: Option<&[Gram]>,
    ) -> Result<PackedConv, EngineError> {
        if let Some(problem) = self.invalid_reason(first) {
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
        let panels = Panels { count: channel_vectors(outputs) / layout.vectors, k_blocks: segments, steps };
        let matrices = if method == Method::Winograd { winograd::COMPONENTS } else { 1 };
        let mut weights = CacheLine::zeros(matrices * panels.count * panels.n_lines(layout));
        let weight = |output: usize, input: usize, tap: usize| {
            let inside = output < outputs && input < inputs;
            if inside { f64::from(self.weights[(output * inputs + input) * taps + tap]) } else { 0.0 }
        };
        let compensate = |matrix: &mut [f64], index: usize| {
            // Other kernels than the one that was watched may take another way, whose sums are of other lengths.
            let fits = |grams: &&[Gram]| {
                layout.parts == 2 && grams.len() == matrices && grams[index].size() == inputs
            };
            if let Some(gram) =
                grams.filter(fits).filter(|_| method != Method::Direct).map(|grams| &grams[index])
            {
                gptq::quantize_weights(matrix, gram);
            }
        };
        match method {
            Method::Image => {
                pack(layout, panels, &mut weights, |Position { output, k_block: segment, index }| {
                    if index < inputs * kernel {
                        weight(output, index % inputs, segment * kernel + index / inputs)
                    } else {
                        0.0
                    }
                })
            }
            Method::Pointwise | Method::Direct | Method::Winograd => {
                // One matrix whose sums go over taps as well, or one a point.
                let taps = if method == Method::Winograd { 1 } else { taps };
                let each = panels.count * panels.n_lines(layout);
                for (index, weights) in weights.chunks_exact_mut(each).enumerate() {
                    let mut matrix = self.gemm_matrix(method, index);
                    compensate(&mut matrix, index);
                    pack(layout, panels, weights, |Position { output, k_block: segment, index }| {
                        let (input, tap) = (segment / taps * channels + index, segment % taps);
                        let inside = output < outputs && input < inputs;
                        if inside { matrix[(output * inputs + input) * taps + tap] } else { 0.0 }
                    });
                }
            }
        }
        let mut bias = self.bias;
        bias.resize(16 * channel_vectors(outputs), 0.0);
        Ok(PackedConv { method, panels, weights, bias, inputs, outputs, kernel, stride, padding })
    }
}

impl Convolution {
    /// The matrix `[O, C * K * K]` of a product, or `[O, C]` of one of Winograd's points.
    fn gemm_matrix(&self, method: Method, component: usize) -> Vec<f64> {
        if method != Method::Winograd {
            return self.weights.iter().map(|&weight| f64::from(weight)).collect();
        }
        let factors = winograd::kernel_transform_factors(component);
        let to_component = |kernel: &[f32]| {
            factors.iter().zip(kernel).map(|(factor, &weight)| factor * f64::from(weight)).sum()
        };
        self.weights.par_chunks_exact(factors.len()).map(to_component).collect()
    }
}

impl PackedConv {
    /// Outputs along an axis of `size`; none where the kernel does not fit.
    pub(crate) fn output_len(&self, size: usize) -> Option<usize> {
        Some((size + 2 * self.padding).checked_sub(self.kernel)? / self.stride + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::AnyKernel;
    use crate::tests::TestRng;

    fn packed(winograd: bool, grams: Option<&[Gram]>) -> Vec<u8> {
        let layout = KernelLayout { rows: 1, vectors: 2, parts: 2, winograd };
        let convolution = TestRng(3).convolution([16, 32, 3, 1, 1]);
        let packed = convolution.pack("layer", layout, false, grams).unwrap();
        bytemuck::cast_slice::<CacheLine, u8>(&packed.weights).to_vec()
    }

    /// With AMX a layer is direct that was Winograd's on the kernel of `f32` that was watched.
    #[test]
    fn weights_are_compensated_for_what_was_seen_on_their_own_way_only() {
        let mut numbers = TestRng(4);
        let samples: Vec<f32> = (0..64).flat_map(|_| vec![numbers.next(); 16]).collect();
        let grams: Vec<Gram> = (0..winograd::COMPONENTS)
            .map(|_| {
                let mut gram = Gram::new(16);
                gram.add_samples(AnyKernel::PortableF32, &samples);
                gram
            })
            .collect();
        assert!(packed(true, Some(&grams)) != packed(true, None));
        assert!(packed(false, Some(&grams)) == packed(false, None));
        assert!(packed(true, Some(&grams[..1])) == packed(true, None));
    }
}
