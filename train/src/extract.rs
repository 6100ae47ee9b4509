//! Features of a whole data set, into a file.

use std::path::Path;

use crate::config::Settings;
use crate::error::TrainError;
use crate::feature_file::{FeatureFileWriter, SampleInfo};
use crate::features::{ExtractedFeatures, PretrainedBackbone};
use crate::progress::Progress;
use crate::run::Run;
use crate::samples::{SampleInputs, SampleSet};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtractSummary {
    /// Rows, `N`.
    pub rows: usize,
    /// Features a row, `F`.
    pub width: usize,
    /// How many rows were computed now, rather than found in the cache.
    pub computed: usize,
    /// Photos left out because they cannot be read.
    pub skipped: usize,
}

/// Writes the features of every photo, plain view, in the order of the paths, sorted; with a run by its backbone, tuned where it
/// was.
///
/// # Errors
/// [`TrainError`]; `out` is written whole or not at all.
pub fn extract(
    settings: &Settings,
    run: Option<&Run>,
    out: &Path,
    progress: &dyn Progress,
) -> Result<ExtractSummary, TrainError> {
    let target = FeatureFileWriter::create(out)?;
    let (samples, inputs) = SampleSet::read_unsplit(settings, progress)?;
    let (SampleInputs::Images(photos), Some(options)) = (inputs, &settings.options.backbone) else {
        return Err(TrainError::Usage(
            "features are extracted from photos, and `data.features` has none".into(),
        ));
    };
    let of_run = run.map(|run| run.model.open_backbone_any_layer(settings, progress)).transpose()?.flatten();
    let stock = match of_run {
        Some(stock) => stock,
        None => PretrainedBackbone::open(options, progress)?,
    };
    let features =
        ExtractedFeatures::prepare(&stock, &settings.options, &photos, &vec![0; photos.len()], progress)?;
    let mut order: Vec<usize> = (0..photos.len()).filter(|&photo| features.is_readable(photo)).collect();
    if order.is_empty() {
        return Err(TrainError::Data("no photo can be read".into()));
    }
    order.sort_unstable_by(|&a, &b| samples.rows[a].id.cmp(&samples.rows[b].id));
    let described: Vec<SampleInfo> = order
        .iter()
        .map(|&i| &samples.rows[i])
        .map(|row| SampleInfo {
            path: row.id.clone(),
            class: samples.classes.name(row.label).into(),
            label: row.label,
        })
        .collect();
    target.write(&described, features.width(), &mut |range| {
        let mut values = Vec::new();
        features.append(&order[range], 0, &mut values)?;
        Ok(values)
    })?;
    Ok(ExtractSummary {
        rows: order.len(),
        width: features.width(),
        computed: features.computed(),
        skipped: photos.len() - order.len(),
    })
}

#[cfg(test)]
mod tests {
    use headstock_backbone::{FeatureLayer, PixelBatch};
    use headstock_loader::{EvalTransform, Resampling, decode};

    use super::*;
    use crate::feature_file::read_features;
    use crate::fixtures::{TestFolder, small_backbone};

    /// The table lists the photos in another order.
    #[test]
    fn a_row_is_the_photo_that_it_names_whatever_the_order_of_the_data() {
        let folder = TestFolder::new();
        folder.write_backbone("backbone");
        let mut table = "id,label\n".to_owned();
        for number in [3, 0, 4, 1, 2] {
            folder.write_image(&format!("photos/{number}.png"), number);
            table += &format!("{number}.png,{}\n", ["cat", "dog"][number as usize % 2]);
        }
        folder.write("x.csv", table);
        let config = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n";
        let out = folder.path("features.npy");
        let extracted = extract(&folder.settings(config, &[""; 0]), None, &out, &()).unwrap();
        assert_eq!((extracted.rows, extracted.width, extracted.computed, extracted.skipped), (5, 64, 5, 0));

        let plain = EvalTransform { resize: 36, crop: (32, 32), interpolation: Resampling::Bilinear };
        let values = read_features(&out).unwrap().table.values;
        for (number, row) in values.chunks_exact(64).enumerate() {
            let photo = decode(&std::fs::read(folder.path(&format!("photos/{number}.png"))).unwrap(), 10_000);
            let pixels = plain.apply(&photo.unwrap()).into_raw();
            let expected = small_backbone()
                .features(PixelBatch::new(&pixels, 1, 32, 32).unwrap(), FeatureLayer::Stem)
                .unwrap();
            assert!(row == expected, "photo {number}");
        }
        let described = std::fs::read_to_string(folder.path("features.csv")).unwrap();
        let rows: Vec<&str> = described.lines().skip(1).collect();
        assert_eq!(
            rows,
            ["0,0.png,cat,0", "1,1.png,dog,1", "2,2.png,cat,0", "3,3.png,dog,1", "4,4.png,cat,0"]
        );
    }
}
