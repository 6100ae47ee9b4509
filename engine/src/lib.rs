//! CPU kernels of headstock. So far it only tells what the CPU offers; the backbone's arithmetic is candle's.

mod isa;

pub use isa::Isa;
