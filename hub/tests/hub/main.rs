//! Downloads of weights and data sets from a test hub on the loopback interface.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod cache;
mod damage;
mod dataset;
mod download;
mod fixture;
mod hostile;
mod processes;
mod proxy;
mod refusals;
mod server;
