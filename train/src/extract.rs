//! Extraction of the features of a whole data set into a file.

use std::collections::BTreeMap;
use std::path::Path;

use headstock_inference::{FailureKind, PretrainedBackbone, Progress};
use headstock_loader::Split;
use headstock_loader::dataset::PassedOverReason;

use crate::config::Settings;
use crate::error::TrainError;
use crate::feature_file::{FeatureFileWriter, SampleInfo};
use crate::features::ExtractedFeatures;
use crate::run::Run;
use crate::samples::{SampleInputs, SampleRow, SampleSet, Subset};

/// Summary of a written feature file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtractSummary {
    /// Number of rows, `N`.
    pub rows: usize,
    /// Number of features, `F`.
    pub width: usize,
    /// Number of rows that were computed rather than found in the cache.
    pub computed: usize,
    /// Number of images skipped because they cannot be read.
    pub skipped: usize,
    /// The files and rows of the data that are not used, by reason; with those of `skipped`.
    pub passed_over: BTreeMap<PassedOverReason, usize>,
}

/// Extracts features for use by other tools: writes the features of the evaluation view of every image of the
/// data set to the file `out`, one row per image, sorted by path. With a `run` its backbone computes them,
/// including fine-tuned weights.
///
/// # Errors
/// [`TrainError`]; `out` is written atomically.
pub fn extract(
    settings: &Settings,
    run: Option<&Run>,
    out: &Path,
    progress: &dyn Progress,
) -> Result<ExtractSummary, TrainError> {
    let writer = FeatureFileWriter::create(out)?;
    let (samples, inputs, is_split) = read_split_if_possible(settings, progress)?;
    let (SampleInputs::Images(images), Some(options)) = (inputs, &settings.backbone) else {
        return Err(TrainError::NeedsImages);
    };
    let pretrained = match run {
        Some(run) if run.model.record.backbone.is_some() => {
            run.model.open_backbone_any_layer(options, progress)?
        }
        _ => PretrainedBackbone::open(options, progress)?,
    };
    let n_augmented = vec![0; images.len()];
    let options = settings.extract_options();
    let features = ExtractedFeatures::prepare(&pretrained, options, &images, &n_augmented, progress)?;
    let mut order: Vec<usize> = (0..images.len()).filter(|&image| features.is_readable(image)).collect();
    if order.is_empty() {
        return Err(TrainError::Data(
            "no photo of the data set can be read: check that the files are photos and not damaged".into(),
        ));
    }
    order.sort_unstable_by(|&a, &b| samples.rows[a].id.cmp(&samples.rows[b].id));
    let sample_info = |&image: &usize| {
        let SampleRow { id, label, subset, .. } = &samples.rows[image];
        let (path, class) = (id.clone(), samples.classes.name(*label).into());
        let split = match subset {
            Subset::Train => Split::Train,
            Subset::Test => Split::Test,
        };
        SampleInfo { path, class, label: *label, split: is_split.then_some(split) }
    };
    let sample_infos: Vec<SampleInfo> = order.iter().map(sample_info).collect();
    writer.write(&sample_infos, features.width(), &mut |range| {
        let mut values = Vec::new();
        features.append(&order[range], 0, &mut values)?;
        Ok(values)
    })?;
    Ok(ExtractSummary {
        rows: order.len(),
        width: features.width(),
        computed: features.computed(),
        skipped: images.len() - order.len(),
        passed_over: samples.passed_over_with(images.len() - order.len()),
    })
}

/// Reads the data set of `settings` with its split, or, with a message, without one if it cannot be split: for
/// features that does not matter. Also returns whether it is split.
fn read_split_if_possible(
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<(SampleSet, SampleInputs, bool), TrainError> {
    match SampleSet::read(settings, progress) {
        Ok((samples, inputs)) => Ok((samples, inputs, true)),
        Err(error) if error.kind() == FailureKind::Data => {
            let (samples, inputs) = SampleSet::read_unsplit(settings, progress)?;
            tracing::info!("the file does not say which photos are for testing: {error}");
            Ok((samples, inputs, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use headstock_backbone::{FeatureLayer, PixelBatch};
    use headstock_loader::{EvalTransform, Resampling, decode};
    use headstock_testing::small_backbone;

    use super::*;
    use crate::feature_file::read_features;
    use crate::tests::fixtures::TestFolder;

    /// The CSV lists the photos in another order.
    #[test]
    fn rows_match_their_paths_whatever_the_order_of_the_data() {
        let folder = TestFolder::new();
        folder.write_backbone("backbone");
        let mut table = "id,label\n".to_owned();
        for number in [3, 0, 4, 1, 2] {
            folder.write_image(&format!("photos/{number}.png"), number);
            table += &format!("{number}.png,{}\n", ["cat", "dog"][number as usize % 2]);
        }
        folder.write("x.csv", table);
        let config = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \
                      \"backbone\"\nlayer = \"stem\"\n";
        let out = folder.path("features.npy");
        let summary = extract(&folder.settings(config, &[""; 0]), None, &out, &()).unwrap();
        assert_eq!((summary.rows, summary.width, summary.computed, summary.skipped), (5, 64, 5, 0));

        let transform =
            EvalTransform { resize: 36.into(), crop: (32, 32), interpolation: Resampling::Bilinear };
        let values = read_features(&out).unwrap().table.values;
        for (number, row) in values.chunks_exact(64).enumerate() {
            let image = decode(&std::fs::read(folder.path(&format!("photos/{number}.png"))).unwrap(), 10_000);
            let pixels = transform.apply(&image.unwrap()).into_raw();
            let expected = small_backbone()
                .features(PixelBatch::new(&pixels, 1, 32, 32).unwrap(), FeatureLayer::Stem)
                .unwrap();
            assert!(row == expected, "photo {number}");
        }
        let sample_table = std::fs::read_to_string(folder.path("features.csv")).unwrap();
        let rows: Vec<&str> = sample_table.lines().skip(1).collect();
        assert_eq!(
            rows,
            ["0,0.png,cat,0", "1,1.png,dog,1", "2,2.png,cat,0", "3,3.png,dog,1", "4,4.png,cat,0"]
        );
    }
}
