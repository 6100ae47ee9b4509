//! Reference values by PyTorch, torchvision, timm and SciPy (`reference/tuning/arithmetic.py`).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

/// Reference tensors by name.
pub(super) struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub(super) fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/tuning/arithmetic.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        self.flat_tensor(name, DType::F32).to_vec1().unwrap()
    }

    pub(super) fn doubles(&self, name: &str) -> Vec<f64> {
        self.flat_tensor(name, DType::F64).to_vec1().unwrap()
    }

    pub(super) fn numbers(&self, name: &str) -> Vec<u32> {
        self.flat_tensor(name, DType::U32).to_vec1().unwrap()
    }

    fn flat_tensor(&self, name: &str, dtype: DType) -> Tensor {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        tensor.to_dtype(dtype).unwrap().flatten_all().unwrap()
    }
}

/// Asserts `max |a - b| <= relative * max |b|`.
pub(super) fn assert_agree(ours: &[f32], expected: &[f32], relative: f32, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
    let gap = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp).unwrap();
    assert!(gap <= relative * largest, "{what} is off by {gap:e}, where the largest is {largest:e}");
}
