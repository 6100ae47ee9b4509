//! Comparison of ResNet-50 with candle-transformers.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::resnet::resnet50_no_final_layer;
use headstock_backbone::{FeatureLayer, PixelBatch};

use crate::formula;
use crate::support::{StateDict, assert_close};

#[test]
fn resnet50_matches_candle_transformers() -> candle_core::Result<()> {
    let directory = StateDict::from_formula("resnet50").to_dir();
    let backbone = directory.backbone();
    let weights = candle_core::safetensors::load(directory.path("model.safetensors"), &Device::Cpu)?;
    let oracle = resnet50_no_final_layer(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))?;
    for (images, height, width) in [(2, 224, 224), (1, 193, 129)] {
        let pixels = formula::pixels(images, height, width);
        let values = Tensor::from_slice(&pixels, (images, height, width, 3), &Device::Cpu)?;
        let values = (values.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(DType::F32)? / 255.0)?;
        let per_channel = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu)?.reshape((1, 3, 1, 1));
        let values = values
            .broadcast_sub(&per_channel([0.5, 0.45, 0.4])?)?
            .broadcast_div(&per_channel([0.25, 0.2, 0.3])?)?;
        let oracle = values.apply(&oracle)?.flatten_all()?.to_vec1::<f32>()?;
        let pixels = PixelBatch::new(&pixels, images, height, width).unwrap();
        let ours = backbone.features(pixels, FeatureLayer::Avgpool).unwrap();
        assert_close(&ours, &oracle, 1e-4, &format!("{height} x {width}"));
    }
    Ok(())
}
