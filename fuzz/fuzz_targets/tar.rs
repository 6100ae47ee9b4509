//! Any bytes are an archive, compressed or not, or an error; never a panic.

#![no_main]

mod shared;

use headstock_loader::WebDatasetSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.tar", |path| WebDatasetSource { shards: vec![path], fields: shared::fields() });
});
