//! From files to pixels: data sets, decoding, transforms, augmentation.
//!
//! The result is `u8` RGB pixels `[H, W, 3]`; the backbone normalizes them. This crate has no tensor type.
//! Transforms match torchvision on PIL images pixel for pixel.
//!
//! ```
//! use headstock_loader::{ClassOrder, DataSource, Dataset, EvalTransform, FolderSource, Resampling, decode};
//! use headstock_split::{TestSize, stratified_shuffle_split};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # for (class, gray) in [("dress", 50), ("shirt", 200)] {
//! #     std::fs::create_dir(folder.path().join(class))?;
//! #     for name in ["1.png", "2.jpg", "3.png", "4.bmp"] {
//! #         let path = folder.path().join(class).join(name);
//! #         image::RgbImage::from_pixel(60, 40, image::Rgb([gray; 3])).save(path)?;
//! #     }
//! # }
//! # let root = folder.path();
//! let data = Dataset::from_raw(FolderSource::new(root.into()).list()?, ClassOrder::Sorted)?;
//! assert_eq!(data.classes.names(), ["dress", "shirt"]);
//! assert_eq!(data.samples[1].id, "dress/2.jpg");
//!
//! let max_pixels = 100_000_000;
//! let splits = stratified_shuffle_split(&data.labels(), 1, TestSize::Fraction(0.25), 0)?;
//! let transform = EvalTransform { resize: 32.into(), crop: (28, 28), interpolation: Resampling::Bilinear };
//! for &index in &splits[0].train {
//!     let image = decode(&data.samples[index].image.read()?, max_pixels)?;
//!     let pixels = transform.apply(&image);
//!     assert_eq!(pixels.as_raw().len(), 28 * 28 * 3);
//! }
//! # Ok(())
//! # }
//! ```

pub mod augment;
pub mod checks;
pub mod dataset;
pub mod decode;
pub mod duplicates;
pub mod encode;
mod geometry;
#[cfg(test)]
mod golden;
mod image_ref;
mod render;
mod shard;
pub mod source;
mod tiff_tags;
mod transform;

pub use augment::{Augment, AugmentError, RandomResizedCrop};
pub use dataset::{ClassMap, ClassOrder, Dataset, DatasetError, RawDataset, RawSample, Sample, Split};
pub use decode::{
    ColorProfiles, DecodeError, DecodeMode, DecodeOptions, Gray16, LazyImage, PixelChanges, TruncatedFiles,
    decode, probe, unsupported_image_format,
};
pub use geometry::Crop;
pub use image_ref::{ImageRef, ReadError, RecordReader};
pub use render::{EvalTransform, RenderSpec, contact_sheet, render_views};
pub use shard::find_shards;
#[cfg(feature = "parquet")]
pub use shard::parquet::{ParquetTable, ParquetValue};
#[cfg(feature = "parquet")]
pub use source::ParquetSource;
pub use source::{
    ConfiguredSource, CsvSource, DataSource, FieldNames, FolderSource, SourceConfig, SourceRegistry,
    WebDatasetSource, check_source,
};
pub use transform::{Resampling, Resize};
