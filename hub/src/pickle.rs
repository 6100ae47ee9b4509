//! Weights in PyTorch's pickle format, which are not supported because reading them can run code.

use std::path::Path;

/// Whether the extension is one of PyTorch's pickle formats, which are not supported.
#[must_use]
pub fn is_pickled(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["bin", "pt", "pth", "ckpt"].iter().any(|known| extension == *known))
}

/// The end of an error message about weights in PyTorch's pickle format: how to convert `file`.
#[must_use]
pub fn conversion_hint(file: &str) -> String {
    format!(
        "convert {file} in Python with `import torch, safetensors.torch; \
         safetensors.torch.save_file(torch.load(\"{file}\", weights_only=True), \"model.safetensors\")`, and \
         use model.safetensors instead"
    )
}
