//! Any bytes are a table or an error; never a panic.

#![no_main]

mod shared;

use headstock_loader::CsvSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.csv", |path| CsvSource {
        images: path.parent().expect("it lies in a folder").into(),
        csv: path,
        id: "id".into(),
        extension: "jpg".into(),
        fields: shared::fields("label"),
    });
});
