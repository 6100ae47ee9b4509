//! Thousands of mutated files: each is read or gives an error, within limits of time and memory.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

#[expect(clippy::ptr_arg, reason = "all mutations have the same function type")]
mod generator;
mod images;
mod limits;
mod shards;
