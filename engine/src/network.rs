//! A network: layers in the order in which they run.

use std::ops::Range;

use crate::calibration::Calibration;
use crate::error::EngineError;
use crate::image::{self, Normalisation};
use crate::isa::{Isa, Precision};
use crate::layer::{Convolution, Packed, blocks};
use crate::machine::{Machine, Machines};

/// What a layer gives, or the photos themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub(crate) usize);

/// A place where the network can be left: the value of a layer, counted from the photo's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap(pub(crate) usize);

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) machine: Machine,
    pub(crate) op: Op,
}

pub(crate) enum Op {
    Convolution { packed: Packed, residual: Option<usize>, relu: bool },
    MaxPool { kernel: usize, stride: usize, padding: usize },
}

/// How the sums of a convolution end.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// What is added to them; it is kept in what the convolution reads.
    pub residual: Option<Value>,
    /// Whether negative ones become zero.
    pub relu: bool,
    /// What they are kept in: as the input, or `bf16` of `f32`.
    pub precision: Precision,
}

/// Makes a [`Network`], layer by layer.
pub struct Builder {
    network: Network,
    calibration: Option<Calibration>,
}

/// Layers packed for one instruction set. It is shared by all who run it; [`Session`](crate::Session) is what runs.
pub struct Network {
    pub(crate) machines: Machines,
    isa: Isa,
    pub(crate) normalisation: Normalisation,
    /// Channels of each value, and what it is kept in; the photos are the first.
    pub(crate) values: Vec<(usize, Precision)>,
    pub(crate) nodes: Vec<Node>,
    /// The value of each tap.
    pub(crate) taps: Vec<usize>,
}

impl Builder {
    /// Starts with photos `[N, H, W, 3]`, which `normalisation` turns into `f32`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine does not have `isa`.
    pub fn new(isa: Isa, normalisation: Normalisation) -> Result<Self, EngineError> {
        Ok(Self::on(Machines::new(isa)?, isa, normalisation))
    }

    pub(crate) fn on(machines: Machines, isa: Isa, normalisation: Normalisation) -> Self {
        let values = vec![(image::CHANNELS, Precision::F32)];
        let network = Network { machines, isa, normalisation, values, nodes: Vec::new(), taps: Vec::new() };
        Self { network, calibration: None }
    }

    /// Rounds the weights of layers that read `bf16` so that their errors cancel on what was seen of layers of the same name.
    #[must_use]
    pub fn calibrate(mut self, calibration: Calibration) -> Self {
        self.calibration = Some(calibration);
        self
    }

    /// The photos.
    #[must_use]
    pub fn image(&self) -> Value {
        Value(0)
    }

    /// Adds a convolution of `input`; it is computed in the precision of that, and its sums end as `epilogue` says.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when sizes or precisions do not fit, or a value from before a tap is used after it.
    pub fn convolution(
        &mut self,
        name: &str,
        input: Value,
        convolution: Convolution,
        epilogue: Epilogue,
    ) -> Result<Value, EngineError> {
        let refused = |problem: String| Err(EngineError::Layer { layer: name.to_owned(), problem });
        let Epilogue { residual, relu, precision } = epilogue;
        let (inputs, from) = self.network.values[input.0];
        let outputs = convolution.outputs;
        if inputs != convolution.inputs {
            return refused(format!("it takes {} channels and is given {inputs}", convolution.inputs));
        }
        if let Some(residual) = residual {
            let (channels, kept) = self.network.values[residual.0];
            if residual.0 == 0 || (channels, kept) != (outputs, from) {
                return refused(format!(
                    "{outputs} channels in {from} cannot be added to {channels} in {kept}"
                ));
            }
            self.check_reach(name, residual)?;
        }
        let Some(machine) = self.network.machines.from(from, precision) else {
            return refused(format!("{} has no kernel from {from} to {precision}", self.network.isa));
        };
        let packed = {
            let seen = self.calibration.as_ref().and_then(|calibration| calibration.layer(name));
            convolution.pack(name, machine.layout(), input.0 == 0, seen)?
        };
        let op = Op::Convolution { packed, residual: residual.map(|value| value.0), relu };
        self.add(name, input, machine, (outputs, precision), op)
    }

    /// Adds a maximum over windows; what lies outside counts for nothing.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when the window is smaller than the margin, it is the first layer, or a value from before a
    /// tap is used after it.
    pub fn max_pool(
        &mut self,
        name: &str,
        input: Value,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Value, EngineError> {
        if input.0 == 0 || stride == 0 || padding >= kernel {
            let problem = format!(
                "kernel {kernel}, stride {stride} and padding {padding} do not go together, or not here"
            );
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let (channels, precision) = self.network.values[input.0];
        let machine = self.network.machine(precision);
        self.add(name, input, machine, (channels, precision), Op::MaxPool { kernel, stride, padding })
    }

    /// Makes the last value a tap. What comes after can use no value from before it.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when there is no layer since the last tap.
    pub fn tap(&mut self) -> Result<Tap, EngineError> {
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

    fn add(
        &mut self,
        name: &str,
        input: Value,
        machine: Machine,
        value: (usize, Precision),
        op: Op,
    ) -> Result<Value, EngineError> {
        self.check_reach(name, input)?;
        let output = self.network.values.len();
        self.network.nodes.push(Node { name: name.to_owned(), input: input.0, output, machine, op });
        self.network.values.push(value);
        Ok(Value(output))
    }

    fn check_reach(&self, name: &str, value: Value) -> Result<(), EngineError> {
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
    pub(crate) fn blocks(&self, value: usize) -> usize {
        let (channels, precision) = self.values[value];
        blocks(precision, channels)
    }

    /// The kernel for what is in one precision and stays so.
    pub(crate) fn machine(&self, precision: Precision) -> Machine {
        self.machines.from(precision, precision).unwrap_or(self.machines.wide)
    }

    /// The nodes between the tap before `segment` and its own.
    pub(crate) fn segment(&self, segment: usize) -> Range<usize> {
        let after = |value: usize| self.nodes.iter().take_while(|node| node.output <= value).count();
        let start = segment.checked_sub(1).map_or(0, |before| after(self.taps[before]));
        start..after(self.taps[segment])
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
