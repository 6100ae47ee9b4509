//! Where plans put values: no two that live at the same time may overlap.

use crate::isa::{Isa, Precision};
use crate::layer::{Convolution, Method, channel_vectors};
use crate::network::{Network, NetworkBuilder, Op, ValueId};
use crate::plan::{BufferSlot, Plan, padded_images, padded_input, transformed_lines};
use crate::tests::{epilogue, kernel_configs};
use crate::winograd::Tiling;

/// The five ResNets, a quarter as wide: blocks of each stage, and whether they are bottlenecks.
const RESNETS: [([usize; 4], bool); 5] = [
    ([2, 2, 2, 2], false),
    ([3, 4, 6, 3], false),
    ([3, 4, 6, 3], true),
    ([3, 4, 23, 3], true),
    ([3, 8, 36, 3], true),
];

/// A network of their shape whose weights are all 0.
fn resnet(
    kernels: crate::dispatch::KernelSet,
    first: Precision,
    rest: Precision,
    blocks: [usize; 4],
    bottleneck: bool,
) -> Network {
    let mut builder = NetworkBuilder::with_kernels(kernels, Isa::Portable, [[0.0; 256]; 3]);
    let add = |builder: &mut NetworkBuilder, shape: [usize; 5], input, residual, precision| {
        let [inputs, outputs, kernel, stride, padding] = shape;
        let (weights, bias) = (vec![0.0; outputs * inputs * kernel * kernel], vec![0.0; outputs]);
        let layer = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        builder.add_convolution("layer", input, layer, epilogue(residual, true, precision)).unwrap()
    };
    let image = builder.input();
    let value = add(&mut builder, [3, 16, 7, 2, 3], image, None, first);
    let mut value: ValueId = builder.add_max_pool("pool", value, 3, 2, 1).unwrap();
    let (mut channels, mut kept) = (16, first);
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let inside = 16 << stage;
        let outputs = if bottleneck { 4 * inside } else { inside };
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let around = if stride == 1 && channels == outputs {
                value
            } else {
                add(&mut builder, [channels, outputs, 1, stride, 0], value, None, kept)
            };
            let shapes: &[[usize; 5]] = if bottleneck {
                &[[channels, inside, 1, 1, 0], [inside, inside, 3, stride, 1], [inside, outputs, 1, 1, 0]]
            } else {
                &[[channels, inside, 3, stride, 1], [inside, outputs, 3, 1, 1]]
            };
            for (index, &shape) in shapes.iter().enumerate() {
                let last = index + 1 == shapes.len();
                // The first stage's last sum goes over to what the rest is kept in.
                let given = if last && stage == 0 && block + 1 == blocks { rest } else { kept };
                value = add(&mut builder, shape, value, last.then_some(around), given);
                kept = given;
            }
            channels = outputs;
        }
        builder.add_tap().unwrap();
    }
    builder.build()
}

/// Cells from a place's first to after the last that `photos` photos of a value have.
fn value_cells(
    network: &Network,
    plan: &Plan,
    place: BufferSlot,
    value: usize,
    photos: usize,
) -> (usize, usize) {
    let (height, width) = plan.sizes[value];
    let pixels = photos * height * width;
    assert!(pixels <= place.block_stride, "a block of value {value} reaches into the next");
    (place.offset, place.offset + (network.n_blocks(value) - 1) * place.block_stride + pixels)
}

/// Cells that a step writes for itself.
fn scratch_cells(network: &Network, plan: &Plan, step: &crate::plan::Step, photos: usize) -> (usize, usize) {
    let node = &network.nodes[step.node];
    let ((height, width), (rows, columns)) = (plan.sizes[node.input], plan.sizes[node.output]);
    let cells = match &node.op {
        Op::MaxPool { .. } => 0,
        Op::Convolution { packed, .. } => match packed.method {
            Method::Image => {
                let framed = padded_images(packed, height, width);
                (photos * framed.n_rows() * framed.row_len).div_ceil(16)
            }
            Method::Pointwise if packed.stride == 1 => 0,
            Method::Pointwise => {
                (packed.panels.k_blocks - 1) * step.copy_block_stride + photos * rows * columns
            }
            Method::Direct => {
                let blocks = packed.panels.k_blocks / (packed.kernel * packed.kernel);
                (blocks - 1) * step.copy_block_stride
                    + photos * padded_input(packed, height, width).image_len()
            }
            Method::Winograd => {
                assert!(step.tiles >= 1 && step.tiles <= photos * Tiling { height, width }.tiles_per_image());
                transformed_lines(packed.panels.k_blocks, step.tiles)
                    + transformed_lines(channel_vectors(packed.outputs), step.tiles)
            }
        },
    };
    (step.scratch, step.scratch + cells)
}

fn check(network: &Network, height: usize, width: usize) {
    let plan = Plan::new(network, height, width).unwrap();
    let ends: Vec<(usize, usize)> = (0..plan.stages.len())
        .map(|segment| {
            let next = plan.stages.get(segment + 1).map_or(0, |next| next.group_size);
            let photos = plan.stages[segment].group_size.max(next);
            value_cells(network, &plan, plan.stages[segment].output, network.taps[segment], photos)
        })
        .collect();
    for (segment, planned) in plan.stages.iter().enumerate() {
        let nodes = &network.nodes[network.stage_nodes(segment)];
        let residual = |node: usize| match nodes[node].op {
            Op::Convolution { residual, .. } => residual,
            Op::MaxPool { .. } => None,
        };
        for (now, step) in planned.steps.iter().enumerate() {
            let mut taken = ends.clone();
            // Values made up to now and read from now on, other than those at the ends of segments.
            for (made, node) in nodes.iter().enumerate().take(now + 1) {
                let value = node.output;
                let read = (now..nodes.len())
                    .rfind(|&later| nodes[later].input == value || residual(later) == Some(value));
                let place = planned.steps[made].output;
                let in_place = residual(now) == Some(value)
                    && read == Some(now)
                    && nodes[now].input != value
                    && place.offset == step.output.offset
                    && place.block_stride == step.output.block_stride;
                if value != network.taps[segment] && (made == now || read.is_some()) && !in_place {
                    taken.push(value_cells(network, &plan, place, value, planned.group_size));
                }
            }
            taken.push(scratch_cells(network, &plan, step, planned.group_size));
            taken.retain(|(start, end)| start < end);
            taken.sort_unstable();
            let name = format!("{network:?} at {height} x {width}, segment {segment}, step {now}");
            assert!(taken.iter().zip(&taken[1..]).all(|(a, b)| a.1 <= b.0), "{taken:?}: {name}");
            assert!(
                taken.last().is_some_and(|last| last.1 + 32 <= plan.arena_lines),
                "room for a tile: {name}"
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "no memory is touched")]
fn no_two_values_of_a_resnet_that_live_at_the_same_time_overlap() {
    for (blocks, bottleneck) in RESNETS {
        for way in kernel_configs() {
            let network = resnet(way.kernels, way.precisions.0, way.precisions.1, blocks, bottleneck);
            for (height, width) in [(1, 1), (7, 31), (33, 32), (65, 43), (113, 97), (224, 225)] {
                check(&network, height, width);
            }
        }
    }
}
