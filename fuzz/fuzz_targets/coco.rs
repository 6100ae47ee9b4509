//! Reading any bytes as JSON in COCO's format gives samples or an error but never panics.

#![no_main]

mod shared;

use headstock_loader::source::CocoSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.json", |path| CocoSource {
        images: path.parent().expect("the file is in a folder").into(),
        file: path,
        fields: shared::fields("name"),
        follow_links: false,
    });
});
