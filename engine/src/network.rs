//! A network: layers in the order in which they run.

use std::ops::Range;

use crate::error::EngineError;
use crate::image::Normalisation;
use crate::isa::{Isa, Precision};
use crate::layer::{Convolution, Packed};
use crate::machine::{Form, Machine};

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
    pub(crate) op: Op,
}

pub(crate) enum Op {
    Convolution { packed: Packed, residual: Option<usize>, relu: bool },
    MaxPool { kernel: usize, stride: usize, padding: usize },
}

/// Makes a [`Network`], layer by layer.
pub struct Builder {
    network: Network,
}

/// Layers packed for one instruction set. It is shared by all who run it; [`Session`](crate::Session) is what runs.
pub struct Network {
    pub(crate) machine: Machine,
    pub(crate) form: Form,
    isa: Isa,
    precision: Precision,
    pub(crate) normalisation: Normalisation,
    /// Channels of each value; the photos are the first.
    pub(crate) channels: Vec<usize>,
    pub(crate) nodes: Vec<Node>,
    /// The value of each tap.
    pub(crate) taps: Vec<usize>,
}

impl Builder {
    /// Starts with photos `[N, H, W, 3]`, which `normalisation` turns into `f32`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine has not `isa`, or it has no kernels for `precision`.
    pub fn new(isa: Isa, precision: Precision, normalisation: Normalisation) -> Result<Self, EngineError> {
        Ok(Self::on(Machine::new(isa, precision)?, isa, precision, normalisation))
    }

    pub(crate) fn on(machine: Machine, isa: Isa, precision: Precision, normalisation: Normalisation) -> Self {
        let form = machine.form();
        let (channels, nodes, taps) = (vec![crate::image::CHANNELS], Vec::new(), Vec::new());
        Self { network: Network { machine, form, isa, precision, normalisation, channels, nodes, taps } }
    }

    /// The photos.
    #[must_use]
    pub fn image(&self) -> Value {
        Value(0)
    }

    /// Adds a convolution of `input`, then the sum with `residual` where there is one, then ReLU if asked for.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when the sizes do not fit, or a value from before a tap is used after it.
    pub fn convolution(
        &mut self,
        name: &str,
        input: Value,
        convolution: Convolution,
        residual: Option<Value>,
        relu: bool,
    ) -> Result<Value, EngineError> {
        let network = &self.network;
        let inputs = network.channels[input.0];
        let mut problem = None;
        if inputs != convolution.inputs {
            problem = Some(format!("it takes {} channels and is given {inputs}", convolution.inputs));
        }
        if let Some(residual) = residual {
            let channels = network.channels[residual.0];
            if residual.0 == 0 || channels != convolution.outputs {
                problem = Some(format!("{} channels cannot be added to {channels}", convolution.outputs));
            }
            self.check_reach(name, residual)?;
        }
        if let Some(problem) = problem {
            return Err(EngineError::Layer { layer: name.to_owned(), problem });
        }
        let outputs = convolution.outputs;
        let packed = convolution.pack(name, network.form, input.0 == 0)?;
        let op = Op::Convolution { packed, residual: residual.map(|value| value.0), relu };
        self.add(name, input, outputs, op)
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
        let channels = self.network.channels[input.0];
        self.add(name, input, channels, Op::MaxPool { kernel, stride, padding })
    }

    /// Makes the last value a tap. What comes after can use no value from before it.
    ///
    /// # Errors
    /// [`EngineError::Layer`] when there is no layer since the last tap.
    pub fn tap(&mut self) -> Result<Tap, EngineError> {
        let network = &mut self.network;
        let last = network.channels.len() - 1;
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
        network
    }

    fn add(&mut self, name: &str, input: Value, channels: usize, op: Op) -> Result<Value, EngineError> {
        self.check_reach(name, input)?;
        let output = self.network.channels.len();
        self.network.nodes.push(Node { name: name.to_owned(), input: input.0, output, op });
        self.network.channels.push(channels);
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

    /// What values and weights are kept in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Channels at `tap`.
    #[must_use]
    pub fn channels(&self, tap: Tap) -> usize {
        self.channels[self.taps[tap.0]]
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
            .field("precision", &self.precision)
            .field("nodes", &names)
            .finish()
    }
}
