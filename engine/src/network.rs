//! Network definition: layers in execution order.

use std::ops::Range;

use crate::calibration::ActivationStats;
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

/// A layer; `input` and `output` are indices of values.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: AnyKernel,
    pub(crate) op: Op,
}

/// What a node computes.
pub(crate) enum Op {
    Convolution { packed: PackedConv, residual: Option<usize>, relu: bool },
    MaxPool { kernel: usize, stride: usize, padding: usize },
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
    stats: Option<ActivationStats>,
}

/// Layers packed for one instruction set. Any number of [`Session`](crate::Session)s can share and run it.
pub struct Network {
    pub(crate) kernels: KernelSet,
    isa: Isa,
    pub(crate) normalization: Normalization,
    /// Channels and precision of each value; value 0 is the input images.
    pub(crate) values: Vec<(usize, DType)>,
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

    /// As [`new`](Self::new), with given kernels.
    pub(crate) fn with_kernels(kernels: KernelSet, isa: Isa, normalization: Normalization) -> Self {
        let values = vec![(image::CHANNELS, DType::F32)];
        let network = Network { kernels, isa, normalization, values, nodes: Vec::new(), taps: Vec::new() };
        Self { network, stats: None }
    }

    /// Uses GPTQ to round the weights of layers that read `bf16`, with the statistics of layers of the same
    /// name.
    #[must_use]
    pub fn calibrate(mut self, stats: ActivationStats) -> Self {
        self.stats = Some(stats);
        self
    }

    /// The input images.
    #[must_use]
    pub fn input(&self) -> ValueId {
        ValueId(0)
    }

    /// Adds a convolution of `input` (computed in the precision of `input`), followed by `epilogue`.
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
        let (inputs, input_precision) = self.network.values[input.0];
        let outputs = convolution.outputs;
        if inputs != convolution.inputs {
            let expected = convolution.inputs;
            return reject(format!("it expects {expected} input channels, but its input has {inputs}"));
        }
        if let Some(residual) = residual {
            let (channels, precision) = self.network.values[residual.0];
            if residual.0 == 0 || (channels, precision) != (outputs, input_precision) {
                return reject(format!(
                    "cannot add a residual of {channels} channels in {precision}, expected {outputs} in {input_precision}"
                ));
            }
            self.check_after_last_tap(name, residual)?;
        }
        let Some(kernel) = self.network.kernels.for_precisions(input_precision, precision) else {
            let isa = self.network.isa;
            return reject(format!("{isa} has no kernel from {input_precision} to {precision}"));
        };
        let grams = self.stats.as_ref().and_then(|stats| stats.for_layer(name));
        let layer_input = if input.0 == 0 { LayerInput::Images } else { LayerInput::Value };
        let packed = convolution.pack(name, kernel.layout(), layer_input, grams)?;
        let op = Op::Convolution { packed, residual: residual.map(|value| value.0), relu };
        self.push_node(name, input, kernel, (outputs, precision), op)
    }

    /// Adds a max pool; padding is ignored in the maximum.
    ///
    /// # Errors
    /// [`EngineError::Layer`] if the padding is not below the kernel size, it is the first layer, or a value
    /// from before the last tap is used.
    pub fn add_max_pool(
        &mut self,
        name: &str,
        input: ValueId,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<ValueId, EngineError> {
        if input.0 == 0 || stride == 0 || padding >= kernel {
            let problem = format!(
                "a max pool needs a layer before it, a positive stride and a padding below the kernel size, \
                 got kernel {kernel}, stride {stride} and padding {padding}"
            );
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let value = self.network.values[input.0];
        let op = Op::MaxPool { kernel, stride, padding };
        self.push_node(name, input, self.network.kernel_for(value.1), value, op)
    }

    /// Makes the last value a tap. Later layers cannot use values from before it.
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

    /// The network up to the last tap.
    #[must_use]
    pub fn build(self) -> Network {
        let mut network = self.network;
        let last = network.taps.last().copied().unwrap_or(0);
        network.nodes.retain(|node| node.output <= last);
        network.values.truncate(last + 1);
        network
    }

    /// Appends a node and its output `value`: channels and precision.
    fn push_node(
        &mut self,
        name: &str,
        input: ValueId,
        kernel: AnyKernel,
        value: (usize, DType),
        op: Op,
    ) -> Result<ValueId, EngineError> {
        self.check_after_last_tap(name, input)?;
        let output = self.network.values.len();
        self.network.nodes.push(Node { name: name.to_owned(), input: input.0, output, kernel, op });
        self.network.values.push(value);
        Ok(ValueId(output))
    }

    /// Rejects a value from before the last tap.
    fn check_after_last_tap(&self, name: &str, value: ValueId) -> Result<(), EngineError> {
        if value.0 < self.network.taps.last().copied().unwrap_or(0) {
            let problem = "it uses a value from before the last tap".to_owned();
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
        self.values.last().map_or(DType::F32, |value| value.1)
    }

    /// Number of channels at `tap`.
    #[must_use]
    pub fn channels(&self, tap: Tap) -> usize {
        self.values[self.taps[tap.0]].0
    }

    /// Channel blocks of a value.
    pub(crate) fn n_blocks(&self, value: usize) -> usize {
        let (channels, precision) = self.values[value];
        channel_blocks(precision, channels)
    }

    /// The kernel that reads and writes `precision`.
    pub(crate) fn kernel_for(&self, precision: DType) -> AnyKernel {
        self.kernels.for_precisions(precision, precision).unwrap_or(self.kernels.f32)
    }

    /// The nodes of a stage, which is the layers between two taps: those after tap `stage - 1` up to tap
    /// `stage`.
    pub(crate) fn stage_nodes(&self, stage: usize) -> Range<usize> {
        let n_nodes_up_to = |value: usize| self.nodes.iter().take_while(|node| node.output <= value).count();
        let start = stage.checked_sub(1).map_or(0, |previous| n_nodes_up_to(self.taps[previous]));
        start..n_nodes_up_to(self.taps[stage])
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        f.debug_struct("Network")
            .field("isa", &self.isa)
            .field("precision", &self.precision())
            .field("nodes", &names)
            .finish()
    }
}
