//! Gradients of affine maps one after the other, by hand: two products of matrices a layer, and the step in the same
//! pass over the memory as the second.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::parts::{Parameter, UNITS, product, softmax_slope, wins};
use super::{Learner, Samples, Step};
use crate::affine::Affine;
use crate::error::HeadError;
use crate::random::Keyed;

/// Affine maps with a ReLU after each but the last, and dropout after each ReLU: what learns a perceptron and, of one
/// layer, logistic regression.
#[derive(Debug)]
pub(crate) struct Stack {
    layers: Vec<Layer>,
    dropout: Option<Dropout>,
    /// Features of the rows at hand, then what each layer makes of them, `[n, units]`.
    values: Vec<Vec<f32>>,
    /// Derivatives of the loss by what the last and by what another layer makes.
    slopes: [Vec<f32>; 2],
}

/// A map that learns.
#[derive(Debug)]
struct Layer {
    /// `[units, width]`
    weight: Parameter,
    /// `[units]`
    bias: Parameter,
    width: usize,
}

/// Leaves out units, each with the same probability, and keeps the mean (Srivastava et al., JMLR 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// Part of the units that is left out.
    pub(crate) part: f64,
    /// Key of which.
    pub(crate) seed: u64,
}

impl Dropout {
    /// Leaves out units of a row of a layer in a step.
    pub(crate) fn apply(self, step: u64, layer: usize, row: usize, units: &mut [f32]) {
        let mut random = Keyed::new(&[self.seed, step, layer as u64, row as u64]);
        let (below, kept) = ((self.part * 2f64.powi(32)) as u32, self.scale());
        for pair in units.chunks_mut(2) {
            let bits = random.next();
            for (unit, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
                *unit *= if bits < below { 0.0 } else { kept };
            }
        }
    }

    /// What the units that are left are multiplied by.
    fn scale(self) -> f32 {
        (1.0 / (1.0 - self.part)) as f32
    }
}

impl Stack {
    /// Learns from these maps on, the width of each the units of the one before.
    pub(crate) fn new(maps: Vec<Affine>, dropout: Option<Dropout>) -> Self {
        let layers: Vec<Layer> = maps.into_iter().map(Layer::new).collect();
        let values = vec![Vec::new(); layers.len() + 1];
        Self { layers, dropout, values, slopes: [Vec::new(), Vec::new()] }
    }

    /// About how many bytes a fit takes beside its features, of maps of `[units, width]` on so many rows at a time.
    pub(crate) fn memory(maps: &[[usize; 2]], rows: usize) -> u64 {
        // Value, gradient and two means; the values to start from, those of the best epoch, and those to return.
        const COPIES: usize = 7;
        let parameters: usize = maps.iter().map(|[units, width]| units.saturating_mul(width + 1)).sum();
        let values: usize = maps.iter().map(|[units, width]| units + width).sum();
        let floats = parameters.saturating_mul(COPIES).saturating_add(rows.saturating_mul(2 * values));
        (floats as u64).saturating_mul(size_of::<f32>() as u64)
    }

    /// The gradients of the last step, each as a map.
    #[cfg(test)]
    pub(super) fn gradients(&self) -> Vec<Affine> {
        let gradient = |parameter: &Parameter| parameter.gradient.clone();
        let map = |layer: &Layer| Affine::new(gradient(&layer.weight), gradient(&layer.bias), layer.width);
        self.layers.iter().map(|layer| map(layer).expect("finite gradients")).collect()
    }

    /// Fills `values` for some rows, up to the products of the last layer; `step` where they are to learn from.
    fn forward(&mut self, samples: Samples<'_>, rows: &[usize], step: Option<u64>) {
        samples.gather(rows, &mut self.values[0]);
        let last = self.layers.len() - 1;
        for (number, layer) in self.layers.iter().enumerate() {
            let (x, y) = self.values.split_at_mut(number + 1);
            let (x, y) = (&x[number], &mut y[0]);
            layer.apply(x, rows.len(), y);
            if number < last {
                let dropout = self.dropout.zip(step);
                y.par_chunks_exact_mut(layer.units()).enumerate().for_each(|(row, units)| {
                    for unit in &mut *units {
                        // Not `max`, which takes 0 rather than NaN.
                        *unit = if *unit < 0.0 { 0.0 } else { *unit };
                    }
                    if let Some((dropout, step)) = dropout {
                        dropout.apply(step, number, row, units);
                    }
                });
            }
        }
    }

    /// `weight · log-loss` of each row at hand, and whether it is predicted right; in place of the logits, their
    /// derivatives times `scale`.
    fn losses(&mut self, samples: Samples<'_>, rows: &[usize], scale: f32) -> Vec<(f64, bool)> {
        let last = self.layers.len();
        let classes = self.layers[last - 1].units();
        let logits = self.values[last].par_chunks_exact_mut(classes).zip(rows);
        let losses = logits.map(|(logits, &row)| {
            let (label, weight) = (samples.label(row), samples.weight(row));
            let right = wins(logits, label);
            (f64::from(weight) * softmax_slope(logits, label, weight * scale), right)
        });
        losses.collect()
    }
}

impl Learner for Stack {
    type Parameters = Vec<Affine>;

    fn step(&mut self, samples: Samples<'_>, rows: &[usize], step: Step) -> Result<f64, HeadError> {
        self.forward(samples, rows, Some(step.done));
        let n = rows.len();
        let losses = self.losses(samples, rows, 1.0 / n as f32);
        let kept = self.dropout.map_or(1.0, Dropout::scale);
        let [slope, below] = &mut self.slopes;
        std::mem::swap(slope, &mut self.values[self.layers.len()]);
        for (number, layer) in self.layers.iter_mut().enumerate().rev() {
            let x = &self.values[number];
            if number > 0 {
                layer.slope_below(slope, n, below);
                // A unit that is 0 was below 0 or left out: it passes nothing on.
                below.par_chunks_mut(layer.width).zip(x.par_chunks(layer.width)).for_each(
                    |(slopes, units)| {
                        for (slope, &unit) in slopes.iter_mut().zip(units) {
                            *slope *= if unit == 0.0 { 0.0 } else { kept };
                        }
                    },
                );
            }
            layer.learn(x, slope, n, step);
            std::mem::swap(slope, below);
        }
        Ok(losses.iter().map(|(loss, _)| loss).sum::<f64>() / n as f64)
    }

    fn judge(&mut self, samples: Samples<'_>, rows: &[usize]) -> Result<(f64, usize), HeadError> {
        self.forward(samples, rows, None);
        let losses = self.losses(samples, rows, 1.0);
        let right = losses.iter().filter(|(_, right)| *right).count();
        Ok((losses.iter().map(|(loss, _)| loss).sum(), right))
    }

    fn parameters(&self) -> Result<Vec<Affine>, HeadError> {
        let map =
            |layer: &Layer| Affine::new(layer.weight.value.clone(), layer.bias.value.clone(), layer.width);
        self.layers.iter().map(map).collect()
    }
}

impl Layer {
    fn new(map: Affine) -> Self {
        let (weight, bias, width) = map.into_parts();
        Self { weight: Parameter::new(weight), bias: Parameter::new(bias), width }
    }

    fn units(&self) -> usize {
        self.bias.value.len()
    }

    fn weights(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.weight.value, self.units(), self.width)
    }

    /// `x` `[n, width]` to `y` `[n, units]`.
    fn apply(&self, x: &[f32], n: usize, y: &mut Vec<f32>) {
        y.resize(n * self.units(), 0.0);
        y.par_chunks_exact_mut(self.units()).for_each(|row| row.copy_from_slice(&self.bias.value));
        let out = MatMut::from_row_major_slice_mut(y, n, self.units());
        product(out, Accum::Add, MatRef::from_row_major_slice(x, n, self.width), self.weights().transpose());
    }

    /// Derivatives by the units, `slope` `[n, units]`, to those by what the layer takes, `[n, width]`.
    fn slope_below(&self, slope: &[f32], n: usize, below: &mut Vec<f32>) {
        below.resize(n * self.width, 0.0);
        let out = MatMut::from_row_major_slice_mut(below, n, self.width);
        product(out, Accum::Replace, MatRef::from_row_major_slice(slope, n, self.units()), self.weights());
    }

    /// A step against the gradient that `x` `[n, width]` and `slope` `[n, units]` give. A thread takes some units, and
    /// their gradient is still in its cache for the step.
    fn learn(&mut self, x: &[f32], slope: &[f32], n: usize, step: Step) {
        let (units, width) = (self.units(), self.width);
        let x = MatRef::from_row_major_slice(x, n, width);
        let slope = MatRef::from_row_major_slice(slope, n, units);
        let (of_weight, of_bias) = (step.of_rank(2), step.of_rank(1));
        let pieces = self.weight.pieces(UNITS * width).zip(self.bias.pieces(UNITS)).enumerate();
        pieces.for_each(|(piece, (weight, bias))| {
            let slope = slope.subcols(piece * UNITS, bias.value.len());
            for (column, sum) in bias.gradient.iter_mut().enumerate() {
                *sum = (0..n).map(|row| slope[(row, column)]).sum();
            }
            of_bias.apply(bias);

            let out = MatMut::from_row_major_slice_mut(weight.gradient, slope.ncols(), width);
            matmul(out, Accum::Replace, slope.transpose(), x, 1.0, Par::Seq);
            of_weight.apply(weight);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_leaves_out_its_share_and_keeps_the_mean() {
        let dropout = Dropout { part: 0.3, seed: 0 };
        let mask = |step: u64, layer: usize, row: usize| {
            let mut units = vec![1.0; 10_001];
            dropout.apply(step, layer, row, &mut units);
            units
        };
        let units = mask(0, 0, 0);
        let dropped = units.iter().filter(|&&value| value == 0.0).count();
        assert!((2800..3200).contains(&dropped), "{dropped} of 10001");
        assert!(units.iter().all(|&value| value == 0.0 || value == 1.0 / 0.7));
        for other in [mask(1, 0, 0), mask(0, 1, 0), mask(0, 0, 1)] {
            assert_ne!(units, other);
        }
    }
}
