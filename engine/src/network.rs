//! Network definition: layers in execution order.

use std::ops::Range;

use crate::activation_stats::ActivationStats;
use crate::dispatch::{AnyKernel, KernelSet};
use crate::error::EngineError;
use crate::image::{self, Normalization};
use crate::isa::{DType, Isa};
use crate::layer::{Convolution, LayerInput, PackedConv, channel_blocks};

/// The output of a layer, or the input images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// A layer output at which a run can stop, numbered from the input on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap(pub(crate) usize);

/// A layer of the network.
pub(crate) struct Node {
    pub(crate) name: String,
    /// Index of the value that the layer reads.
    pub(crate) input: usize,
    /// Index of the value that the layer computes.
    pub(crate) output: usize,
    /// The GEMM and vector code for the precisions of `input` and `output`.
    pub(crate) kernel: AnyKernel,
    pub(crate) op: Op,
}

/// What a node computes.
pub(crate) enum Op {
    /// A convolution with its epilogue; `residual` is the index of the value to add.
    Convolution {
        packed: PackedConv,
        residual: Option<usize>,
        relu: bool,
    },
    MaxPool {
        kernel_size: usize,
        stride: usize,
        padding: usize,
    },
}

/// Channels and precision of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueType {
    pub(crate) channels: usize,
    pub(crate) precision: DType,
}

/// What is applied to the result of a convolution before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// A value to add, with the channels of the output and the precision of the convolution's input.
    pub residual: Option<ValueId>,
    /// Whether to apply a ReLU.
    pub relu: bool,
    /// Precision of the output: that of the input, or `bf16` for an `f32` input.
    pub precision: DType,
}

/// Builds a [`Network`] layer by layer.
pub struct NetworkBuilder {
    network: Network,
    /// Statistics for GPTQ; `None` to round weights to nearest.
    stats: Option<ActivationStats>,
}

/// Layers in execution order, with weights packed for one instruction set. A layer computes a new value from
/// earlier ones; the layers between two taps are a stage. Any number of [`Session`](crate::Session)s can
/// share and run it.
pub struct Network {
    pub(crate) kernels: KernelSet,
    isa: Isa,
    pub(crate) normalization: Normalization,
    /// The type of each value; value 0 is the input images.
    pub(crate) values: Vec<ValueType>,
    pub(crate) nodes: Vec<Node>,
    /// Value index of each tap.
    pub(crate) taps: Vec<usize>,
}

impl NetworkBuilder {
    /// Starts with images `[N, H, W, 3]` in `u8`, which `normalization` maps to `f32`.
    ///
    /// # Errors
    /// [`EngineError::UnavailableIsa`] if this CPU does not support `isa`.
    pub fn new(isa: Isa, normalization: Normalization) -> Result<Self, EngineError> {
        Ok(Self::with_kernels(KernelSet::new(isa)?, isa, normalization))
    }

    /// Starts a network that has only the input images, and whose layers will use the given kernels. Tests
    /// pass emulated kernels here instead of those that [`new`](Self::new) chooses; `isa` only appears in
    /// messages.
    pub(crate) fn with_kernels(kernels: KernelSet, isa: Isa, normalization: Normalization) -> Self {
        let values = vec![ValueType { channels: image::CHANNELS, precision: DType::F32 }];
        let network = Network { kernels, isa, normalization, values, nodes: Vec::new(), taps: Vec::new() };
        Self { network, stats: None }
    }

    /// Uses GPTQ to round the weights of layers that read `bf16`, which loses less accuracy than rounding to
    /// nearest. `stats` are those of a network in `f32` with layers of the same names.
    #[must_use]
    pub fn calibrate(mut self, stats: ActivationStats) -> Self {
        self.stats = Some(stats);
        self
    }

    /// The input images, for the first layer to read.
    #[must_use]
    pub fn input(&self) -> ValueId {
        ValueId(0)
    }

    /// Adds a layer `name`: a convolution of `input`, computed in the precision of `input`, followed by
    /// `epilogue`. Packs the weights, and returns the value that the layer computes.
    ///
    /// # Errors
    /// [`EngineError::Layer`] if sizes or precisions do not fit, or a value from before the last tap is used.
    pub fn add_convolution(
        &mut self,
        name: &str,
        input: ValueId,
        convolution: Convolution,
        epilogue: Epilogue,
    ) -> Result<ValueId, EngineError> {
        let reject = |problem: String| Err(EngineError::Layer { layer: name.to_owned(), problem });
        let Epilogue { residual, relu, precision } = epilogue;
        let ValueType { channels: inputs, precision: input_precision } = self.network.values[input.0];
        let outputs = convolution.outputs;
        if inputs != convolution.inputs {
            let expected = convolution.inputs;
            return reject(format!("expected an input of {expected} channels, got {inputs} channels"));
        }
        if let Some(residual) = residual {
            let ValueType { channels, precision } = self.network.values[residual.0];
            if residual.0 == 0 || (channels, precision) != (outputs, input_precision) {
                return reject(format!(
                    "expected a residual of {outputs} channels in {input_precision}, got {channels} channels \
                     in {precision}"
                ));
            }
            self.check_after_last_tap(name, residual)?;
        }
        let Some(kernel) = self.network.kernels.for_precisions(input_precision, precision) else {
            let isa = self.network.isa;
            return reject(format!(
                "the instruction set {isa} has no kernel that reads {input_precision} and writes {precision}"
            ));
        };
        let grams = self.stats.as_ref().and_then(|stats| stats.for_layer(name));
        let layer_input = if input.0 == 0 { LayerInput::Images } else { LayerInput::Value };
        let packed = convolution.pack(name, kernel.layout(), layer_input, grams)?;
        let op = Op::Convolution { packed, residual: residual.map(|value| value.0), relu };
        self.push_node(name, input, kernel, ValueType { channels: outputs, precision }, op)
    }

    /// Adds a layer `name`: a max pool of `input` with windows of `kernel_size` x `kernel_size` pixels, in
    /// which padding does not count. Returns the value that the layer computes.
    ///
    /// # Errors
    /// [`EngineError::Layer`] if the padding is not below the kernel size, it is the first layer, or a value
    /// from before the last tap is used.
    pub fn add_max_pool(
        &mut self,
        name: &str,
        input: ValueId,
        kernel_size: usize,
        stride: usize,
        padding: usize,
    ) -> Result<ValueId, EngineError> {
        if input.0 == 0 || stride == 0 || padding >= kernel_size {
            let problem = format!(
                "a max pool needs a layer before it, a positive stride and a padding below the kernel size, \
                 got kernel size {kernel_size}, stride {stride} and padding {padding}"
            );
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let value_type = self.network.values[input.0];
        let op = Op::MaxPool { kernel_size, stride, padding };
        self.push_node(name, input, self.network.kernel_for(value_type.precision), value_type, op)
    }

    /// Makes the output of the last layer a tap, at which a run can stop, and returns its number. Later
    /// layers cannot use values from before the tap, so that the layers between two taps (a stage) can run on
    /// groups of images of their own size.
    ///
    /// # Errors
    /// [`EngineError::Layer`] if there is no layer since the last tap.
    pub fn add_tap(&mut self) -> Result<Tap, EngineError> {
        let network = &mut self.network;
        let last = network.values.len() - 1;
        if last == network.taps.last().copied().unwrap_or(0) {
            let problem = "there is no layer since the last tap".to_owned();
            return Err(EngineError::Layer { layer: "a tap".to_owned(), problem });
        }
        network.taps.push(last);
        Ok(Tap(network.taps.len() - 1))
    }

    /// Returns the finished network, up to the last tap. Later layers are dropped: no run could read them.
    #[must_use]
    pub fn build(self) -> Network {
        let mut network = self.network;
        let last = network.taps.last().copied().unwrap_or(0);
        network.nodes.retain(|node| node.output <= last);
        network.values.truncate(last + 1);
        network
    }

    /// Appends the node of a layer `name`, which computes `op` with `kernel`: it reads `input`, and its
    /// output is a new value of type `output_type`, which is returned.
    ///
    /// # Errors
    /// [`EngineError::Layer`], with `name`, if `input` is from before the last tap.
    fn push_node(
        &mut self,
        name: &str,
        input: ValueId,
        kernel: AnyKernel,
        output_type: ValueType,
        op: Op,
    ) -> Result<ValueId, EngineError> {
        self.check_after_last_tap(name, input)?;
        let output = self.network.values.len();
        self.network.nodes.push(Node { name: name.to_owned(), input: input.0, output, kernel, op });
        self.network.values.push(output_type);
        Ok(ValueId(output))
    }

    /// Returns an error if `value`, an input of the layer `name`, was computed before the last tap (a layer
    /// output at which a run can stop). The layers after a tap run on another number of images at a time; by
    /// then the memory of earlier values, other than that at the tap, is reused.
    fn check_after_last_tap(&self, name: &str, value: ValueId) -> Result<(), EngineError> {
        if value.0 < self.network.taps.last().copied().unwrap_or(0) {
            let problem = "the layer uses a value from before the last tap".to_owned();
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        Ok(())
    }
}

impl Network {
    /// The instruction set the network is packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Precision of the last value, which most layers use.
    #[must_use]
    pub fn precision(&self) -> DType {
        self.values.last().map_or(DType::F32, |value| value.precision)
    }

    /// Number of channels at `tap`.
    #[must_use]
    pub fn channels(&self, tap: Tap) -> usize {
        self.values[self.taps[tap.0]].channels
    }

    /// Number of channel blocks (16 channels in `f32`, 32 in `bf16`) of the value with the index `value`.
    pub(crate) fn n_blocks(&self, value: usize) -> usize {
        let ValueType { channels, precision } = self.values[value];
        channel_blocks(precision, channels)
    }

    /// The kernel that reads and writes `precision`, for pools and outputs.
    pub(crate) fn kernel_for(&self, precision: DType) -> AnyKernel {
        self.kernels.for_precisions(precision, precision).unwrap_or(self.kernels.f32)
    }

    /// Indices in `nodes` of the layers of a stage: those after tap `stage - 1` (or from the start, for stage
    /// 0) up to tap `stage`. The memory plan is made stage by stage.
    pub(crate) fn stage_nodes(&self, stage: usize) -> Range<usize> {
        let n_nodes_up_to = |value: usize| self.nodes.iter().take_while(|node| node.output <= value).count();
        let start = stage.checked_sub(1).map_or(0, |previous| n_nodes_up_to(self.taps[previous]));
        start..n_nodes_up_to(self.taps[stage])
    }
}

impl std::fmt::Debug for Network {
    /// Writes the names of the layers only: their weights would be millions of numbers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        f.debug_struct("Network")
            .field("isa", &self.isa)
            .field("precision", &self.precision())
            .field("nodes", &names)
            .finish()
    }
}
