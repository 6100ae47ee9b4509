//! Reading any bytes as JSON lines of metadata gives samples or an error but never panics.

#![no_main]

mod shared;

use headstock_loader::source::MetadataSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "metadata.jsonl", |path| MetadataSource {
        root: path.parent().expect("the file is in a folder").into(),
        fields: shared::fields("label"),
        follow_links: false,
    });
});
