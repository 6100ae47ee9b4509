//! Convolutions: their description, and their packed form.

use rayon::prelude::*;

use crate::cache_line::CacheLine;
use crate::dispatch::KernelLayout;
use crate::error::EngineError;
use crate::gptq::{self, Gram};
use crate::image;
use crate::isa::DType;
use crate::pack::{Panels, WeightPosition, pack_panels};
use crate::winograd;

/// A convolution, with BatchNorm folded into weights and bias.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// Input channels, `C`.
    pub inputs: usize,
    /// Output channels, `O`.
    pub outputs: usize,
    /// Height and width of the convolution's kernel, `K`.
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
    /// The first layer, with stride 2: one GEMM that reads rows of the normalized images.
    FirstLayer,
    /// 1 x 1: one GEMM, over a subsampled copy of the input if the stride is above 1.
    Pointwise,
    /// One GEMM over input channels and kernel positions, which reads a padded copy of the input.
    Direct,
    /// Winograd's algorithm F(4 x 4, 3 x 3): one GEMM per transform component.
    Winograd,
}

/// A convolution packed for the kernels of one instruction set.
pub(crate) struct PackedConv {
    pub(crate) method: Method,
    /// Sizes of each packed matrix.
    pub(crate) panels: Panels,
    /// The packed matrices: 36 with Winograd's algorithm, else one.
    pub(crate) weights: Vec<CacheLine>,
    /// `[O]`, padded with zeros to whole vectors.
    pub(crate) bias: Vec<f32>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel_size: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// Channels of a value are padded with zeros to a multiple of this, for any kernel and precision.
const CHANNEL_MULTIPLE: usize = 32;

/// Number of channel blocks that hold `channels` channels, with padding, in `precision`.
pub(crate) fn channel_blocks(precision: DType, channels: usize) -> usize {
    channel_vectors(channels) / precision.vectors_per_line()
}

/// Number of vectors of 16 channels that hold `channels` channels, with padding.
pub(crate) fn channel_vectors(channels: usize) -> usize {
    channels.div_ceil(CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE / 16
}

impl Convolution {
    /// Why the weights cannot be packed (rearranged for the kernels), for an error message: lengths or sizes
    /// do not fit, or `input` is images and this cannot be a first layer. `None` if they can be packed.
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
                "expected a positive stride and a padding below the kernel size {kernel}, got stride \
                 {stride} and padding {padding}"
            ));
        }
        if input == LayerInput::Images && (inputs, stride) != (image::CHANNELS, 2) {
            return Some(format!(
                "the first layer must have 3 input channels and stride 2, got {inputs} input channels and \
                 stride {stride}"
            ));
        }
        None
    }

    /// Chooses the method that is fastest with the GEMM kernel that `layout` describes, and packs the weights
    /// in the order in which that kernel reads them.
    ///
    /// A kernel that reads `bf16` needs rounded weights. They are rounded by GPTQ if `grams`, the Gram
    /// matrices of the layer's inputs, are given and were collected for the same method, and else to nearest.
    ///
    /// # Errors
    /// [`EngineError::Layer`], with `name`, if the convolution is invalid.
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
            _ if input == LayerInput::Images => Method::FirstLayer,
            (1, _, 0) => Method::Pointwise,
            (3, 1, 1) if layout.prefers_winograd => Method::Winograd,
            _ => Method::Direct,
        };
        let kernel_area = kernel * kernel;
        let channels_per_line = 16 * layout.vectors_per_line;
        let input_blocks = inputs.div_ceil(channels_per_line);
        // The sum over inputs is split into k-blocks of steps. A k-block sums over the channels of a cache
        // line (16 steps of 4 bytes); in the first layer, over a row of the convolution's kernel.
        let (k_blocks, steps) = match method {
            Method::FirstLayer => (kernel, inputs * kernel),
            Method::Pointwise | Method::Winograd => (input_blocks, 16),
            Method::Direct => (input_blocks * kernel_area, 16),
        };
        let panels = Panels { count: channel_vectors(outputs) / layout.vectors_per_panel, k_blocks, steps };
        let n_matrices = if method == Method::Winograd { winograd::COMPONENTS } else { 1 };
        let matrix_lines = panels.count * panels.lines_per_panel(layout);
        let mut weights = CacheLine::zeros(n_matrices * matrix_lines);
        // Rounds a matrix by GPTQ if possible; else `pack_panels` rounds it to nearest.
        // `grams` do not fit if they were collected with a kernel that computes the layer by another method.
        let quantize_if_possible = |matrix: &mut [f64], matrix_index: usize| {
            let reads_bf16 = layout.vectors_per_line == 2;
            let fit = |grams: &&[Gram]| grams.len() == n_matrices && grams[matrix_index].size == inputs;
            if let Some(grams) = grams.filter(fit).filter(|_| reads_bf16 && method != Method::Direct) {
                gptq::quantize_weights(matrix, &grams[matrix_index]);
            }
        };
        // `pack_panels` asks for the weight at each position of the packed order. The weights of padded
        // outputs, inputs and steps are 0.
        match method {
            Method::FirstLayer => {
                pack_panels(layout, panels, &mut weights, |WeightPosition { output, k_block, offset }| {
                    let (kernel_position, input) = (k_block * kernel + offset / inputs, offset % inputs);
                    let inside = output < outputs && offset < inputs * kernel;
                    let weight = || self.weights[(output * inputs + input) * kernel_area + kernel_position];
                    if inside { f64::from(weight()) } else { 0.0 }
                });
            }
            Method::Pointwise | Method::Direct | Method::Winograd => {
                // The matrix of a Winograd component has a column per input, others per input and position.
                let n_positions = if method == Method::Winograd { 1 } else { kernel_area };
                for (matrix_index, weights) in weights.chunks_exact_mut(matrix_lines).enumerate() {
                    let mut matrix = self.gemm_matrix(method, matrix_index);
                    quantize_if_possible(&mut matrix, matrix_index);
                    pack_panels(layout, panels, weights, |WeightPosition { output, k_block, offset }| {
                        let input = k_block / n_positions * channels_per_line + offset;
                        let column = input * n_positions + k_block % n_positions;
                        let inside = output < outputs && input < inputs;
                        if inside { matrix[output * inputs * n_positions + column] } else { 0.0 }
                    });
                }
            }
        }
        let mut bias = self.bias;
        bias.resize(16 * channel_vectors(outputs), 0.0);
        let kernel_size = kernel;
        Ok(PackedConv { method, panels, weights, bias, inputs, outputs, kernel_size, stride, padding })
    }

    /// The matrix that the GEMM multiplies the inputs with, before rounding and packing: the weights as
    /// `[outputs, inputs * kernel * kernel]`, or for Winograd's algorithm component `component` (of 36, each
    /// with its own GEMM) of the transformed kernels, `[outputs, inputs]`. Other methods ignore `component`.
    fn gemm_matrix(&self, method: Method, component: usize) -> Vec<f64> {
        if method != Method::Winograd {
            return self.weights.iter().map(|&weight| f64::from(weight)).collect();
        }
        // A component of a transformed kernel is a weighted sum of the kernel's 9 weights.
        let factors = winograd::kernel_transform_factors(component);
        let to_component = |kernel: &[f32]| {
            factors.iter().zip(kernel).map(|(factor, &weight)| factor * f64::from(weight)).sum()
        };
        self.weights.par_chunks_exact(factors.len()).map(to_component).collect()
    }
}

impl PackedConv {
    /// Number of channel blocks of the input, for a direct convolution. Each of its k-blocks is one position
    /// in the convolution's kernel of one channel block.
    pub(crate) fn input_blocks(&self) -> usize {
        self.panels.k_blocks / (self.kernel_size * self.kernel_size)
    }

    /// Height or width of the output for an input of that height or width; `None` if the kernel does not fit.
    pub(crate) fn output_len(&self, input_len: usize) -> Option<usize> {
        Some((input_len + 2 * self.padding).checked_sub(self.kernel_size)? / self.stride + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::AnyKernel;
    use crate::tests::TestRng;

    /// The packed weights of a 3 x 3 convolution of 16 to 32 channels in `bf16`.
    fn packed(prefers_winograd: bool, grams: Option<&[Gram]>) -> Vec<u8> {
        let layout =
            KernelLayout { max_rows: 1, vectors_per_panel: 2, vectors_per_line: 2, prefers_winograd };
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
