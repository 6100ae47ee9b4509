//! Photos per second that one thread prepares: decode, apply the EXIF orientation, resize the short side to
//! 256 (bilinear), crop the central 224 x 224. `quarter` resembles a random resized crop: the central half
//! along both axes, with the short side resized to 224.
//!
//! ```sh
//! cargo run --release -p headstock-loader --example photo_speed -- FOLDER [exact|scaled|quarter] [ROUNDS]
//! [EVERY]
//! ```
//!
//! Prints a line of JSON. Files are read before the time is measured. Every `EVERY`-th photo of the folder is
//! used.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use headstock_loader::source::is_image_file;
use headstock_loader::{
    Crop, DecodeError, DecodeMode, EvalTransform, ImageRef, LazyImage, Resampling, render_views,
};
use image::RgbImage;
use serde_json::{from_value, json};

const MAX_PIXELS: u64 = 200_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder of photos as the first argument")?;
    let variant = arguments.next().unwrap_or_else(|| "exact".into());
    let rounds: usize = arguments.next().map_or(Ok(1), |argument| argument.parse())?;
    let step: usize = arguments.next().map_or(Ok(1), |argument| argument.parse())?;

    let mut paths = Vec::new();
    collect_image_files(Path::new(&folder), &mut paths)?;
    paths.sort();
    let images = paths
        .iter()
        .step_by(step.max(1))
        .map(|path| ImageRef::from(path.clone()).read())
        .collect::<Result<Vec<_>, _>>()?;
    let prepare = preparation(&variant)?;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut sum = 0;
        for image in &images {
            sum += u64::from(prepare(LazyImage::open(image, MAX_PIXELS)?)?.as_raw()[0]);
        }
        std::hint::black_box(sum);
        rates.push(images.len() as f64 / start.elapsed().as_secs_f64());
    }
    let report = json!({ "way": variant, "photos": images.len(), "photos_per_second": rates });
    #[expect(clippy::print_stdout, reason = "results go to stdout")]
    let () = println!("{report}");
    Ok(())
}

/// The function that prepares an image in the way that `variant` names: `exact`, `scaled` or `quarter`.
fn preparation(
    variant: &str,
) -> Result<impl Fn(LazyImage<'_>) -> Result<RgbImage, DecodeError>, serde_json::Error> {
    let mode = if variant == "quarter" { None } else { Some(from_value::<DecodeMode>(variant.into())?) };
    let eval = EvalTransform { resize: 256.into(), crop: (224, 224), interpolation: Resampling::Bilinear };
    Ok(move |image: LazyImage<'_>| match mode {
        Some(mode) => Ok(render_views(image, mode, &[eval.render_spec()])?.remove(0)),
        None => {
            let (width, height) = image.size();
            let part = Crop { top: height / 4, left: width / 4, height: height / 2, width: width / 2 };
            Ok(EvalTransform { resize: 224.into(), ..eval }.apply(&image.decode_window(part)?))
        }
    })
}

/// Adds the image files in `folder` and its subfolders to `files`; `folder` may also be an image file.
fn collect_image_files(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if folder.is_file() {
        files.extend(Some(folder.to_path_buf()).filter(|file| is_image_file(file)));
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        collect_image_files(&entry?.path(), files)?;
    }
    Ok(())
}
