//! Prints the time of each layer of the demo's ResNet-50 on one thread: the tables in `docs/engine.md`.
//!
//! `cargo run --release -p headstock-backbone --example layers -- f32` (or `bf16`), 224 x 224, batch 16.

#![expect(clippy::print_stdout, reason = "the output of the example")]

use std::error::Error;
use std::path::Path;

use headstock_backbone::{
    Backbone, Checkpoint, DeviceChoice, LayerTime, Method, PixelBatch, Precision, WeightsSource,
};

const BATCH: usize = 16;
const SIDE: usize = 224;
const RUNS: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let precision: Precision = std::env::args().nth(1).as_deref().unwrap_or("f32").parse()?;
    let source = WeightsSource::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    let backbone = Backbone::new(&Checkpoint::open(&source.fetch(&())?)?, DeviceChoice::Cpu, precision)?;
    let bytes: Vec<u8> = (0..BATCH * SIDE * SIDE * 3).map(|i| (i * 37 % 251) as u8).collect();
    let pixels = PixelBatch::new(&bytes, BATCH, SIDE, SIDE)?;
    let (layers, peak) = backbone.profile(pixels, RUNS)?.ok_or("there is no engine on CUDA")?;

    println!("{precision}, {}, one thread, peak {peak:.0} GFLOP/s:\n", backbone.isa());
    println!("| layer | method | output | ms per photo | GFLOP/s | share of the peak |");
    println!("|---|---|---|---|---|---|");
    let (mut total_time, mut total_macs) = (0.0, 0);
    for layer in &layers {
        let LayerTime { name, method, size: (height, width), channels, .. } = layer;
        let time = layer.time.as_secs_f64() * 1e3 / (RUNS * BATCH) as f64;
        let method = match method {
            Some(Method::FirstLayer) => "first layer",
            Some(Method::Pointwise) => "pointwise",
            Some(Method::Direct) => "direct",
            Some(Method::Winograd) => "Winograd",
            None => "",
        };
        let size = format!("{channels} x {height} x {width}");
        println!("| {name} | {method} | {size} | {} |", table_cells(time, layer.macs, peak));
        total_time += time;
        total_macs += layer.macs;
    }
    println!("| all | | | {} |", table_cells(total_time, total_macs, peak));
    Ok(())
}

/// The table cells for milliseconds per photo, GFLOP/s and percentage of `peak`, in GFLOP/s; `macs` are the
/// layer's multiply-accumulate operations per photo, 0 for a pool.
fn table_cells(milliseconds: f64, macs: u64, peak: f64) -> String {
    let rate = 2.0 * macs as f64 / milliseconds / 1e6;
    match macs {
        0 => format!("{milliseconds:.3} | | "),
        _ => format!("{milliseconds:.3} | {rate:.0} | {:.0} %", 100.0 * rate / peak),
    }
}
