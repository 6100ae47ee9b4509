//! Tests of the public API against reference implementations.

#![expect(clippy::unwrap_used, reason = "tests")]

mod candle;
mod checkpoints;
mod formula;
mod golden_gradients;
mod gradients;
mod independence;
mod layers;
mod lookalikes;
mod precision;
mod records;
mod support;
mod torchvision;
