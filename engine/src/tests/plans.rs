//! Memory plans: values that live at the same time must not overlap.

use crate::dispatch::KernelSet;
use crate::isa::{DType, Isa};
use crate::layer::{Convolution, Method, channel_vectors};
use crate::network::{Network, NetworkBuilder, Op, ValueId};
use crate::plan::{BufferSlot, Plan, PlannedNode, padded_images, padded_input, transformed_lines};
use crate::tests::{epilogue, kernel_configs};
use crate::winograd::Tiling;

/// The five ResNets, with a quarter of the width: blocks of each stage, and whether they are bottlenecks.
const RESNETS: [([usize; 4], bool); 5] = [
    ([2, 2, 2, 2], false),
    ([3, 4, 6, 3], false),
    ([3, 4, 6, 3], true),
    ([3, 4, 23, 3], true),
    ([3, 8, 36, 3], true),
];

/// A ResNet whose weights are all 0.
fn resnet(kernels: KernelSet, first: DType, rest: DType, blocks: [usize; 4], bottleneck: bool) -> Network {
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
    let (mut channels, mut precision) = (16, first);
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let inside = 16 << stage;
        let outputs = if bottleneck { 4 * inside } else { inside };
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let shortcut = if stride == 1 && channels == outputs {
                value
            } else {
                add(&mut builder, [channels, outputs, 1, stride, 0], value, None, precision)
            };
            let shapes: &[[usize; 5]] = if bottleneck {
                &[[channels, inside, 1, 1, 0], [inside, inside, 3, stride, 1], [inside, outputs, 1, 1, 0]]
            } else {
                &[[channels, inside, 3, stride, 1], [inside, outputs, 3, 1, 1]]
            };
            for (index, &shape) in shapes.iter().enumerate() {
                let last = index + 1 == shapes.len();
                // The last layer of the first stage switches to the precision of the rest.
                if last && stage == 0 && block + 1 == blocks {
                    precision = rest;
                }
                value = add(&mut builder, shape, value, last.then_some(shortcut), precision);
            }
            channels = outputs;
        }
        builder.add_tap().unwrap();
    }
    builder.build()
}

/// First line, and line after the last, of `images` images of a value.
fn value_lines(
    network: &Network,
    plan: &Plan,
    slot: BufferSlot,
    value: usize,
    images: usize,
) -> (usize, usize) {
    let (height, width) = plan.sizes[value];
    let pixels = images * height * width;
    assert!(pixels <= slot.block_stride, "blocks of value {value} overlap");
    (slot.offset, slot.offset + (network.n_blocks(value) - 1) * slot.block_stride + pixels)
}

/// First line, and line after the last, of the scratch memory that a node writes.
fn scratch_lines(network: &Network, plan: &Plan, planned: &PlannedNode, images: usize) -> (usize, usize) {
    let node = &network.nodes[planned.node];
    let ((height, width), (rows, columns)) = (plan.sizes[node.input], plan.sizes[node.output]);
    let lines = match &node.op {
        Op::MaxPool { .. } => 0,
        Op::Convolution { packed, .. } => match packed.method {
            Method::FirstLayer => {
                let padded = padded_images(packed, height, width);
                (images * padded.n_rows() * padded.row_len).div_ceil(16)
            }
            Method::Pointwise if packed.stride == 1 => 0,
            Method::Pointwise => {
                (packed.panels.k_blocks - 1) * planned.copy_block_stride + images * rows * columns
            }
            Method::Direct => {
                let image_len = padded_input(packed, height, width).image_len();
                (packed.input_blocks() - 1) * planned.copy_block_stride + images * image_len
            }
            Method::Winograd => {
                assert!(
                    planned.tiles >= 1
                        && planned.tiles <= images * Tiling { height, width }.tiles_per_image()
                );
                let vectors = channel_vectors(packed.outputs);
                transformed_lines(packed.panels.k_blocks, planned.tiles)
                    + transformed_lines(vectors, planned.tiles)
            }
        },
    };
    (planned.scratch, planned.scratch + lines)
}

/// Checks that live values do not overlap while any node runs.
fn check(network: &Network, height: usize, width: usize) {
    let plan = Plan::new(network, height, width).unwrap();
    let ends: Vec<(usize, usize)> = (0..plan.stages.len())
        .map(|stage| {
            let next = plan.stages.get(stage + 1).map_or(0, |next| next.group_size);
            let images = plan.stages[stage].group_size.max(next);
            value_lines(network, &plan, plan.stages[stage].output, network.taps[stage], images)
        })
        .collect();
    for (stage, stage_plan) in plan.stages.iter().enumerate() {
        let nodes = &network.nodes[network.stage_nodes(stage)];
        let residual = |node: usize| match nodes[node].op {
            Op::Convolution { residual, .. } => residual,
            Op::MaxPool { .. } => None,
        };
        for (now, planned) in stage_plan.planned_nodes.iter().enumerate() {
            let mut taken = ends.clone();
            // Values computed so far that are still read, except those at taps.
            for (computed, node) in nodes.iter().enumerate().take(now + 1) {
                let value = node.output;
                let read = (now..nodes.len())
                    .rfind(|&later| nodes[later].input == value || residual(later) == Some(value));
                let slot = stage_plan.planned_nodes[computed].output;
                let in_place = residual(now) == Some(value)
                    && read == Some(now)
                    && nodes[now].input != value
                    && slot.offset == planned.output.offset
                    && slot.block_stride == planned.output.block_stride;
                if value != network.taps[stage] && (computed == now || read.is_some()) && !in_place {
                    taken.push(value_lines(network, &plan, slot, value, stage_plan.group_size));
                }
            }
            taken.push(scratch_lines(network, &plan, planned, stage_plan.group_size));
            taken.retain(|(start, end)| start < end);
            taken.sort_unstable();
            let name = format!("{network:?} at {height} x {width}, stage {stage}, node {now}");
            assert!(taken.iter().zip(&taken[1..]).all(|(a, b)| a.1 <= b.0), "{taken:?}: {name}");
            assert!(taken.last().is_some_and(|last| last.1 + 32 <= plan.arena_lines), "slack: {name}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "no memory is touched")]
fn live_values_of_a_resnet_do_not_overlap() {
    for (blocks, bottleneck) in RESNETS {
        for config in kernel_configs() {
            let network =
                resnet(config.kernels, config.precisions.0, config.precisions.1, blocks, bottleneck);
            for (height, width) in [(1, 1), (7, 31), (33, 32), (65, 43), (113, 97), (224, 225)] {
                check(&network, height, width);
            }
        }
    }
}
