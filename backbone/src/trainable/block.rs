//! A residual block: forward, and back from the derivative of what comes out.

use headstock_engine::training::TrainEpilogue;

use super::buffers::{Buffer, Buffers};
use super::pool::Size;
use super::unit::{Kept, Unit, Workplace};
use crate::error::BackboneError;
use crate::layer::Layer;

/// Units one after the other, and a shortcut around them.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stage: Layer,
    pub(super) units: Vec<Unit>,
    pub(super) shortcut: Option<Unit>,
}

/// What a block keeps of the way forward for the way back.
#[derive(Debug)]
pub(super) struct Way {
    /// Of each unit, with what comes out of it.
    units: Vec<(Kept, Option<Buffer>)>,
    shortcut: Option<Kept>,
    /// Of what comes out of the block.
    pub(super) size: Size,
}

impl Way {
    /// What is kept of each unit, in the order of [`Block::units_mut`].
    pub(super) fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.units.iter().map(|(kept, _)| kept).chain(&self.shortcut)
    }

    /// What comes out of the block.
    pub(super) fn output(&self) -> &[f32] {
        self.units.last().and_then(|(_, out)| out.as_deref()).unwrap_or_default()
    }

    /// Gives back everything but what comes out.
    pub(super) fn into_output(self, buffers: &mut Buffers) -> Option<Buffer> {
        let mut output = None;
        for (kept, out) in self.units {
            if let Some(before) = std::mem::replace(&mut output, out) {
                buffers.give(before);
            }
            kept.give(buffers);
        }
        if let Some(kept) = self.shortcut {
            kept.give(buffers);
        }
        output
    }
}

impl Block {
    /// Its units, in the order of their parameters.
    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().chain(&self.shortcut)
    }

    /// As [`units`](Self::units).
    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        self.units.iter_mut().chain(&mut self.shortcut)
    }

    /// By the batch's own statistics, or the running ones.
    pub(super) fn forward(
        &self,
        at: &mut Workplace<'_>,
        by_batch: bool,
        (size, input): (Size, &[f32]),
    ) -> Result<Way, BackboneError> {
        let around =
            self.shortcut.as_ref().map(|unit| unit.forward(at, by_batch, (size, input), None, false));
        let (shortcut, around) = around.transpose()?.unzip();
        let mut units: Vec<(Kept, Option<Buffer>)> = Vec::new();
        let mut current = size;
        for (index, unit) in self.units.iter().enumerate() {
            let other = (index + 1 == self.units.len()).then(|| around.as_deref().unwrap_or(input));
            let from = units.last().and_then(|(_, out)| out.as_deref()).unwrap_or(input);
            let (kept, out) = unit.forward(at, by_batch, (current, from), other, true)?;
            current = unit.size(current);
            if let Some((Kept::Batch(..), before)) = units.last_mut() {
                before.take().into_iter().for_each(|before| at.buffers.give(before));
            }
            units.push((kept, Some(out)));
        }
        around.into_iter().for_each(|around| at.buffers.give(around));
        Ok(Way { units, shortcut, size: current })
    }

    /// Adds the derivatives by its parameters, for the derivative by what comes out, which is 0 where that is. Gives the derivative by
    /// the input where it is wanted: the input is what a ReLU gave, and its derivative is by what went into that.
    pub(super) fn backward(
        &self,
        at: &mut Workplace<'_>,
        way: Way,
        input: &[f32],
        gradient: Buffer,
        wants_input: bool,
    ) -> Result<Option<Buffer>, BackboneError> {
        let mut kept: Vec<(Kept, Option<Buffer>)> = way.units;
        let mut current: Option<Buffer> = None;
        while let Some((of_unit, out)) = kept.pop() {
            out.into_iter().for_each(|out| at.buffers.give(out));
            let (index, unit) = (kept.len(), &self.units[kept.len()]);
            let again = match kept.last() {
                Some((before, None)) => self.units[index - 1].again(at, before),
                _ => None,
            };
            let xs = match kept.last() {
                Some((_, Some(out))) => out,
                _ => again.as_deref().unwrap_or(input),
            };
            let of_output = current.as_deref().unwrap_or(&gradient);
            let back = unit.backward(at, of_unit, xs, of_output)?;
            let mut next = None;
            if index > 0 || wants_input {
                let by_input = next.insert(at.buffers.take(xs.len()));
                let other = (index == 0 && self.shortcut.is_none()).then_some(&*gradient);
                let finish = TrainEpilogue { addend: other, mask: Some(xs), ..TrainEpilogue::default() };
                unit.by_input(at, &back, of_output, finish, by_input)?;
            }
            for buffer in [back.by_sums, again, current].into_iter().flatten() {
                at.buffers.give(buffer);
            }
            current = next;
        }
        if let (Some(unit), Some(kept)) = (&self.shortcut, way.shortcut) {
            let back = unit.backward(at, kept, input, &gradient)?;
            if let Some(by_input) = &mut current {
                let finish =
                    TrainEpilogue { accumulate: true, mask: Some(input), ..TrainEpilogue::default() };
                unit.by_input(at, &back, &gradient, finish, by_input)?;
            }
            back.by_sums.into_iter().for_each(|buffer| at.buffers.give(buffer));
        }
        at.buffers.give(gradient);
        Ok(current)
    }
}
