//! How often images are read.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use headstock_loader::{ReadError, RecordReader};
use image::ImageFormat;

use super::*;

/// Images of one size in memory, which counts how often each is read. The second time an image may have
/// changed.
#[derive(Debug)]
struct CountedImages {
    bytes: Vec<Vec<u8>>,
    reads: Vec<AtomicUsize>,
    change: bool,
}

impl CountedImages {
    /// Images of equal size, as many as `count`.
    fn new(count: u64, change: bool) -> Arc<Self> {
        let encode = |number| {
            let mut file = Cursor::new(Vec::new());
            synthetic_image(number, 48, 40).write_to(&mut file, ImageFormat::Bmp).unwrap();
            file.into_inner()
        };
        let reads = (0..count).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { bytes: (0..count).map(encode).collect(), reads, change })
    }

    /// The references of the images.
    fn images(self: &Arc<Self>) -> Vec<ImageRef> {
        (0..self.bytes.len()).map(|index| ImageRef::from_record(Arc::clone(self) as _, index)).collect()
    }

    /// The number of reads since the last call.
    fn take_reads(&self) -> Vec<usize> {
        self.reads.iter().map(|reads| reads.swap(0, Ordering::Relaxed)).collect()
    }
}

impl RecordReader for CountedImages {
    fn path(&self) -> &Path {
        Path::new("counted")
    }

    fn name(&self, index: usize) -> String {
        format!("image {index}")
    }

    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        let n_before = self.reads[index].fetch_add(1, Ordering::Relaxed);
        let mut bytes = self.bytes[index].clone();
        if self.change && n_before > 0 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        Ok(bytes)
    }
}

/// The features of the images with room for `n_in_memory` of them between hashing and decoding.
fn prepare(
    project: &Project,
    counted: &Arc<CountedImages>,
    n_in_memory: usize,
) -> Result<Vec<f32>, TrainError> {
    let options = project.settings(&[&format!("features.cache=cache{n_in_memory}")]);
    let images = counted.images();
    let read_budget = (n_in_memory * counted.bytes[0].len()) as u64;
    let extract_options = ExtractOptions { read_budget, ..options.extract_options() };
    let features = ExtractedFeatures::prepare_with(
        Some(small_backbone()),
        &pretrained(&options),
        extract_options,
        &images,
        &vec![0; images.len()],
        &(),
    )?;
    let mut values = Vec::new();
    features.append(&(0..images.len()).collect::<Vec<_>>(), 0, &mut values)?;
    Ok(values)
}

#[test]
fn an_image_is_read_once_if_it_fits_the_budget_and_twice_otherwise() {
    let (project, counted) = (Project::new(&[]), CountedImages::new(10, false));
    let expected = prepare(&project, &counted, 10).unwrap();
    assert_eq!(counted.take_reads(), [1; 10]);
    for n_in_memory in [0, 4] {
        assert_eq!(prepare(&project, &counted, n_in_memory).unwrap(), expected);
        let reads = counted.take_reads();
        assert_eq!(reads.iter().sum::<usize>(), 20 - n_in_memory, "{reads:?}");
    }
    // What is cached is read once more, to hash it.
    assert_eq!(prepare(&project, &counted, 10).unwrap(), expected);
    assert_eq!(counted.take_reads(), [1; 10]);
}

#[test]
fn an_image_that_changes_is_never_stored_under_the_hash_of_its_old_bytes() {
    let (project, counted) = (Project::new(&[]), CountedImages::new(3, true));
    let error = prepare(&project, &counted, 0).unwrap_err().to_string();
    assert!(error.contains("the file changed while in use"), "{error}");
    // What was decoded is what was hashed: there is no second read.
    let unchanged = CountedImages::new(3, false);
    let changing = CountedImages::new(3, true);
    let found = prepare(&project, &changing, 3).unwrap();
    assert_eq!(changing.take_reads(), [1; 3]);
    assert_eq!(found, prepare(&Project::new(&[]), &unchanged, 3).unwrap());
}
