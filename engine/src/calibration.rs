//! What layers read when a network runs on some photos: it decides how their weights are rounded to `bf16`.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cell::Cell;
use crate::error::EngineError;
use crate::gather::Pixels;
use crate::image::CHANNELS;
use crate::isa::Precision;
use crate::layer::{Method, Packed};
use crate::machine::Machine;
use crate::network::{Network, Node, Op, Tap};
use crate::rounding::Gram;
use crate::session::{Form, Photos, Session};
use crate::walk::Watch;
use crate::winograd::{Inputs, POINTS, Source, Tiling, ToPoints, Transformed};

/// Samples of a layer's input that are taken of a photo, at most.
const SAMPLES: usize = 256;

/// For each convolution by name, sums of what it reads: one for a product, one a point for Winograd's.
///
/// Rounding to nearest errs alike wherever a photo looks alike, before a plain background say; there the errors of weights
/// that are read together can be made to cancel ([`Builder::calibrate`](crate::Builder::calibrate)).
pub struct Calibration {
    layers: Vec<(String, Vec<Gram>)>,
}

impl Calibration {
    /// Runs a network of `f32` on photos as far as `tap`, on one thread. Layers that read `bf16` are passed over.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn new(network: &Arc<Network>, photos: Photos<'_>, tap: Tap) -> Result<Self, EngineError> {
        let seen = Seen { network, grams: network.nodes.iter().map(|_| Mutex::default()).collect() };
        let mut features = vec![0.0; photos.count * network.channels(tap)];
        let mut session = Session::new(network.clone(), 1)?;
        session.run_watched(photos, tap, Form::Pooled, &mut features, Some(&seen))?;
        let grams =
            seen.grams.into_iter().map(|grams| grams.into_inner().unwrap_or_else(PoisonError::into_inner));
        let names = network.nodes.iter().map(|node| node.name.clone());
        Ok(Self { layers: names.zip(grams).filter(|(_, grams)| !grams.is_empty()).collect() })
    }

    /// What was seen of the layer of this name.
    pub(crate) fn layer(&self, name: &str) -> Option<&[Gram]> {
        self.layers.iter().find(|(layer, _)| layer == name).map(|(_, grams)| grams.as_slice())
    }
}

/// Adds up while a network runs.
struct Seen<'a> {
    network: &'a Network,
    /// Each node's.
    grams: Vec<Mutex<Vec<Gram>>>,
}

impl Watch for Seen<'_> {
    fn reads(&self, node: usize, input: Pixels) {
        let Node { op: Op::Convolution { packed, .. }, input: value, .. } = &self.network.nodes[node] else {
            return;
        };
        if self.network.values[*value].1 != Precision::F32 {
            return;
        }
        let grams = &mut *self.grams[node].lock().unwrap_or_else(PoisonError::into_inner);
        let machine = self.network.machines.wide;
        match packed.method {
            Method::Pointwise => pointwise(grams, machine, packed, input),
            Method::Winograd => winograd(grams, machine, packed, input),
            // The first layer stays in `f32`. Direct ones have sums nine times as long, which would cost more than all
            // others together, for no gain that could be measured.
            Method::Image | Method::Direct => {}
        }
    }
}

/// Adds some of the pixels that a 1 x 1 convolution reads.
fn pointwise(grams: &mut Vec<Gram>, machine: Machine, packed: &Packed, input: Pixels) {
    let Packed { inputs, stride, .. } = *packed;
    if grams.is_empty() {
        grams.push(Gram::new(inputs));
    }
    let (rows, columns) = (input.height.div_ceil(stride), input.width.div_ceil(stride));
    let every = (rows * columns).div_ceil(SAMPLES);
    let mut samples = Vec::new();
    for photo in 0..input.photos {
        for place in (0..rows * columns).step_by(every) {
            let (y, x) = (place / columns * stride, place % columns * stride);
            let pixel = (photo * input.height + y) * input.width + x;
            samples.extend((0..inputs).map(|channel| {
                // SAFETY: the pixel is one of the value's, which holds 16 `f32` a cell: `reads` has seen to that.
                unsafe {
                    *input.cells.add(channel / 16 * input.block + pixel).cast::<f32>().add(channel % 16)
                }
            }));
        }
    }
    grams[0].add_many(machine, &samples);
}

/// Adds the transformed tiles that Winograd's products read, point by point.
fn winograd(grams: &mut Vec<Gram>, machine: Machine, packed: &Packed, input: Pixels) {
    if grams.is_empty() {
        grams.extend((0..POINTS).map(|_| Gram::new(packed.inputs)));
    }
    let tiling = Tiling { height: input.height, width: input.width };
    let (tiles, blocks) = (input.photos * tiling.count(), packed.panels.segments);
    let mut cells = Cell::zeros(POINTS * blocks * tiles);
    let to = Transformed { cells: cells.as_mut_ptr(), point: blocks * tiles, panel: tiles, blocks: 1 };
    let source = Source { cells: input.cells, pixel: 1, block: input.block };
    let (units, of) = (0..blocks * tiles, PhantomData::<Inputs>);
    machine.run(ToPoints { tiling, source, tiles: 0..tiles, units, to, of });
    let values = bytemuck::cast_slice::<Cell, f32>(&cells);
    for (gram, values) in grams.iter_mut().zip(values.chunks_exact(blocks * tiles * 16)) {
        let sample = |tile: usize| {
            (0..packed.inputs).map(move |channel| values[(channel / 16 * tiles + tile) * 16 + channel % 16])
        };
        gram.add_many(machine, &(0..tiles).flat_map(sample).collect::<Vec<f32>>());
    }
}

/// Photos to calibrate with where there are no others: plain colours with a plain rectangle before them, a little grainy; half
/// of the colours are greys. `[count, side, side, 3]`.
#[must_use]
pub fn plain_photos(count: usize, side: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |below: usize| {
        // SplitMix64 (Steele, Lea and Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    };
    let mut pixels = Vec::with_capacity(count * side * side * CHANNELS);
    for photo in 0..count {
        let grey = 255 - photo * 3 % 200;
        let mut colour = |grey: Option<usize>| [0; CHANNELS].map(|_| grey.unwrap_or_else(|| draw(256)));
        let (around, inside) = (colour((photo % 2 == 0).then_some(grey)), colour(None));
        let (top, left) = (side / 12 + draw(side / 3), side / 12 + draw(side / 3));
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let within = (top..top + side / 2).contains(&y) && (left..left + side / 2).contains(&x);
            // The sum of four draws is nearly normal, with a standard deviation of 12.
            let grain = if within { (0..4).map(|_| draw(22)).sum::<usize>() as i32 - 42 } else { 0 };
            let colour = if within { inside } else { around };
            pixels.extend(colour.map(|value| (value as i32 + grain).clamp(0, 255) as u8));
        }
    }
    pixels
}
