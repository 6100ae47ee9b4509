//! Reading any bytes as a CSV gives samples or an error but never panics.

#![no_main]

mod shared;

use headstock_loader::CsvSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.csv", |path| CsvSource {
        images: path.parent().expect("the file is in a folder").into(),
        csv: path,
        id: "id".into(),
        extension: "jpg".into(),
        fields: shared::fields("label"),
        follow_links: false,
    });
});
