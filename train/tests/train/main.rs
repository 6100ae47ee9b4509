//! The library as its callers use it, in one program: each of its own would be linked anew.

mod calibration;
mod config;
mod feature_file;
mod metrics;
