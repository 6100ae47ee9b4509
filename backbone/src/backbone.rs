//! Inference with a frozen backbone: pixels to features.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use headstock_engine::{ImageBatch, Isa, LayerTime, Normalization, OutputLayout, PixelValues, Session};

use crate::architecture::{Architecture, MIN_SIDE};
use crate::candle_resnet::CandleResNet;
use crate::checkpoint::Checkpoint;
use crate::compiled::CompiledBackbone;
use crate::device::{DeviceChoice, Precision};
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::preprocessing::Preprocessing;

/// A batch of RGB images of one size, `u8` `[N, H, W, 3]`: the input of a [`Backbone`].
#[derive(Clone, Copy, Debug)]
pub struct PixelBatch<'a> {
    data: &'a [u8],
    images: usize,
    height: usize,
    width: usize,
}

impl<'a> PixelBatch<'a> {
    /// Wraps `data`, row-major `[images, height, width, 3]`, as a batch of `images` RGB images of `height` x
    /// `width` pixels, and checks its length.
    ///
    /// # Errors
    /// [`BackboneError::Pixels`] if the length of `data` is wrong, there is no image, or a side is below 32,
    /// the factor by which the network divides each side.
    pub fn new(data: &'a [u8], images: usize, height: usize, width: usize) -> Result<Self, BackboneError> {
        // `checked_mul`, because the product of the sizes may overflow.
        let expected_bytes = [images, height, width, 3].into_iter().try_fold(1, usize::checked_mul);
        if images == 0 || expected_bytes != Some(data.len()) {
            let length = data.len();
            return Err(BackboneError::Pixels(format!(
                "{length} bytes are not a batch of RGB pixels of shape [{images}, {height}, {width}, 3]"
            )));
        }
        if height < MIN_SIDE || width < MIN_SIDE {
            return Err(BackboneError::Pixels(format!(
                "photos of {height} x {width} pixels are too small for the backbone: use photos of at least \
                 {MIN_SIDE} x {MIN_SIDE} pixels"
            )));
        }
        Ok(Self { data, images, height, width })
    }

    /// The pixels normalized with the mean and std of `preprocessing`, `[N, H, W, 3]`: the input of a
    /// [`TrainableBackbone`](crate::TrainableBackbone) that trains the stem.
    #[must_use]
    pub fn normalized(self, preprocessing: &Preprocessing) -> Vec<f32> {
        let tables = normalization_tables(preprocessing);
        // The channels R, G, B of the pixels alternate.
        let channel_tables = tables.iter().cycle();
        self.data.iter().zip(channel_tables).map(|(&value, table)| table[usize::from(value)]).collect()
    }
}

/// A frozen ResNet on a device: headstock's engine on the CPU, candle on CUDA.
///
/// The features of an image are bit-identical for any batch and any number of threads. A clone shares the
/// weights.
///
/// ```
/// use std::path::Path;
///
/// use headstock_backbone::{
///     Backbone, Checkpoint, DeviceChoice, FeatureLayer, PixelBatch, Precision, WeightsSource,
/// };
///
/// let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
/// let source = WeightsSource::parse("demo/backbone", &project)?;
/// let checkpoint = Checkpoint::open(&source.fetch(&())?)?;
/// let backbone = Backbone::new(&checkpoint, DeviceChoice::Auto, Precision::F32)?;
///
/// // Two gray images of 64 x 96 pixels.
/// let bytes = vec![128; 2 * 64 * 96 * 3];
/// let pixels = PixelBatch::new(&bytes, 2, 64, 96)?;
/// assert_eq!(backbone.features(pixels, FeatureLayer::Avgpool)?.len(), 2 * 2048);
/// assert_eq!(backbone.activations_nchw(pixels, FeatureLayer::Layer3)?.dims(), [2, 1024, 4, 6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Backbone {
    backend: Arc<InferenceBackend>,
    architecture: Architecture,
    /// The number of threads that the engine uses, which is also the number of [`workers`](Self::workers).
    threads: usize,
}

/// The implementation that runs the network.
#[derive(Debug)]
enum InferenceBackend {
    /// headstock's engine, on the CPU.
    Engine {
        compiled: CompiledBackbone,
        /// Runs on all threads.
        session: Mutex<Session>,
    },
    /// The tensor library candle, on a GPU.
    Candle {
        network: CandleResNet,
        /// What the pixels are normalized with before they are the input of `network`.
        normalization: Box<Normalization>,
        device: Device,
        /// The type of the weights and activations of `network`.
        dtype: DType,
    },
}

/// Runs a [`Backbone`] concurrently with other workers, each on its own batches.
#[derive(Debug)]
pub struct InferenceWorker {
    backbone: Backbone,
    /// Runs on the calling thread; without it the worker uses the session of the backbone.
    session: Option<Session>,
}

impl Backbone {
    /// Loads the weights onto the device, with BatchNorm folded in. On the CPU the engine uses all threads of
    /// rayon and the fastest instruction set of this CPU.
    ///
    /// # Errors
    /// [`BackboneError::Device`] if the device is not available, [`BackboneError::Checkpoint`] for a NaN or
    /// infinite weight and for a BatchNorm that cannot be folded, [`BackboneError::Engine`] if this CPU lacks
    /// `bf16` arithmetic or a forced instruction set.
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
        // The tensor of zeros only tells `load` the device and the type.
        let network = CandleResNet::load(checkpoint, &Tensor::zeros(1, dtype, &device)?)?;
        let normalization = Box::new(normalization_tables(checkpoint.preprocessing()));
        let backend = Arc::new(InferenceBackend::Candle { network, normalization, device, dtype });
        Ok(Self { backend, architecture: checkpoint.architecture(), threads: 1 })
    }

    /// Loads the weights into the CPU engine. Unlike [`new`](Self::new), it uses the instruction set `isa`,
    /// not the fastest one of this CPU, so that tests can compare the features of several instruction sets.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn on_cpu(checkpoint: &Checkpoint, isa: Isa, precision: Precision) -> Result<Self, BackboneError> {
        let threads = rayon::current_num_threads();
        let normalization = normalization_tables(checkpoint.preprocessing());
        let compiled = CompiledBackbone::load(checkpoint, isa, precision.into(), normalization)?;
        let session = Mutex::new(Session::new(compiled.network.clone(), threads)?);
        let backend = Arc::new(InferenceBackend::Engine { compiled, session });
        Ok(Self { backend, architecture: checkpoint.architecture(), threads })
    }

    /// The architecture of the network.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The number of features at `layer`, `F`.
    #[must_use]
    pub fn n_features(&self, layer: FeatureLayer) -> usize {
        layer.channels(self.architecture)
    }

    /// What computes the features, for the report of benchmarks: `cuda`, or the CPU instruction set in use
    /// (`amx-bf16`, `avx512-bf16`, `avx512`, `avx2`, `portable`).
    #[must_use]
    pub fn isa(&self) -> &'static str {
        match &*self.backend {
            InferenceBackend::Engine { compiled, .. } => compiled.network.isa().as_str(),
            InferenceBackend::Candle { .. } => "cuda",
        }
    }

    /// Whether the backbone runs on the CPU.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        matches!(*self.backend, InferenceBackend::Engine { .. })
    }

    /// Workers, each of which runs inference on its own batches in a thread of the caller: on the CPU one per
    /// thread, on CUDA only one. So several batches run at once, while [`features`](Self::features) splits
    /// one batch over all threads.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] if the engine cannot start.
    pub fn workers(&self) -> Result<Vec<InferenceWorker>, BackboneError> {
        (0..self.threads).map(|_| self.worker()).collect()
    }

    /// One more worker. On the CPU it has its own memory for activations, which it keeps between batches.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] if the engine cannot start.
    pub fn worker(&self) -> Result<InferenceWorker, BackboneError> {
        let session = match &*self.backend {
            InferenceBackend::Engine { compiled, .. } => Some(Session::new(compiled.network.clone(), 1)?),
            InferenceBackend::Candle { .. } => None,
        };
        Ok(InferenceWorker { backbone: self.clone(), session })
    }

    /// The number of workers that can run at once.
    #[must_use]
    pub fn n_workers(&self) -> usize {
        self.threads
    }

    /// Activations of `layer` as a tensor on the device of the backbone, in PyTorch's layout, `f32`
    /// `[N, C, H', W']` ([`FeatureLayer`] lists the sizes); `[N, C]` for `avgpool`. Use it to compare with
    /// PyTorch or to compute further with candle.
    ///
    /// # Errors
    /// [`BackboneError::Engine`] or [`BackboneError::Candle`] if inference fails, for example out of memory.
    pub fn activations_nchw(
        &self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Tensor, BackboneError> {
        if let InferenceBackend::Candle { network, normalization, device, dtype } = &*self.backend {
            let input = normalized_nchw(pixels, normalization, device)?.to_dtype(*dtype)?;
            return Ok(network.forward(&input, layer)?.to_dtype(DType::F32)?);
        }
        let values = self.run(None, pixels, layer, OutputLayout::Nchw)?;
        let (height, width) = layer.output_size(pixels.height, pixels.width);
        let dims = [pixels.images, self.n_features(layer), height, width];
        let dims = if layer == FeatureLayer::Avgpool { &dims[..2] } else { &dims[..] };
        Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
    }

    /// Features of the images, `[N, F]` row-major, for a head to train on or to classify: the activations of
    /// `layer`, averaged over all positions of an image. `F` is [`n_features`](Self::n_features).
    ///
    /// # Errors
    /// The errors of [`activations_nchw`](Self::activations_nchw).
    pub fn features(&self, pixels: PixelBatch<'_>, layer: FeatureLayer) -> Result<Vec<f32>, BackboneError> {
        self.run(None, pixels, layer, OutputLayout::Pooled)
    }

    /// Activations of `layer`, `[N, H', W', C]` row-major (`[N, C]` for `avgpool`): the input of a
    /// [`TrainableBackbone`](crate::TrainableBackbone), which trains the layers after `layer`.
    /// [`FeatureLayer::output_size`] gives `H'` and `W'`.
    ///
    /// # Errors
    /// The errors of [`activations_nchw`](Self::activations_nchw).
    pub fn activations_nhwc(
        &self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        self.run(None, pixels, layer, OutputLayout::Nhwc)
    }

    /// Runs the whole network `runs` times on one thread and measures it, for benchmarks. Returns the time of
    /// each layer, summed over the runs, and the peak GFLOP/s of one thread of this CPU, which no layer can
    /// exceed. `None` on CUDA.
    ///
    /// # Errors
    /// The errors of [`activations_nchw`](Self::activations_nchw).
    pub fn profile(
        &self,
        pixels: PixelBatch<'_>,
        runs: usize,
    ) -> Result<Option<(Vec<LayerTime>, f64)>, BackboneError> {
        let InferenceBackend::Engine { compiled, .. } = &*self.backend else { return Ok(None) };
        let mut session = Session::new(compiled.network.clone(), 1)?;
        let layer = FeatureLayer::Avgpool;
        // The first run warms up the caches and is not timed.
        self.run(Some(&mut session), pixels, layer, OutputLayout::Pooled)?;
        session.set_layer_timing(true);
        for _ in 0..runs {
            self.run(Some(&mut session), pixels, layer, OutputLayout::Pooled)?;
        }
        let peak = headstock_engine::peak_gflops(compiled.network.isa(), compiled.network.precision())?;
        Ok(Some((session.layer_times(), peak)))
    }

    /// Runs the network and returns the activations of `layer` in `layout`, row-major. Those of `avgpool` are
    /// `[N, C]` in any layout. The engine runs in `session`, a session of the compiled network of this
    /// backbone, or else in the one that uses all threads.
    fn run(
        &self,
        session: Option<&mut Session>,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
        layout: OutputLayout,
    ) -> Result<Vec<f32>, BackboneError> {
        let layout = if layer == FeatureLayer::Avgpool { OutputLayout::Pooled } else { layout };
        let InferenceBackend::Engine { compiled, session: shared } = &*self.backend else {
            let nchw = self.activations_nchw(pixels, layer)?;
            let values = match layout {
                // The activations of `avgpool` are averages already, `[N, C]`.
                OutputLayout::Pooled if layer != FeatureLayer::Avgpool => nchw.flatten_from(2)?.mean(2)?,
                OutputLayout::Nhwc => nchw.permute((0, 2, 3, 1))?,
                _ => nchw,
            };
            return Ok(values.flatten_all()?.to_vec1()?);
        };
        let (height, width) = match layout {
            OutputLayout::Pooled => (1, 1),
            _ => layer.output_size(pixels.height, pixels.width),
        };
        let mut values = vec![0.0; pixels.images * height * width * self.n_features(layer)];
        let PixelBatch { data, images, height, width } = pixels;
        let batch = ImageBatch { values: PixelValues::U8(data), count: images, height, width };
        let mut run = |session: &mut Session| session.run(batch, compiled.tap(layer), layout, &mut values);
        match session {
            Some(session) => run(session)?,
            None => run(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))?,
        }
        Ok(values)
    }
}

impl InferenceWorker {
    /// Features of the images, `[N, F]` row-major: the activations of `layer`, averaged over all positions of
    /// an image. Unlike [`Backbone::features`], it computes on the calling thread only, so that several
    /// workers run at once; on CUDA the two do the same. Batch sizes that are multiples of eight run fastest,
    /// because the engine processes groups of up to eight images.
    ///
    /// # Errors
    /// The errors of [`Backbone::features`].
    pub fn features(
        &mut self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        self.backbone.run(self.session.as_mut(), pixels, layer, OutputLayout::Pooled)
    }

    /// Activations of `layer`, `[N, H', W', C]` row-major (`[N, C]` for `avgpool`). Unlike
    /// [`Backbone::activations_nhwc`], it computes on the calling thread only, so that several workers run at
    /// once; on CUDA the two do the same.
    ///
    /// # Errors
    /// The errors of [`Backbone::activations_nhwc`].
    pub fn activations_nhwc(
        &mut self,
        pixels: PixelBatch<'_>,
        layer: FeatureLayer,
    ) -> Result<Vec<f32>, BackboneError> {
        self.backbone.run(self.session.as_mut(), pixels, layer, OutputLayout::Nhwc)
    }
}

/// A table for each channel that normalizes pixels without arithmetic: entry `v` is the network input for the
/// `u8` value `v`, `(v / 255 - mean) / std`.
pub(crate) fn normalization_tables(preprocessing: &Preprocessing) -> Normalization {
    let Preprocessing { mean, std, .. } = preprocessing;
    let normalize = |channel: usize, value: usize| (value as f32 / 255.0 - mean[channel]) / std[channel];
    [0, 1, 2].map(|channel| std::array::from_fn(|value| normalize(channel, value)))
}

/// The pixels, `[N, H, W, 3]`, normalized and converted to a tensor `[N, 3, H, W]` on `device`: the input of
/// [`CandleResNet`]. Entry `v` of a channel's table in `normalization` is the input for the `u8` value `v`.
pub(crate) fn normalized_nchw(
    pixels: PixelBatch<'_>,
    normalization: &Normalization,
    device: &Device,
) -> Result<Tensor, BackboneError> {
    let PixelBatch { data, images, height, width } = pixels;
    let mut values = Vec::with_capacity(data.len());
    for image in data.chunks_exact(height * width * 3) {
        for (channel, table) in normalization.iter().enumerate() {
            // A channel is every third byte of the image.
            values.extend(image[channel..].iter().step_by(3).map(|&value| table[usize::from(value)]));
        }
    }
    Ok(Tensor::from_vec(values, (images, 3, height, width), device)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::WeightsSource;

    /// A backbone that runs candle's operations on the CPU.
    fn candle_backbone(checkpoint: &Checkpoint) -> Backbone {
        let (device, dtype) = (Device::Cpu, DType::F32);
        let network = CandleResNet::load(checkpoint, &Tensor::zeros(1, dtype, &device).unwrap()).unwrap();
        let normalization = Box::new(normalization_tables(checkpoint.preprocessing()));
        let backend = Arc::new(InferenceBackend::Candle { network, normalization, device, dtype });
        Backbone { backend, architecture: checkpoint.architecture(), threads: 1 }
    }

    #[test]
    fn nhwc_activations_are_the_nchw_activations_with_channels_last() {
        let source =
            WeightsSource::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..2 * 65 * 96 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 65, 96).unwrap();
        let engine = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
        for backbone in [engine, candle_backbone(&checkpoint)] {
            let mut worker = backbone.workers().unwrap().remove(0);
            for layer in FeatureLayer::ALL {
                let nchw = backbone.activations_nchw(pixels, layer).unwrap();
                let (height, width) = layer.output_size(65, 96);
                let dims = [2, backbone.n_features(layer), height, width];
                let expected = nchw.reshape(&dims).unwrap().permute((0, 2, 3, 1)).unwrap();
                let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
                assert!(backbone.activations_nhwc(pixels, layer).unwrap() == expected, "{layer}");
                assert!(worker.activations_nhwc(pixels, layer).unwrap() == expected, "{layer}");
            }
        }
    }

    /// Each backend reports its name, too.
    #[test]
    fn candle_and_the_engine_compute_the_same_features() {
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
    fn a_profile_has_every_layer_of_the_network_and_the_peak() {
        let checkpoint =
            crate::support::StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
        let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
        let bytes = vec![100; 32 * 32 * 3];
        let (layers, peak) =
            backbone.profile(PixelBatch::new(&bytes, 1, 32, 32).unwrap(), 1).unwrap().unwrap();
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names[..4], ["conv1", "maxpool", "layer1.0.conv1", "layer1.0.conv2"]);
        // The stem, its pool, two convolutions per block, and three shortcuts.
        assert_eq!((names.len(), names[20]), (1 + 1 + 8 * 2 + 3, "layer4.1.conv2"));
        assert!(layers.iter().all(|layer| !layer.time.is_zero()) && peak.is_normal());
    }

    #[test]
    fn each_channel_is_normalized_with_its_own_mean_and_std() {
        let preprocessing =
            Preprocessing { mean: [0.5, 0.25, 0.0], std: [0.5, 0.25, 2.0], ..Preprocessing::default() };
        let mut bytes = vec![0; 32 * 32 * 3];
        bytes[..6].copy_from_slice(&[255, 255, 255, 51, 102, 204]);
        let values = PixelBatch::new(&bytes, 1, 32, 32).unwrap().normalized(&preprocessing);
        let expected = [1.0, 3.0, 0.5, (0.2 - 0.5) / 0.5, (0.4 - 0.25) / 0.25, 0.4, -1.0, -1.0, 0.0];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{value}, not {expected}");
        }
    }

    #[test]
    fn normalized_nhwc_and_nchw_pixels_agree() {
        let preprocessing = Preprocessing { std: [0.2, 0.3, 0.4], ..Preprocessing::default() };
        let bytes: Vec<u8> = (0..2 * 32 * 33 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 32, 33).unwrap();
        let nchw = normalized_nchw(pixels, &normalization_tables(&preprocessing), &Device::Cpu).unwrap();
        let nhwc: Vec<f32> = nchw.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(pixels.normalized(&preprocessing), nhwc);
    }
}
