//! Prints the near-duplicates in a folder and its subfolders as CSV: `similarity,mirrored,a,b`. Run by
//! `reference/duplicates/measure.py`.
//!
//! `cargo run --release -p headstock-loader --example duplicates -- FOLDER [SIMILARITY]`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use headstock_loader::duplicates::{DEFAULT_SIMILARITY, Signature, find_near_duplicates};
use headstock_loader::source::find_image_files;
use headstock_loader::{ImageRef, decode};
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder of photos")?;
    let similarity = arguments.next().map_or(Ok(DEFAULT_SIMILARITY), |text| text.parse())?;
    let paths = find_image_files(Path::new(&folder))?;
    let start = Instant::now();
    let signatures: Vec<Option<Signature>> = paths
        .par_iter()
        .map(|path| {
            Some(Signature::new(&decode(&ImageRef::from(path.clone()).read().ok()?, 100_000_000).ok()?))
        })
        .collect();
    let read_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let pairs = find_near_duplicates(&signatures, similarity);
    eprintln!(
        "{} photos: {read_seconds:.2} s to read, {:.2} s to compare",
        paths.len(),
        start.elapsed().as_secs_f64()
    );
    println!("similarity,mirrored,a,b");
    for pair in pairs {
        let path = |index: usize| paths[index].display();
        println!("{:.4},{},{},{}", pair.similarity, pair.mirrored, path(pair.a), path(pair.b));
    }
    Ok(())
}
