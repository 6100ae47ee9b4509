//! Reading any bytes as Parquet gives samples or an error; panics of the `parquet` crate are caught.

#![no_main]

mod shared;

use std::collections::BTreeMap;
use std::panic::{self, Location};

use headstock_loader::ParquetSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: ignore_foreign_panics(), |bytes: &[u8]| {
    for (image, label) in [("image", "label"), ("picture", "class")] {
        shared::read(bytes, "x.parquet", |path| ParquetSource {
            shards: vec![path],
            splits: BTreeMap::new(),
            image: image.into(),
            fields: shared::fields(label),
            follow_links: false,
        });
    }
});

/// Keeps libfuzzer from aborting at panics of the `parquet` crate, which the loader turns into errors.
fn ignore_foreign_panics() {
    let abort = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_ours = |location: &Location<'_>| {
            ["loader/src", "fuzz_targets"].iter().any(|path| location.file().contains(path))
        };
        if info.location().is_none_or(is_ours) {
            abort(info);
        }
    }));
}
