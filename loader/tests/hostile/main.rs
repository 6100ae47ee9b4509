//! Thousands of mutated files: each is read or gives an error, in time and within its memory.

mod generator;
mod photos;
mod shards;
mod watch;
