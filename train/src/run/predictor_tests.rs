//! Tests of [`Predictor`] on runs that training has written.

use std::collections::BTreeSet;
use std::fs;

use headstock_inference::{InferenceError, Predictor};
use headstock_loader::ImageRef;

use super::*;
use crate::config::{Config, Registries};
use crate::recording_head::{solid_color_png, write_backbone};
use crate::train;

// effect: predict PHOTO, predict RUN
#[test]
fn predictions_and_read_errors_are_reported_in_the_order_of_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let path_of =
        |number: usize| folder.path().join(format!("photos/{}/{number:02}.png", ["a", "b"][number % 2]));
    for number in 0..24 {
        fs::create_dir_all(path_of(number).parent().unwrap()).unwrap();
        fs::write(path_of(number), solid_color_png(number)).unwrap();
    }
    fs::write(folder.path().join("text.png"), "no photo").unwrap();
    write_backbone(folder.path());
    let config = "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = \
                  0.5\n[backbone]\nweights = \"backbone\"\nlayer = \"layer1\"\n[head]\nC = 0.001";
    let registries = Registries::builtin();
    let settings = Config::parse(config, "test", folder.path()).unwrap().resolve(&registries).unwrap();
    let run = folder.path().join("run");
    train(&settings, None, &RunDir::Named(run.clone()), &()).unwrap();

    // The run's own predictions for the test photos, by path.
    let table = fs::read(run.join("predictions.csv")).unwrap();
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(table.as_slice()).records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 12);
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
