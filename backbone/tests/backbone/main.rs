//! The backbone against its oracles, through its public API alone.

mod candle;
mod formula;
mod independence;
mod support;
mod torchvision;
