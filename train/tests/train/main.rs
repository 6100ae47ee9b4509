//! Tests of the public interface, in one binary to link only once.

mod calibration;
mod config;
mod feature_file;
mod metrics;
