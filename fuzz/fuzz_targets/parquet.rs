//! Any bytes are a Parquet or an error; never a panic that leaves the reader.

#![no_main]

mod shared;

use headstock_loader::ParquetSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.parquet", |path| ParquetSource {
        shards: vec![path],
        image: "image".into(),
        fields: shared::fields(),
    });
});
