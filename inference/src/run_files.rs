//! The names of files in the folder of a run.

/// The config of a run.
pub const CONFIG_FILE: &str = "headstock.toml";

/// The model of a run.
pub const MODEL_FILE: &str = "model.safetensors";
