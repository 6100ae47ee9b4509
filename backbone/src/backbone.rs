//! A backbone that runs: pixels in, features out.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use headstock_engine::{ImageBatch, Isa, LayerTime, Normalization, OutputLayout, PixelValues, Session};

use crate::architecture::Architecture;
use crate::candle_resnet::CandleResNet;
use crate::checkpoint::Checkpoint;
use crate::compiled::CompiledBackbone;
use crate::device::{DeviceChoice, Precision};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::preprocessing::Preprocessing;

/// The smallest height and width: below it the last stage has nothing left to look at.
pub(crate) const MIN_SIDE: usize = 32;

/// A batch of photos, `u8` RGB, `[N, H, W, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct PixelBatch<'a> {
    data: &'a [u8],
    images: usize,
    height: usize,
    width: usize,
}

impl<'a> PixelBatch<'a> {
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
        if height < MIN_SIDE || width < MIN_SIDE {
            return Err(BackboneError::Pixels(format!(
                "photos of {height} x {width} pixels are too small: at least {MIN_SIDE} x {MIN_SIDE}"
            )));
        }
        Ok(Self { data, images: photos, height, width })
    }

    /// Normalised as `record` says, `[N, H, W, 3]`: what the network begins with.
    #[must_use]
    pub fn normalized(self, record: &Preprocessing) -> Vec<f32> {
        let tables = normalization_tables(record);
        let channels = tables.iter().cycle();
        self.data.iter().zip(channels).map(|(&value, table)| table[usize::from(value)]).collect()
    }
}

/// A frozen ResNet on a device: on the CPU the engine's, on CUDA candle's.
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
    backend: InferenceBackend,
    architecture: Architecture,
    threads: usize,
}

#[derive(Debug)]
enum InferenceBackend {
    Engine {
        compiled: CompiledBackbone,
        /// On all threads.
        session: Mutex<Session>,
    },
    Candle {
        network: CandleResNet,
        normalization: Box<Normalization>,
        device: Device,
        dtype: DType,
    },
}

/// One of those that run a [`Backbone`] side by side, each with photos of its own.
#[derive(Debug)]
pub struct InferenceWorker<'a> {
    backbone: &'a Backbone,
    /// On one thread, the caller's; without it the backbone's own is used.
    session: Option<Session>,
}

impl Backbone {
    /// Puts the weights on the device, BatchNorm folded in. On the CPU it runs on as many threads as rayon has.
    ///
    /// # Errors
    /// [`BackboneError::Device`] when the device is not there or cannot compute so, [`BackboneError::Checkpoint`] for a
    /// weight that is NaN or infinite and for a BatchNorm that cannot be computed, [`BackboneError::Engine`] when the
    /// instruction set that is forced is not to be had.
    pub fn new(
        checkpoint: &Checkpoint,
        device: DeviceChoice,
        precision: Precision,
    ) -> Result<Self, BackboneError> {
        let device = device.open()?;
        if device.is_cpu() {
            return Self::on_cpu(checkpoint, Isa::choose(precision.into())?, precision);
        }
        let dtype = precision.dtype();
        let network = CandleResNet::load(checkpoint, &Tensor::zeros(1, dtype, &device)?)?;
        let normalisation = Box::new(normalization_tables(checkpoint.preprocessing()));
        let runner = InferenceBackend::Candle { network, normalization: normalisation, device, dtype };
        Ok(Self { backend: runner, architecture: checkpoint.architecture(), threads: 1 })
    }

    /// As [`new`](Self::new) on the CPU, with an instruction set of the caller's choice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn on_cpu(checkpoint: &Checkpoint, isa: Isa, precision: Precision) -> Result<Self, BackboneError> {
        let threads = rayon::current_num_threads();
        let normalisation = normalization_tables(checkpoint.preprocessing());
        let frozen = CompiledBackbone::load(checkpoint, isa, precision.into(), normalisation)?;
        let session = Mutex::new(Session::new(frozen.network.clone(), threads)?);
        let runner = InferenceBackend::Engine { compiled: frozen, session };
        Ok(Self { backend: runner, architecture: checkpoint.architecture(), threads })
    }

    /// Which ResNet it is.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The number of features at `layer`, `F`.
    #[must_use]
    pub fn n_features(&self, layer: FeatureLayer) -> usize {
        layer.channels(self.architecture)
    }

    /// What runs it: `cuda`, or the CPU's instruction set (`amx-bf16`, `avx512-bf16`, `avx512`, `avx2`, `portable`).
    #[must_use]
    pub fn isa(&self) -> &'static str {
        match &self.backend {
            InferenceBackend::Engine { compiled: frozen, .. } => frozen.network.isa().as_str(),
            InferenceBackend::Candle { .. } => "cuda",
        }
    }

    /// Whether it runs on the CPU.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        matches!(self.backend, InferenceBackend::Engine { .. })
    }

    /// Those that run it side by side: on the CPU one for each thread, each in memory of its own; on CUDA one.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] when the engine cannot start.
    pub fn workers(&self) -> Result<Vec<InferenceWorker<'_>>, BackboneError> {
        match &self.backend {
            InferenceBackend::Engine { compiled: frozen, .. } => (0..self.threads)
                .map(|_| {
                    Ok(InferenceWorker {
                        backbone: self,
                        session: Some(Session::new(frozen.network.clone(), 1)?),
                    })
                })
                .collect(),
            InferenceBackend::Candle { .. } => Ok(vec![InferenceWorker { backbone: self, session: None }]),
        }
    }

    /// What the network gives at `layer`, `f32`: `[N, C, H', W']`, for `avgpool` `[N, C]`; [`Layer`] says the sizes.
    ///
    /// # Errors
    /// [`BackboneError::Candle`] when candle fails, out of memory for example.
    pub fn activations_nchw(
        &self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Tensor, BackboneError> {
        match &self.backend {
            InferenceBackend::Engine { session, .. } => {
                let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                let values = self.run_engine(&mut session, pixels, layer, OutputLayout::Nchw)?;
                let (photos, channels) = (pixels.images, self.n_features(layer));
                let (height, width) = layer.output_size(pixels.height, pixels.width);
                let dims = [photos, channels, height, width];
                let dims = if layer == FeatureLayer::Avgpool { &dims[..2] } else { &dims[..] };
                Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
            }
            InferenceBackend::Candle { network, normalization: normalisation, device, dtype } => {
                let input = normalized_nchw(pixels, normalisation, device)?.to_dtype(*dtype)?;
                Ok(network.forward(&input, layer)?.to_dtype(DType::F32)?)
            }
        }
    }

    /// Features at `layer`, `[N, F]` row-major: what the network gives there, averaged over its positions.
    ///
    /// # Errors
    /// As [`tap`](Self::tap).
    pub fn features(&self, pixels: PixelBatch<'_>, layer: FeatureLayer) -> Result<Vec<f32>, BackboneError> {
        match &self.backend {
            InferenceBackend::Engine { session, .. } => {
                let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                self.run_engine(&mut session, pixels, layer, OutputLayout::Pooled)
            }
            InferenceBackend::Candle { .. } => {
                let tap = self.activations_nchw(pixels, layer)?;
                let features =
                    if layer == FeatureLayer::Avgpool { tap } else { tap.flatten_from(2)?.mean(2)? };
                Ok(features.flatten_all()?.to_vec1()?)
            }
        }
    }

    /// What the network gives at `layer`, channels last: `[N, H', W', C]` row-major; [`Layer::size`] says `H'` and `W'`.
    ///
    /// # Errors
    /// As [`tap`](Self::tap).
    pub fn activations_nhwc(
        &self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        match &self.backend {
            InferenceBackend::Engine { session, .. } => {
                let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
                self.run_engine(&mut session, pixels, layer, OutputLayout::Nhwc)
            }
            InferenceBackend::Candle { .. } => {
                let tap = self.activations_nchw(pixels, layer)?;
                let last = if layer == FeatureLayer::Avgpool { tap } else { tap.permute((0, 2, 3, 1))? };
                Ok(last.flatten_all()?.to_vec1()?)
            }
        }
    }

    /// What each layer takes, over `runs` runs on one thread, and what that thread's arithmetic could do at most, in GFLOP/s.
    /// None on CUDA.
    ///
    /// # Errors
    /// As [`tap`](Self::tap).
    pub fn profile(
        &self,
        pixels: PixelBatch<'_>,
        runs: usize,
    ) -> Result<Option<(Vec<LayerTime>, f64)>, BackboneError> {
        let InferenceBackend::Engine { compiled: frozen, .. } = &self.backend else { return Ok(None) };
        let mut session = Session::new(frozen.network.clone(), 1)?;
        let layer = FeatureLayer::Avgpool;
        self.run_engine(&mut session, pixels, layer, OutputLayout::Pooled)?;
        session.set_layer_timing(true);
        for _ in 0..runs {
            self.run_engine(&mut session, pixels, layer, OutputLayout::Pooled)?;
        }
        let peak = headstock_engine::peak_gflops(frozen.network.isa(), frozen.network.precision())?;
        Ok(Some((session.layer_times(), peak)))
    }

    /// What the engine gives at `layer`.
    fn run_engine(
        &self,
        session: &mut Session,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
        layout: OutputLayout,
    ) -> Result<Vec<f32>, BackboneError> {
        let InferenceBackend::Engine { compiled: frozen, .. } = &self.backend else {
            unreachable!("only the engine has sessions")
        };
        let form = if layer == FeatureLayer::Avgpool { OutputLayout::Pooled } else { layout };
        let (height, width) = if form == OutputLayout::Pooled {
            (1, 1)
        } else {
            layer.output_size(pixels.height, pixels.width)
        };
        let mut values = vec![0.0; pixels.images * height * width * self.n_features(layer)];
        session.run(pixels.into(), frozen.tap(layer), form, &mut values)?;
        Ok(values)
    }
}

impl InferenceWorker<'_> {
    /// As [`Backbone::features`]. Batches of a multiple of eight photos make the most of the weights.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub fn features(
        &mut self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        match &mut self.session {
            Some(session) => self.backbone.run_engine(session, pixels, layer, OutputLayout::Pooled),
            None => self.backbone.features(pixels, layer),
        }
    }

    /// As [`Backbone::activations`].
    ///
    /// # Errors
    /// As there.
    pub fn activations_nhwc(
        &mut self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        match &mut self.session {
            Some(session) => self.backbone.run_engine(session, pixels, layer, OutputLayout::Nhwc),
            None => self.backbone.activations_nhwc(pixels, layer),
        }
    }
}

impl<'a> From<PixelBatch<'a>> for ImageBatch<'a> {
    fn from(pixels: PixelBatch<'a>) -> Self {
        let PixelBatch { data, images: photos, height, width } = pixels;
        Self { values: PixelValues::U8(data), count: photos, height, width }
    }
}

/// What `u8` value `v` of a channel becomes: `(v / 255 - mean) / std`.
pub(crate) fn normalization_tables(record: &Preprocessing) -> Normalization {
    let normalize =
        |channel: usize, value: usize| (value as f32 / 255.0 - record.mean[channel]) / record.std[channel];
    [0, 1, 2].map(|channel| std::array::from_fn(|value| normalize(channel, value)))
}

/// Normalised, channels first: `[N, 3, H, W]`.
pub(crate) fn normalized_nchw(
    pixels: PixelBatch<'_>,
    normalisation: &Normalization,
    device: &Device,
) -> Result<Tensor, BackboneError> {
    let PixelBatch { data, images: photos, height, width } = pixels;
    let mut planes = Vec::with_capacity(data.len());
    for photo in data.chunks_exact(height * width * 3) {
        for (channel, table) in normalisation.iter().enumerate() {
            planes.extend(photo[channel..].iter().step_by(3).map(|&value| table[usize::from(value)]));
        }
    }
    Ok(Tensor::from_vec(planes, (photos, 3, height, width), device)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::WeightsSource;

    /// candle's way, on the CPU.
    fn candle_backbone(checkpoint: &Checkpoint) -> Backbone {
        let (device, dtype) = (Device::Cpu, DType::F32);
        let network = CandleResNet::load(checkpoint, &Tensor::zeros(1, dtype, &device).unwrap()).unwrap();
        let normalisation = Box::new(normalization_tables(checkpoint.preprocessing()));
        let runner = InferenceBackend::Candle { network, normalization: normalisation, device, dtype };
        Backbone { backend: runner, architecture: checkpoint.architecture(), threads: 1 }
    }

    #[test]
    fn activations_are_the_tap_with_channels_last() {
        let source =
            WeightsSource::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..2 * 65 * 96 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 65, 96).unwrap();
        let engine = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
        for backbone in [engine, candle_backbone(&checkpoint)] {
            let mut worker = backbone.workers().unwrap().remove(0);
            for layer in FeatureLayer::ALL {
                let tap = backbone.activations_nchw(pixels, layer).unwrap();
                let (height, width) = layer.output_size(65, 96);
                let dims = [2, backbone.n_features(layer), height, width];
                let tap = tap.reshape(&dims).unwrap().permute((0, 2, 3, 1)).unwrap();
                let tap: Vec<f32> = tap.flatten_all().unwrap().to_vec1().unwrap();
                assert!(backbone.activations_nhwc(pixels, layer).unwrap() == tap, "{layer}");
                assert!(worker.activations_nhwc(pixels, layer).unwrap() == tap, "{layer}");
            }
        }
    }

    /// Both ways of running give the same features, and say which they are.
    #[test]
    fn candles_features_are_the_engines() {
        let source =
            WeightsSource::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..2 * 33 * 64 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 33, 64).unwrap();
        let engine = Backbone::on_cpu(&checkpoint, Isa::Portable, Precision::F32).unwrap();
        let candle = candle_backbone(&checkpoint);
        assert_eq!((engine.isa(), engine.is_on_cpu()), ("portable", true));
        assert_eq!((candle.isa(), candle.is_on_cpu()), ("cuda", false));
        assert!(candle.profile(pixels, 1).unwrap().is_none());
        assert_eq!(candle.workers().unwrap().len(), 1);
        for layer in [FeatureLayer::Stem, FeatureLayer::Layer3, FeatureLayer::Avgpool] {
            let (ours, theirs) =
                (candle.features(pixels, layer).unwrap(), engine.features(pixels, layer).unwrap());
            assert_eq!(candle.n_features(layer), engine.n_features(layer));
            crate::support::assert_close(&ours, &theirs, 1e-4, layer.as_str());
            assert_eq!(candle.workers().unwrap()[0].features(pixels, layer).unwrap(), ours);
        }
    }

    #[test]
    fn a_profile_has_every_layer_of_the_network_and_the_roof_over_them() {
        let checkpoint =
            crate::support::StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
        let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
        let bytes = vec![100; 32 * 32 * 3];
        let (layers, peak) =
            backbone.profile(PixelBatch::new(&bytes, 1, 32, 32).unwrap(), 1).unwrap().unwrap();
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names[..4], ["conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2"]);
        // A stem, a pool, two convolutions a block, and three shortcuts.
        assert_eq!((names.len(), names[20]), (1 + 1 + 8 * 2 + 3, "layer4.1.conv2"));
        assert!(layers.iter().all(|layer| !layer.time.is_zero()) && peak.is_normal());
    }

    /// `(v / 255 - mean) / std`, each channel by its own.
    #[test]
    fn pixels_are_normalised_channel_by_channel() {
        let record =
            Preprocessing { mean: [0.5, 0.25, 0.0], std: [0.5, 0.25, 2.0], ..Preprocessing::default() };
        let mut bytes = vec![0; 32 * 32 * 3];
        bytes[..6].copy_from_slice(&[255, 255, 255, 51, 102, 204]);
        let values = PixelBatch::new(&bytes, 1, 32, 32).unwrap().normalized(&record);
        let expected = [1.0, 3.0, 0.5, (0.2 - 0.5) / 0.5, (0.4 - 0.25) / 0.25, 0.4, -1.0, -1.0, 0.0];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{value}, not {expected}");
        }
    }

    #[test]
    fn normalised_pixels_are_the_planes_with_channels_last() {
        let record = Preprocessing { std: [0.2, 0.3, 0.4], ..Preprocessing::default() };
        let bytes: Vec<u8> = (0..2 * 32 * 33 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 32, 33).unwrap();
        let planes = normalized_nchw(pixels, &normalization_tables(&record), &Device::Cpu).unwrap();
        let planes: Vec<f32> =
            planes.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(pixels.normalized(&record), planes);
    }
}
