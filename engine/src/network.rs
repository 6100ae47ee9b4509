//! A network: layers in the order in which they run.

use std::ops::Range;

use crate::calibration::ActivationStats;
use crate::dispatch::{AnyKernel, KernelSet};
use crate::error::EngineError;
use crate::image::{self, Normalization};
use crate::isa::{Isa, Precision};
use crate::layer::{Convolution, PackedConv, channel_blocks};

/// What a layer gives, or the photos themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// A place where the network can be left: the value of a layer, counted from the photo's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap(pub(crate) usize);

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: AnyKernel,
    pub(crate) op: Op,
}

pub(crate) enum Op {
    Convolution { packed: PackedConv, residual: Option<usize>, relu: bool },
    MaxPool { kernel: usize, stride: usize, padding: usize },
}

/// How the sums of a convolution end.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// What is added to them; it is kept in what the convolution reads.
    pub residual: Option<ValueId>,
    /// Whether negative ones become zero.
    pub relu: bool,
    /// What they are kept in: as the input, or `bf16` of `f32`.
    pub precision: Precision,
}

/// Makes a [`Network`], layer by layer.
pub struct NetworkBuilder {
    network: Network,
    stats: Option<ActivationStats>,
}

/// Layers packed for one instruction set. It is shared by all who run it; [`Session`](crate::Session) is what runs.
pub struct Network {
    pub(crate) kernels: KernelSet,
    isa: Isa,
    pub(crate) normalization: Normalization,
    /// Channels of each value, and what it is kept in; the photos are the first.
    pub(crate) values: Vec<(usize, Precision)>,
    pub(crate) nodes: Vec<Node>,
    /// The value of each tap.
    pub(crate) taps: Vec<usize>,
}

impl NetworkBuilder {
    /// Starts with photos `[N, H, W, 3]`, which `normalisation` turns into `f32`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine does not have `isa`.
    pub fn new(isa: Isa, normalization: Normalization) -> Result<Self, EngineError> {
        Ok(Self::with_kernels(KernelSet::new(isa)?, isa, normalization))
    }

    pub(crate) fn with_kernels(kernels: KernelSet, isa: Isa, normalization: Normalization) -> Self {
        let values = vec![(image::CHANNELS, Precision::F32)];
        let network = Network { kernels, isa, normalization, values, nodes: Vec::new(), taps: Vec::new() };
        Self { network, stats: None }
    }

    /// Rounds the weights of layers that read `bf16` so that their errors cancel on what was seen of layers of the same name.
    #[must_use]
    pub fn calibrate(mut self, stats: ActivationStats) -> Self {
        self.stats = Some(stats);
        self
    }

    /// The photos.
    #[must_use]
    pub fn input(&self) -> ValueId {
        ValueId(0)
    }

    /// Adds a convolution of `input`; it is computed in the precision of that, and its sums end as `epilogue` says.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when sizes or precisions do not fit, or a value from before a tap is used after it.
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
            return reject(format!("it takes {} channels and is given {inputs}", convolution.inputs));
        }
        if let Some(residual) = residual {
            let (channels, residual_precision) = self.network.values[residual.0];
            if residual.0 == 0 || (channels, residual_precision) != (outputs, input_precision) {
                return reject(format!(
                    "{outputs} channels in {input_precision} cannot be added to {channels} in {residual_precision}"
                ));
            }
            self.check_after_last_tap(name, residual)?;
        }
        let Some(kernel) = self.network.kernels.for_precisions(input_precision, precision) else {
            return reject(format!(
                "{} has no kernel from {input_precision} to {precision}",
                self.network.isa
            ));
        };
        let packed = {
            let grams = self.stats.as_ref().and_then(|stats| stats.for_layer(name));
            convolution.pack(name, kernel.layout(), input.0 == 0, grams)?
        };
        let op = Op::Convolution { packed, residual: residual.map(|value| value.0), relu };
        self.push_node(name, input, kernel, (outputs, precision), op)
    }

    /// Adds a maximum over windows; what lies outside counts for nothing.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when the window is smaller than the margin, it is the first layer, or a value from before a
    /// tap is used after it.
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
                "kernel {kernel}, stride {stride} and padding {padding} do not go together, or not here"
            );
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let (channels, precision) = self.network.values[input.0];
        let node_kernel = self.network.kernel_for(precision);
        self.push_node(
            name,
            input,
            node_kernel,
            (channels, precision),
            Op::MaxPool { kernel, stride, padding },
        )
    }

    /// Makes the last value a tap. What comes after can use no value from before it.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when there is no layer since the last tap.
    pub fn add_tap(&mut self) -> Result<Tap, EngineError> {
        let network = &mut self.network;
        let last = network.values.len() - 1;
        if last == network.taps.last().copied().unwrap_or(0) {
            let problem = "there is no layer for it".to_owned();
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

    fn push_node(
        &mut self,
        name: &str,
        input: ValueId,
        kernel: AnyKernel,
        value: (usize, Precision),
        op: Op,
    ) -> Result<ValueId, EngineError> {
        self.check_after_last_tap(name, input)?;
        let output = self.network.values.len();
        self.network.nodes.push(Node { name: name.to_owned(), input: input.0, output, kernel, op });
        self.network.values.push(value);
        Ok(ValueId(output))
    }

    fn check_after_last_tap(&self, name: &str, value: ValueId) -> Result<(), EngineError> {
        if value.0 < self.network.taps.last().copied().unwrap_or(0) {
            let problem = "it uses a value from before the last tap".to_owned();
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        Ok(())
    }
}

impl Network {
    /// The instruction set it runs on.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What the last value is kept in, and most of what leads to it.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.values.last().map_or(Precision::F32, |value| value.1)
    }

    /// Channels at `tap`.
    #[must_use]
    pub fn channels(&self, tap: Tap) -> usize {
        self.values[self.taps[tap.0]].0
    }

    /// Blocks of cells of a value.
    pub(crate) fn n_blocks(&self, value: usize) -> usize {
        let (channels, precision) = self.values[value];
        channel_blocks(precision, channels)
    }

    /// The kernel for what is in one precision and stays so.
    pub(crate) fn kernel_for(&self, precision: Precision) -> AnyKernel {
        self.kernels.for_precisions(precision, precision).unwrap_or(self.kernels.f32)
    }

    /// The nodes between the tap before `segment` and its own.
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
