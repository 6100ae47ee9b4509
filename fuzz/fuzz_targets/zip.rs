//! Reading any bytes as a zip archive of photos, with archives in it, gives samples or an error but never panics.

#![no_main]

mod shared;

use headstock_loader::FolderSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    shared::read(bytes, "x.zip", |path| FolderSource::new(path.into()));
});
