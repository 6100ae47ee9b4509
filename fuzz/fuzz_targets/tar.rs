//! Reading any bytes as a tar archive, gzipped or not, gives samples or an error but never panics.

#![no_main]

mod shared;

use headstock_loader::WebDatasetSource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut archive = bytes.to_vec();
    correct_checksums(&mut archive);
    shared::read(&archive, "x.tar", |path| WebDatasetSource {
        shards: vec![path],
        image: None,
        fields: shared::fields("label"),
    });
});

/// Corrects the checksums of headers, so that mutated headers are not all rejected.
fn correct_checksums(archive: &mut [u8]) {
    for header in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
