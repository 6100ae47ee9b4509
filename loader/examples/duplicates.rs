//! Prints the near-duplicates in a folder and its subfolders as CSV: `similarity,mirrored,a,b`. Run by
//! `reference/duplicates/measure.py`.
//!
//! `cargo run --release -p headstock-loader --example duplicates -- FOLDER [SIMILARITY]`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use headstock_loader::decode;
use headstock_loader::duplicates::{DEFAULT_SIMILARITY, Signature, find_near_duplicates};
use headstock_loader::source::find_image_files;
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder of photos")?;
    let similarity = arguments.next().map_or(Ok(DEFAULT_SIMILARITY), |text| text.parse())?;
    let images = find_image_files(Path::new(&folder), false)?.images;
    let start = Instant::now();
    let signatures: Vec<Option<Signature>> = images
        .par_iter()
        .map(|(_, image)| Some(Signature::new(&decode(&image.read().ok()?, 100_000_000).ok()?)))
        .collect();
    let read_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let pairs = find_near_duplicates(&signatures, similarity);
    eprintln!(
        "{} photos: {read_seconds:.2} s to read, {:.2} s to compare",
        images.len(),
        start.elapsed().as_secs_f64()
    );
    println!("similarity,mirrored,a,b");
    for pair in pairs {
        let path = |index: usize| Path::new(&folder).join(&images[index].0);
        println!(
            "{:.4},{},{},{}",
            pair.similarity,
            pair.mirrored,
            path(pair.a).display(),
            path(pair.b).display()
        );
    }
    Ok(())
}
