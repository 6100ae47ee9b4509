//! The values of tensors on the CPU.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

/// The values of a contiguous tensor in `f32`.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a tensor is not contiguous"),
    }
}

/// Calls `act` with the values of contiguous tensors on the CPU in `f32`.
pub(super) fn with_values<const N: usize, T>(
    tensors: [&Tensor; N],
    act: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let contiguous: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("a tensor is not on the CPU") };
        *slice = values(storage, layout)?;
    }
    act(slices)
}
