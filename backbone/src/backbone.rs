//! A backbone that runs: pixels in, features out.

use candle_core::{DType, Device, Tensor};
use headstock_engine::Isa;

use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::device::{DeviceChoice, Precision};
use crate::error::BackboneError;
use crate::layer::Layer;
use crate::resnet::ResNet;

/// The smallest height and width: below it the last stage has nothing left to look at.
pub(crate) const SMALLEST_SIDE: usize = 32;

/// A batch of photos, `u8` RGB, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    data: &'a [u8],
    photos: usize,
    height: usize,
    width: usize,
}

impl<'a> Pixels<'a> {
    /// Wraps `data` as `photos` photos of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`BackboneError::Pixels`] when the length does not fit, there is no photo, or a side is below 32 pixels.
    pub fn new(data: &'a [u8], photos: usize, height: usize, width: usize) -> Result<Self, BackboneError> {
        let bytes = [photos, height, width, 3].into_iter().try_fold(1, usize::checked_mul);
        if photos == 0 || bytes != Some(data.len()) {
            let length = data.len();
            return Err(BackboneError::Pixels(format!(
                "{length} bytes are not [{photos}, {height}, {width}, 3] pixels"
            )));
        }
        if height < SMALLEST_SIDE || width < SMALLEST_SIDE {
            return Err(BackboneError::Pixels(format!(
                "photos of {height} x {width} pixels are too small: at least {SMALLEST_SIDE} x {SMALLEST_SIDE}"
            )));
        }
        Ok(Self { data, photos, height, width })
    }
}

/// A frozen ResNet on a device.
///
/// The features of a photo are the same to the bit whatever the other photos of its batch, and on any number of threads.
///
/// ```
/// use std::path::Path;
///
/// use headstock_backbone::{Backbone, Checkpoint, DeviceChoice, Layer, Pixels, Precision, Source};
///
/// let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
/// let source = Source::parse("demo/backbone", &project)?;
/// let checkpoint = Checkpoint::open(&source.fetch(&())?)?;
/// let backbone = Backbone::new(&checkpoint, DeviceChoice::Auto, Precision::F32)?;
///
/// // Two grey photos of 64 x 96 pixels.
/// let pixels = vec![128; 2 * 64 * 96 * 3];
/// let pixels = Pixels::new(&pixels, 2, 64, 96)?;
/// assert_eq!(backbone.features(pixels, Layer::Avgpool)?.len(), 2 * 2048);
/// assert_eq!(backbone.tap(pixels, Layer::Layer3)?.dims(), [2, 1024, 4, 6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Backbone {
    network: ResNet,
    architecture: Architecture,
    /// What `u8` value `v` of a channel becomes: `(v / 255 - mean) / std`.
    normalised: [[f32; 256]; 3],
    device: Device,
    dtype: DType,
}

impl Backbone {
    /// Puts the weights on the device, BatchNorm folded in.
    ///
    /// # Errors
    /// [`BackboneError::Device`] when the device is not there or cannot compute so, [`BackboneError::Checkpoint`] for a
    /// weight that is NaN or infinite and for a BatchNorm that cannot be computed.
    pub fn new(
        checkpoint: &Checkpoint,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let device = device.open(precision)?;
        let like = Tensor::zeros(1, precision.dtype(), &device)?;
        let record = checkpoint.preprocessing();
        let normalised = [0, 1, 2].map(|channel| {
            std::array::from_fn(|value| (value as f32 / 255.0 - record.mean[channel]) / record.std[channel])
        });
        let network = ResNet::load(checkpoint, &like)?;
        Ok(Self {
            network,
            architecture: checkpoint.architecture(),
            normalised,
            device,
            dtype: precision.dtype(),
        })
    }

    /// Which ResNet it is.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The number of features at `layer`, `F`.
    #[must_use]
    pub fn width(&self, layer: Layer) -> usize {
        layer.channels(self.architecture)
    }

    /// What runs it: `cuda`, or the CPU's widest instruction set (`avx512`, `avx2`, `portable`).
    #[must_use]
    pub fn isa(&self) -> &'static str {
        if self.is_on_cpu() { Isa::detect().as_str() } else { "cuda" }
    }

    /// Whether it runs on the CPU.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// What the network gives at `layer`, `f32`: `[N, C, H', W']`, for `avgpool` `[N, C]`; [`Layer`] says the sizes. On the
    /// CPU photos go through in groups of eight, about one group a thread at a time.
    ///
    /// # Errors
    /// [`BackboneError::Candle`] when candle fails, out of memory for example.
    pub fn tap(&self, pixels: Pixels<'_>, layer: Layer) -> Result<Tensor, BackboneError> {
        let input = self.input(pixels)?.to_dtype(self.dtype)?;
        Ok(self.network.forward(&input, layer)?.to_dtype(DType::F32)?)
    }

    /// Features at `layer`, `[N, F]` row-major: what the network gives there, averaged over its positions.
    ///
    /// # Errors
    /// As [`tap`](Self::tap).
    pub fn features(&self, pixels: Pixels<'_>, layer: Layer) -> Result<Vec<f32>, BackboneError> {
        let tap = self.tap(pixels, layer)?;
        let features = if layer == Layer::Avgpool { tap } else { tap.flatten_from(2)?.mean(2)? };
        Ok(features.flatten_all()?.to_vec1()?)
    }

    /// Those that run the network side by side: on the CPU one for each thread of the current rayon pool, on CUDA one.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use headstock_backbone::{Backbone, Checkpoint, DeviceChoice, Layer, Pixels, Precision, Source};
    /// # let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    /// # let checkpoint = Checkpoint::open(&Source::parse("demo/backbone", &project)?.fetch(&())?)?;
    /// let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32)?;
    /// let data = vec![128; 32 * 32 * 3];
    /// std::thread::scope(|scope| {
    ///     for mut worker in backbone.workers() {
    ///         let pixels = Pixels::new(&data, 1, 32, 32).unwrap();
    ///         scope.spawn(move || assert_eq!(worker.features(pixels, Layer::Avgpool).unwrap().len(), 2048));
    ///     }
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn workers(&self) -> Vec<Worker<'_>> {
        let count = if self.is_on_cpu() { rayon::current_num_threads() } else { 1 };
        (0..count).map(|_| Worker { backbone: self }).collect()
    }

    /// Normalised, channels first: `[N, 3, H, W]`.
    fn input(&self, pixels: Pixels<'_>) -> Result<Tensor, BackboneError> {
        let Pixels { data, photos, height, width } = pixels;
        let mut planes = Vec::with_capacity(data.len());
        for photo in data.chunks_exact(height * width * 3) {
            for (channel, table) in self.normalised.iter().enumerate() {
                planes.extend(photo[channel..].iter().step_by(3).map(|&value| table[usize::from(value)]));
            }
        }
        Ok(Tensor::from_vec(planes, (photos, 3, height, width), &self.device)?)
    }
}

/// One of those that run a [`Backbone`] side by side, each on a thread of its own.
#[derive(Debug)]
pub struct Worker<'a> {
    backbone: &'a Backbone,
}

impl Worker<'_> {
    /// As [`Backbone::features`], and the same to the bit.
    ///
    /// # Errors
    /// As there.
    pub fn features(&mut self, pixels: Pixels<'_>, layer: Layer) -> Result<Vec<f32>, BackboneError> {
        self.backbone.features(pixels, layer)
    }
}
