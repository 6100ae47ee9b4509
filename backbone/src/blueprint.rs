//! What a ResNet is made of: names in the checkpoint and geometry, for whatever runs it.

use crate::architecture::{Architecture, STAGE_WIDTHS};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::BackboneError;

/// The epsilon of every BatchNorm in torchvision's ResNets.
pub(crate) const EPSILON: f64 = 1e-5;

/// Stride and padding, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// A convolution and the BatchNorm after it, by torchvision's names.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) conv: String,
    pub(crate) bn: String,
    pub(crate) geometry: Geometry,
}

/// A residual block: two convolutions (basic) or three (bottleneck), and a shortcut around them.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) convolutions: Vec<Part>,
    /// What the shortcut goes through; nothing where the sizes fit.
    pub(crate) shortcut: Option<Part>,
}

/// A convolution with BatchNorm folded in.
pub(crate) struct Folded {
    /// `[O, C, K, K]`.
    pub(crate) weight: Vec<f32>,
    pub(crate) dims: [usize; 4],
    /// `[O]`.
    pub(crate) bias: Vec<f32>,
}

/// 7 x 7 of stride 2; a 3 x 3 max pool of stride 2 follows.
pub(crate) fn stem() -> Part {
    let geometry = Geometry { stride: 2, padding: 3 };
    Part { conv: "conv1".into(), bn: "bn1".into(), geometry }
}

/// Stage `index` of four, blocks of one width; the first of a later stage halves height and width.
pub(crate) fn stage(architecture: Architecture, index: usize) -> Vec<Block> {
    let inside = STAGE_WIDTHS[index];
    let of = |block: usize| {
        let stride = if index > 0 && block == 0 { 2 } else { 1 };
        let name = format!("layer{}.{block}", index + 1);
        // The first block of a stage changes the width, but in stage 1 of the basic kind.
        let widens = block == 0 && (index > 0 || architecture.expansion() * inside != 64);
        let narrow = |stride| Geometry { stride, padding: 0 };
        let wide = |stride| Geometry { stride, padding: 1 };
        // torchvision's (V1.5): a bottleneck strides in its 3 x 3 convolution.
        let geometries = if architecture.has_bottlenecks() {
            vec![narrow(1), wide(stride), narrow(1)]
        } else {
            vec![wide(stride), wide(1)]
        };
        let part = |(part, geometry): (usize, Geometry)| Part {
            conv: format!("{name}.conv{part}"),
            bn: format!("{name}.bn{part}"),
            geometry,
        };
        Block {
            convolutions: (1..).zip(geometries).map(part).collect(),
            shortcut: widens.then(|| Part {
                conv: format!("{name}.downsample.0"),
                bn: format!("{name}.downsample.1"),
                geometry: narrow(stride),
            }),
        }
    };
    (0..architecture.depths()[index]).map(of).collect()
}

impl Part {
    /// Reads the weights and folds BatchNorm in, in `f64`.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a weight that is NaN or infinite and for a BatchNorm that cannot be computed.
    pub(crate) fn load(&self, checkpoint: &Checkpoint) -> Result<Folded, BackboneError> {
        let Self { conv, bn, .. } = self;
        let vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (gamma, beta) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let weight = checkpoint.tensor(&format!("{conv}.weight"))?;
        let dims = weight.dims4()?.into();
        let mut weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut bias = Vec::with_capacity(gamma.len());
        let each = weight.len() / gamma.len();
        for (o, kernel) in weight.chunks_exact_mut(each).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + EPSILON).sqrt();
            kernel.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            bias.push((f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32);
        }
        // A negative variance gives NaN.
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            let (path, name) = (checkpoint.path().into(), bn.clone());
            return Err(CheckpointError::BatchNorm { path, name }.into());
        }
        Ok(Folded { weight, dims, bias })
    }
}
