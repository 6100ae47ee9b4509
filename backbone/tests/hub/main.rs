//! Weights and data sets from a hub: hf-hub's real client against a small hub on loopback.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

mod cache;
mod damage;
mod dataset;
mod download;
mod fixture;
mod processes;
mod refusals;
mod server;
