//! Photos a second of the network alone, beside candle-transformers' ResNet-50 on the same weights.
//!
//! `cargo run --release -p headstock-backbone --example throughput`: best and median of rounds that alternate, ResNet-50 of
//! the demo, 224 x 224, batch 16.

#![expect(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::resnet::resnet50_no_final_layer;
use headstock_backbone::{Backbone, Checkpoint, DeviceChoice, Layer, Pixels, Precision, WeightFiles};

const BATCH: usize = 16;
const SIDE: usize = 224;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/backbone");
    let files = WeightFiles {
        weights: folder.join("model.safetensors"),
        config: Some(folder.join("config.json")),
        preprocessor: None,
        origin: "demo".into(),
    };
    let bytes: Vec<u8> = (0..BATCH * SIDE * SIDE * 3).map(|i| (i * 37 % 251) as u8).collect();
    let backbone = Backbone::new(&Checkpoint::open(&files)?, DeviceChoice::Cpu, Precision::F32)?;
    let pixels = Pixels::new(&bytes, BATCH, SIDE, SIDE)?;

    let weights = candle_core::safetensors::load(&files.weights, &Device::Cpu)?;
    let theirs =
        resnet50_no_final_layer(candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))?;
    let input = Tensor::from_slice(&bytes, (BATCH, SIDE, SIDE, 3), &Device::Cpu)?;
    let input = (input.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)? / 255.0)?;

    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let ours = backbone.features(pixels, Layer::Avgpool)?;
        rates[0].push(BATCH as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        let oracle = input.apply(&theirs)?.flatten_all()?.to_vec1::<f32>()?;
        rates[1].push(BATCH as f64 / start.elapsed().as_secs_f64());
        let gap = ours.iter().zip(&oracle).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let scale = oracle.iter().fold(0f32, |max, x| max.max(x.abs()));
        assert!(gap <= 1e-4 * scale, "they disagree: {gap} of {scale}");
    }
    for (name, rates) in ["headstock", "candle-transformers"].iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        println!("{name}: {:.1} img/s median, {:.1} best", rates[ROUNDS / 2], rates[ROUNDS - 1]);
    }
    Ok(())
}
