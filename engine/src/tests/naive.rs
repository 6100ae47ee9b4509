//! Networks by definition, in `f64`.

use crate::image::Normalization;
use crate::layer::Convolution;

/// A value of one image, `[C, H, W]`.
#[derive(Clone, Debug)]
pub(crate) struct FeatureMap {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f64>,
    /// Maximum of the sums of absolute values, to which rounding errors are proportional.
    pub(crate) max_abs_sum: f64,
}

impl FeatureMap {
    /// A value, or 0 outside.
    pub(crate) fn get(&self, channel: usize, y: isize, x: isize) -> f64 {
        let inside = |index: isize, size: usize| usize::try_from(index).ok().filter(|&index| index < size);
        match (inside(y, self.height), inside(x, self.width)) {
            (Some(y), Some(x)) => self.values[(channel * self.height + y) * self.width + x],
            _ => 0.0,
        }
    }

    /// The global average pool.
    pub(crate) fn means(&self) -> Vec<f64> {
        let pixels = self.height * self.width;
        self.values.chunks_exact(pixels).map(|plane| plane.iter().sum::<f64>() / pixels as f64).collect()
    }

    /// The convolution by its definition.
    fn convolved(&self, layer: &Convolution) -> Self {
        let Convolution { inputs, outputs, kernel, stride, padding, .. } = *layer;
        assert_eq!(inputs, self.channels);
        let output_len = |size: usize| (size + 2 * padding - kernel) / stride + 1;
        let (height, width) = (output_len(self.height), output_len(self.width));
        let (mut values, mut max_abs_sum) = (Vec::new(), 0f64);
        for output in 0..outputs {
            for y in 0..height {
                for x in 0..width {
                    let mut sum = f64::from(layer.bias[output]);
                    let mut abs_sum = sum.abs();
                    for input in 0..inputs {
                        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                            let weight =
                                layer.weights[((output * inputs + input) * kernel + ky) * kernel + kx];
                            let source = |output: usize, tap: usize| {
                                (output * stride + tap) as isize - padding as isize
                            };
                            let product = f64::from(weight) * self.get(input, source(y, ky), source(x, kx));
                            sum += product;
                            abs_sum += product.abs();
                        }
                    }
                    values.push(sum);
                    max_abs_sum = max_abs_sum.max(abs_sum);
                }
            }
        }
        Self { channels: outputs, height, width, values, max_abs_sum }
    }

    /// The max pool by its definition.
    fn pooled(&self, kernel: usize, stride: usize, padding: usize) -> Self {
        let output_len = |size: usize| (size + 2 * padding - kernel) / stride + 1;
        let (height, width) = (output_len(self.height), output_len(self.width));
        let mut values = Vec::new();
        for channel in 0..self.channels {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let mut largest = f64::NEG_INFINITY;
                for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                    let (row, column) =
                        ((y * stride + ky).wrapping_sub(padding), (x * stride + kx).wrapping_sub(padding));
                    if row < self.height && column < self.width {
                        largest =
                            largest.max(self.values[(channel * self.height + row) * self.width + column]);
                    }
                }
                values.push(largest);
            }
        }
        Self { channels: self.channels, height, width, values, max_abs_sum: self.max_abs_sum }
    }
}

enum NaiveOp {
    Convolution(Convolution, Option<usize>, bool),
    MaxPool(usize, usize, usize),
}

/// Layers in execution order; value 0 is the image.
pub(crate) struct NaiveNetwork {
    normalization: Normalization,
    layers: Vec<(usize, NaiveOp)>,
}

impl NaiveNetwork {
    pub(crate) fn new(normalization: Normalization) -> Self {
        Self { normalization, layers: Vec::new() }
    }

    /// Adds a convolution; returns the index of its value.
    pub(crate) fn convolution(
        &mut self,
        input: usize,
        layer: &Convolution,
        residual: Option<usize>,
        relu: bool,
    ) -> usize {
        self.layers.push((input, NaiveOp::Convolution(layer.clone(), residual, relu)));
        self.layers.len()
    }

    pub(crate) fn max_pool(&mut self, input: usize, kernel: usize, stride: usize, padding: usize) -> usize {
        self.layers.push((input, NaiveOp::MaxPool(kernel, stride, padding)));
        self.layers.len()
    }

    /// The last value of each image.
    pub(crate) fn run(&self, pixels: &[u8], images: usize, height: usize, width: usize) -> Vec<FeatureMap> {
        self.run_to(self.layers.len(), pixels, images, height, width)
    }

    /// A value of each image.
    pub(crate) fn run_to(
        &self,
        value: usize,
        pixels: &[u8],
        images: usize,
        height: usize,
        width: usize,
    ) -> Vec<FeatureMap> {
        let each = height * width * 3;
        let run = |image: usize| {
            let mut values = Vec::new();
            for channel in 0..3 {
                for pixel in 0..height * width {
                    let value = pixels[image * each + pixel * 3 + channel];
                    values.push(f64::from(self.normalization[channel][usize::from(value)]));
                }
            }
            let mut maps = vec![FeatureMap { channels: 3, height, width, values, max_abs_sum: 0.0 }];
            for (input, op) in &self.layers[..value] {
                let map = match op {
                    NaiveOp::MaxPool(kernel, stride, padding) => {
                        maps[*input].pooled(*kernel, *stride, *padding)
                    }
                    NaiveOp::Convolution(layer, residual, relu) => {
                        let mut map = maps[*input].convolved(layer);
                        if let Some(residual) = residual {
                            map.values.iter_mut().zip(&maps[*residual].values).for_each(|(a, b)| *a += b);
                            map.max_abs_sum += maps[*residual].max_abs_sum;
                        }
                        if *relu {
                            map.values.iter_mut().for_each(|value| *value = value.max(0.0));
                        }
                        map
                    }
                };
                maps.push(map);
            }
            maps.swap_remove(value)
        };
        (0..images).map(run).collect()
    }
}
