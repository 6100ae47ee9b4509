//! Thousands of mutated files: each is read or gives an error, in time and within its memory.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic as tests do")]

#[expect(clippy::ptr_arg, reason = "all kinds of mutation are of one type")]
mod generator;
mod images;
mod limits;
mod shards;
