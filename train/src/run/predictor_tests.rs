//! Tests of [`Predictor`] on runs that training has written.

use std::collections::BTreeSet;
use std::fs;

use headstock_heads::FeatureMatrix;
use headstock_inference::{FeatureExtractor, InferenceError, Predictor, PretrainedBackbone, StoredRun};
use headstock_loader::ImageRef;

use super::*;
use crate::config::{Config, Registries};
use crate::tests::recording_head::{solid_color_png, write_backbone};
use crate::train;

/// Trains on 24 images of two classes, of which 12 are for testing, with `config` for the backbone and the
/// head. Returns the run's folder and the rows of its `predictions.csv`.
fn train_run(folder: &Path, config: &str) -> (PathBuf, Vec<csv::StringRecord>) {
    let path_of = |number: usize| folder.join(format!("photos/{}/{number:02}.png", ["a", "b"][number % 2]));
    for number in 0..24 {
        fs::create_dir_all(path_of(number).parent().unwrap()).unwrap();
        fs::write(path_of(number), solid_color_png(number)).unwrap();
    }
    write_backbone(folder);
    let config = format!(
        "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.5\n[backbone]\nweights = \
         \"backbone\"\n{config}"
    );
    let settings = Config::parse(&config, "test", folder).unwrap().resolve(&Registries::builtin()).unwrap();
    let run = folder.join("run");
    train(&settings, None, &RunDir::Named(run.clone()), &()).unwrap();
    let table = fs::read(run.join("predictions.csv")).unwrap();
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(table.as_slice()).records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 12);
    (run, rows)
}

/// The probabilities in a row of `predictions.csv`.
fn probabilities(row: &csv::StringRecord) -> Vec<f32> {
    row.iter().skip(4).map(|field| field.parse().unwrap()).collect()
}

#[test]
fn files_bytes_and_pixels_are_predicted_alike_from_any_thread() {
    let folder = tempfile::tempdir().unwrap();
    let (run, rows) = train_run(folder.path(), "layer = \"layer1\"\n[head]\nC = 0.001");
    let predictor = Predictor::open(&run, &Registries::builtin().heads).unwrap();
    let paths: Vec<PathBuf> = rows.iter().map(|row| folder.path().join("photos").join(&row[0])).collect();
    let images: Vec<ImageRef> = paths.iter().cloned().map(ImageRef::from).collect();
    let mut expected = Vec::new();
    let mut collect = || {
        let mut found = Vec::new();
        predictor
            .predict_images::<InferenceError>(&images, &(), &mut |_, predictions| {
                found.extend(predictions.into_iter().map(Result::unwrap));
                Ok(())
            })
            .unwrap();
        expected.push(found);
    };
    collect();
    collect();
    let [expected, again] = expected.try_into().unwrap();
    assert_eq!(expected, again, "workers are used again");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (path, expected) in paths.iter().zip(&expected) {
                    let bytes = fs::read(path).unwrap();
                    let pixels = headstock_loader::decode(&bytes, 10_000).unwrap();
                    assert_eq!(predictor.predict_file(path).unwrap(), *expected);
                    assert_eq!(predictor.predict_bytes(&bytes).unwrap(), *expected);
                    assert_eq!(predictor.predict_pixels(&pixels).unwrap(), *expected);
                }
            });
        }
    });
    let unreadable = predictor.predict_bytes(b"no photo").unwrap_err();
    assert!(matches!(unreadable, InferenceError::Image(_)), "{unreadable}");
    // The limit of the run's config holds.
    let config = fs::read_to_string(run.join("headstock.toml")).unwrap();
    let limited = config.replace("max_pixels = 200000000", "max_pixels = 4095");
    assert_ne!(config, limited);
    fs::write(run.join("headstock.toml"), limited).unwrap();
    let open = || Predictor::open(&run, &Registries::builtin().heads).unwrap();
    let predictor = open();
    let too_large = predictor.predict_file(&paths[0]).unwrap_err().to_string();
    assert!(too_large.contains("64 x 64 pixels"), "{too_large}");
    // So do its other options.
    let whole = fs::read(&paths[0]).unwrap();
    let truncated = &whole[..whole.len() - 12];
    let accepting =
        config.replace("max_pixels = 200000000", "max_pixels = 200000000\ntruncated = \"accept\"");
    fs::write(run.join("headstock.toml"), &config).unwrap();
    open().predict_bytes(truncated).unwrap_err();
    fs::write(run.join("headstock.toml"), accepting).unwrap();
    assert_eq!(open().predict_bytes(truncated).unwrap(), open().predict_bytes(&whole).unwrap());
}

#[test]
fn a_fine_tuned_run_is_opened_with_its_tuned_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[tune]\nfrom = \"layer4\"\nepochs = 1\nbatch_size = 4\nlr = 0.05\nvalidation = 0.0\n";
    let (run, rows) = train_run(folder.path(), config);
    let StoredRun { model, backbone, decode } = StoredRun::open(&run, &Registries::builtin().heads).unwrap();
    let options = backbone.unwrap();
    // The frozen backbone gives the head other features.
    let frozen = PretrainedBackbone::open(&options, &()).unwrap();
    let frozen = FeatureExtractor::new(&frozen, decode).unwrap();
    let predictor = Predictor::new(model, &options, decode, &()).unwrap();
    let mut difference = 0.0f32;
    for row in &rows {
        let path = folder.path().join("photos").join(&row[0]);
        let found = predictor.predict_file(&path).unwrap().probabilities;
        let features = frozen.features_of_file(&path).unwrap();
        let features = FeatureMatrix::new(&features, frozen.width()).unwrap();
        let model = predictor.model();
        let untuned = model.predictions(&model.head.logits(features).unwrap()).unwrap();
        for ((found, written), untuned) in found.iter().zip(probabilities(row)).zip(untuned.probabilities) {
            assert!((found - written).abs() < 1e-4, "{row:?}: {found} {written}");
            difference = difference.max((found - untuned).abs());
        }
    }
    assert!(difference > 0.01, "fine-tuning changes the predictions: {difference}");
}

// effect: predict PHOTO, predict RUN
#[test]
fn predictions_and_read_errors_are_reported_in_the_order_of_the_images() {
    let folder = tempfile::tempdir().unwrap();
    // The run's own predictions for the test photos, by path.
    let (run, rows) = train_run(folder.path(), "layer = \"layer1\"\n[head]\nC = 0.001");
    fs::write(folder.path().join("text.png"), "no photo").unwrap();
    let registries = Registries::builtin();
    let run = Run::open(&run, &registries).unwrap();
    let record = run.model.record.backbone.as_ref().unwrap();
    assert_eq!((record.architecture.as_str(), record.source.as_str()), ("resnet50", "backbone"));
    assert_eq!((record.layer.as_str(), record.precision.as_str(), record.tuned), ("layer1", "f32", None));
    let preprocessing = run.model.record.preprocessing.as_ref().unwrap();
    assert_eq!((preprocessing.crop, run.model.record.width), ([32, 32], 256));
    // In reverse, more than a batch, with repetitions and two files that are not photos.
    let mut images: Vec<ImageRef> = rows
        .iter()
        .rev()
        .cycle()
        .take(40)
        .map(|row| folder.path().join("photos").join(&row[0]).into())
        .collect();
    images.insert(5, folder.path().join("text.png").into());
    images.insert(20, folder.path().join("nowhere.png").into());
    let classes = run.model.record.classes.clone();
    let predictor = Predictor::open(&run.folder, &registries.heads).unwrap();
    let mut reported = Vec::new();
    predictor
        .predict_images::<InferenceError>(&images, &(), &mut |batch, predicted| {
            assert_eq!(batch.len(), predicted.len());
            for (image, predicted) in batch.iter().zip(predicted) {
                let prediction = predicted.map(|prediction| (prediction.probabilities, prediction.predicted));
                reported.push((image.clone(), prediction.map_err(|error| error.to_string())));
            }
            Ok(())
        })
        .unwrap();
    assert!(reported.iter().map(|(image, _)| image).eq(&images));
    let mut expected = rows.iter().rev().cycle();
    for (number, (image, prediction)) in reported.iter().enumerate() {
        if number == 5 || number == 20 {
            assert!(prediction.is_err(), "{image}");
            continue;
        }
        let row = expected.next().unwrap();
        let (probabilities, predicted) = prediction.as_ref().unwrap();
        assert_eq!(&classes[*predicted as usize], &row[2], "{image}");
        for (found, written) in probabilities.iter().zip(row.iter().skip(4)) {
            let written: f32 = written.parse().unwrap();
            assert!((found - written).abs() < 1e-5, "{image}: {found} {written}");
        }
    }
    assert!(reported[5].1.as_ref().unwrap_err().contains("not a photo"), "{:?}", reported[5]);
    let distinct: BTreeSet<String> = rows.iter().map(|row| row[4].to_owned()).collect();
    assert!(distinct.len() > 6, "photos have different probabilities: {distinct:?}");
}
