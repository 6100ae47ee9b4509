//! Convolutions: their description, and their packed form.

use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;
use crate::error::EngineError;
use crate::gptq::{self, Gram};
use crate::image;
use crate::isa::DType;
use crate::pack::{Panels, Position, pack};
use crate::winograd;

/// A convolution, with BatchNorm folded into weights and bias.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// Input channels, `C`.
    pub inputs: usize,
    /// Output channels, `O`.
    pub outputs: usize,
    /// Height and width of the kernel, `K`.
    pub kernel: usize,
    /// Stride along both axes.
    pub stride: usize,
    /// Zero padding on each side.
    pub padding: usize,
    /// `[O, C, K, K]`.
    pub weights: Vec<f32>,
    /// `[O]`.
    pub bias: Vec<f32>,
}

/// What a convolution reads: the input images, if it is the first layer, or the value of another layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerInput {
    Images,
    Value,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The first layer, with stride 2, which reads image rows.
    Image,
    /// 1 x 1: one GEMM, over a subsampled copy if the stride is above 1.
    Pointwise,
    /// One GEMM over channels and taps, which reads a padded copy.
    Direct,
    /// Winograd's F(4 x 4, 3 x 3).
    Winograd,
}

/// A convolution packed for a kernel.
pub(crate) struct PackedConv {
    pub(crate) method: Method,
    pub(crate) panels: Panels,
    pub(crate) weights: Vec<CacheLine>,
    /// `[O]`, padded with zeros to whole vectors.
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// Channels of a value are padded with zeros to a multiple of this, for any kernel and precision.
const CHANNEL_MULTIPLE: usize = 32;

/// Channel blocks of a value with `channels` channels in `precision`.
pub(crate) fn channel_blocks(precision: DType, channels: usize) -> usize {
    channel_vectors(channels) / precision.parts()
}

/// Vectors of 16 channels of a value with `channels` channels.
pub(crate) fn channel_vectors(channels: usize) -> usize {
    channels.div_ceil(CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE / 16
}

impl Convolution {
    /// Why the convolution is invalid, if it is.
    fn invalid_reason(&self, input: LayerInput) -> Option<String> {
        let Self { inputs, outputs, kernel, stride, padding, .. } = *self;
        let n_weights = [outputs, inputs, kernel, kernel].into_iter().try_fold(1, usize::checked_mul);
        if n_weights != Some(self.weights.len()) || self.bias.len() != outputs || self.weights.is_empty() {
            let (weights, bias) = (self.weights.len(), self.bias.len());
            return Some(format!(
                "expected weights [{outputs}, {inputs}, {kernel}, {kernel}] and bias [{outputs}], \
                 got {weights} and {bias} values"
            ));
        }
        if stride == 0 || padding >= kernel {
            return Some(format!(
                "expected a positive stride and a padding below the kernel size {kernel}, got stride {stride} and \
                 padding {padding}"
            ));
        }
        if input == LayerInput::Images && (inputs, stride) != (image::CHANNELS, 2) {
            return Some(format!(
                "the first layer must have 3 input channels and stride 2, got {inputs} and {stride}"
            ));
        }
        None
    }

    /// Packs the convolution for kernels of `layout`. Weights for a kernel that reads `bf16` are rounded by
    /// GPTQ if `grams`, the Gram matrices of the layer's inputs, are given and fit.
    pub(crate) fn pack(
        self,
        name: &str,
        layout: KernelLayout,
        input: LayerInput,
        grams: Option<&[Gram]>,
    ) -> Result<PackedConv, EngineError> {
        if let Some(problem) = self.invalid_reason(input) {
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let Self { inputs, outputs, kernel, stride, padding, .. } = self;
        let method = match (kernel, stride, padding) {
            _ if input == LayerInput::Images => Method::Image,
            (1, _, 0) => Method::Pointwise,
            (3, 1, 1) if layout.winograd => Method::Winograd,
            _ => Method::Direct,
        };
        // A k-block sums over the channels of a cache line; in the first layer, over a row of the kernel.
        let (channels, taps) = (16 * layout.parts, kernel * kernel);
        let input_blocks = inputs.div_ceil(channels);
        let (k_blocks, steps) = match method {
            Method::Image => (kernel, inputs * kernel),
            Method::Pointwise | Method::Winograd => (input_blocks, 16),
            Method::Direct => (input_blocks * taps, 16),
        };
        let panels = Panels { count: channel_vectors(outputs) / layout.vectors, k_blocks, steps };
        let matrices = if method == Method::Winograd { winograd::COMPONENTS } else { 1 };
        let mut weights = CacheLine::zeros(matrices * panels.count * panels.n_lines(layout));
        let weight = |output: usize, input: usize, tap: usize| {
            let inside = output < outputs && input < inputs;
            if inside { f64::from(self.weights[(output * inputs + input) * taps + tap]) } else { 0.0 }
        };
        let quantize = |matrix: &mut [f64], index: usize| {
            // The statistics may come from a kernel that computes the layer by another method, with other
            // matrices.
            let fits = |grams: &&[Gram]| {
                layout.parts == 2 && grams.len() == matrices && grams[index].size() == inputs
            };
            if let Some(grams) = grams.filter(fits).filter(|_| method != Method::Direct) {
                gptq::quantize_weights(matrix, &grams[index]);
            }
        };
        match method {
            Method::Image => pack(layout, panels, &mut weights, |Position { output, k_block, index }| {
                if index < inputs * kernel {
                    weight(output, index % inputs, k_block * kernel + index / inputs)
                } else {
                    0.0
                }
            }),
            Method::Pointwise | Method::Direct | Method::Winograd => {
                // One matrix per transform component, or one whose sums go over taps as well.
                let taps = if method == Method::Winograd { 1 } else { taps };
                let matrix_lines = panels.count * panels.n_lines(layout);
                for (index, weights) in weights.chunks_exact_mut(matrix_lines).enumerate() {
                    let mut matrix = self.gemm_matrix(method, index);
                    quantize(&mut matrix, index);
                    pack(layout, panels, weights, |Position { output, k_block, index }| {
                        let (input, tap) = (k_block / taps * channels + index, k_block % taps);
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
    /// The weight matrix `[O, C * K * K]` of the GEMM, or `[O, C]` of a Winograd transform component.
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
    /// Output size along an axis of `size`; `None` if the kernel does not fit.
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
        let packed = convolution.pack("layer", layout, LayerInput::Value, grams).unwrap();
        bytemuck::cast_slice::<CacheLine, u8>(&packed.weights).to_vec()
    }

    /// AMX computes a layer directly that the `f32` kernel of the statistics computes by Winograd's
    /// algorithm.
    #[test]
    fn gptq_uses_only_statistics_of_the_same_method() {
        let mut rng = TestRng(4);
        let samples: Vec<f32> = (0..64).flat_map(|_| vec![rng.next(); 16]).collect();
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
