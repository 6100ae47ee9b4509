//! End-to-end tests of fine-tuning: what a fine-tuned run depends on.

use headstock_backbone::BatchNormMode;

use super::*;
use crate::metrics::{Accuracy, LogLoss};
use crate::run::Run;

/// A fine-tuned run: its model's bytes, `predictions.csv`, history, and outcome.
struct FinetunedRun {
    model: Vec<u8>,
    predictions: String,
    history: Vec<Vec<f64>>,
    outcome: TrainOutcome,
}

fn finetune_run(folder: &TempDir, name: &str, settings: &Settings) -> FinetunedRun {
    let run = folder.path().join(name);
    let outcome = start_finetune(settings, &RunDir::Named(run.clone()), &()).unwrap();
    let history = fs::read_to_string(run.join("history.csv")).unwrap();
    let rows =
        history.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect());
    FinetunedRun {
        model: fs::read(run.join("model.safetensors")).unwrap(),
        predictions: fs::read_to_string(run.join("predictions.csv")).unwrap(),
        history: rows.collect(),
        outcome,
    }
}

// effect: calibration x tune.validation, data.test_folder
#[test]
fn test_images_and_test_labels_do_not_change_the_model() {
    let (folder, config) = project_files(20);
    let config = config.replace("folder = \"photos\"", "folder = \"photos\"\ntest_folder = \"tested\"");
    let tested = folder.path().join("tested");
    for class in ["hat", "shoes"] {
        copy_images(class, &tested.join(class), 20..26);
    }
    let settings = resolve(
        &folder,
        &config,
        &["tune.epochs=1", "tune.batch_size=8", "tune.lr=0.01", "calibration=platt"],
    );
    let first = finetune_run(&folder, "one", &settings);
    let metrics = &first.outcome.metrics;
    assert_eq!((metrics.counts.train, metrics.counts.test), (30, 12));
    let calibration = metrics.calibration.as_ref().unwrap();
    assert_eq!((calibration.samples, calibration.folds), (10, 1));
    // The calibrated logits are those of the last validation, up to half-precision rounding at the split
    // point.
    let validation_loss = first.history[0][3];
    let before = calibration.out_of_fold.before[&LogLoss];
    assert!(
        (before - validation_loss).abs() < 2e-3 * validation_loss,
        "{before}, expected {validation_loss}"
    );
    let run = Run::open(&folder.path().join("one"), &Registries::builtin()).unwrap();
    assert_eq!(run.model.record.backbone.as_ref().unwrap().tuned, Some(FeatureLayer::Layer4));
    assert_eq!(run.model.conformal.unwrap().scores(headstock_heads::ConformalMethod::Lac).len(), 10);

    // Swap the labels of the test set.
    let aside = folder.path().join("aside");
    fs::rename(tested.join("hat"), &aside).unwrap();
    fs::rename(tested.join("shoes"), tested.join("hat")).unwrap();
    fs::rename(&aside, tested.join("shoes")).unwrap();
    let second = finetune_run(&folder, "two", &settings);
    assert!(first.model == second.model, "the model depends on the test labels");
    assert_eq!(first.history, second.history);
    let [accuracy, accuracy_after_swap] = [&first, &second].map(|run| run.outcome.metrics.test[&Accuracy]);
    assert!(
        (accuracy + accuracy_after_swap - 1.0).abs() < 1e-9 && accuracy != accuracy_after_swap,
        "{accuracy} and {accuracy_after_swap}"
    );

    // Test on other photos.
    fs::remove_dir_all(&tested).unwrap();
    copy_images("hat", &tested.join("hat"), 26..28);
    copy_images("pants", &tested.join("shoes"), 0..5);
    let third = finetune_run(&folder, "three", &settings);
    assert!(first.model == third.model, "the model depends on the test photos");
    assert_eq!((third.outcome.metrics.counts.test, first.predictions == third.predictions), (7, false));
}

// effect: calibration x tune.validation
#[test]
fn fewer_than_ten_held_out_images_do_not_calibrate() {
    let (folder, config) = project_files(8);
    let settings = resolve(&folder, &config, &["tune.epochs=1", "tune.batch_size=8"]);
    let metrics = finetune_run(&folder, "few", &settings).outcome.metrics;
    assert!(metrics.calibration.is_none() && metrics.conformal.is_none());
}

// effect: calibration x data.group
#[test]
fn held_out_images_of_a_single_group_do_not_calibrate() {
    let (folder, config) = project_files(16);
    let mut table = "id,label,patient\n".to_owned();
    for class in ["hat", "shoes"] {
        let images = fs::read_dir(folder.path().join("photos").join(class)).unwrap();
        for (number, image) in images.enumerate() {
            let name = image.unwrap().file_name().into_string().unwrap();
            table += &format!("{class}/{name},{class},{}\n", number % 2);
        }
    }
    fs::write(folder.path().join("photos.csv"), table).unwrap();
    let csv_config = "csv = \"photos.csv\"\nimages = \"photos\"";
    let metrics_of = |name: &str, group: &str| {
        let config = config.replace("folder = \"photos\"", &format!("{csv_config}{group}"));
        let more = ["tune.epochs=1", "tune.batch_size=8", "tune.validation=0.5"];
        finetune_run(&folder, name, &resolve(&folder, &config, &more)).outcome.metrics
    };
    let grouped = metrics_of("grouped", "\ngroup = \"patient\"");
    assert!(24 - grouped.counts.train >= 10, "{}", grouped.counts.train);
    assert!(grouped.calibration.is_none() && grouped.conformal.is_none());
    let ungrouped = metrics_of("loose", "");
    assert_eq!((ungrouped.counts.train, ungrouped.calibration.unwrap().samples), (12, 12));
    assert!(ungrouped.conformal.is_some());
}

// effect: data.group x tune.validation, split.group_duplicates x tune.validation
#[test]
fn copies_of_an_image_are_trained_on_or_held_out_together() {
    let (folder, config) = project_files(8);
    for class in ["hat", "shoes"] {
        let images = folder.path().join("photos").join(class);
        for entry in fs::read_dir(&images).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>() {
            let copy = format!("copy-{}", entry.file_name().unwrap().to_str().unwrap());
            fs::copy(&entry, images.join(copy)).unwrap();
        }
    }
    let n_on_both_sides = |group: bool| {
        let group = format!("split.group_duplicates={group}");
        let settings = resolve(&folder, &config, &["tune.validation=0.34", &group]);
        let PreparedFinetune { prepared, split, .. } =
            PreparedFinetune::prepare(&settings, None, &()).unwrap();
        let names = |rows: &[usize]| {
            let name = |&row: &usize| prepared.samples.rows[row].id.replace("copy-", "");
            rows.iter().map(name).collect::<BTreeSet<_>>()
        };
        assert!(split.test.len() >= 6, "{:?}", split.test);
        names(&split.train).intersection(&names(&split.test)).count()
    };
    assert_eq!(n_on_both_sides(true), 0);
    assert!(n_on_both_sides(false) > 2, "without groups copies are on both sides");
}

// effect: tune.batch_norm, tune.from, features.views x tune.augment, tune.cache_dtype
#[test]
fn the_model_and_its_inputs_follow_the_settings() {
    let (folder, config) = project_files(8);
    let overrides = [
        "features.views=2",
        "augment.horizontal_flip=0.5",
        "tune.cache_dtype=bf16",
        "tune.class_weight=balanced",
    ];
    let settings = |mode: BatchNormMode| {
        let mode =
            if mode == BatchNormMode::Train { "tune.batch_norm=train" } else { "tune.batch_norm=frozen" };
        resolve(&folder, &config, &[&overrides[..], &[mode]].concat())
    };
    let mut n_views = 0;
    for mode in [BatchNormMode::Frozen, BatchNormMode::Train] {
        let settings = settings(mode);
        let prepared_finetune = PreparedFinetune::prepare(&settings, None, &()).unwrap();
        n_views = (3 * prepared_finetune.split.train.len() + prepared_finetune.split.test.len()) as u64;
        with_trainer_config(&prepared_finetune, &settings, None, &(), |config, mut model| {
            assert_eq!((config.n_augmented, config.activations.shape()), (2, [4, 4, 1024]));
            assert_eq!(
                (config.class_weights.as_slice(), config.labels),
                (&[1.0, 1.0][..], prepared_finetune.labels.as_slice())
            );
            let names: Vec<String> =
                model.parameters_mut().into_iter().map(|parameter| parameter.name).collect();
            assert!(
                names.iter().all(|name| name.starts_with("layer4.") || name.starts_with("head.")),
                "{names:?}"
            );
            // Ten convolutions, each with scale and shift, and the head.
            assert_eq!(names.len(), 3 * 10 + 2);
            let statistics = |model: &mut FinetuneModel<'_>| -> Vec<Vec<f32>> {
                let values = model.named_values_mut().into_iter();
                values
                    .filter(|(name, _)| name.contains("running_"))
                    .map(|(_, values)| values.to_vec())
                    .collect()
            };
            let before = statistics(&mut model);
            let batch = [1, 2].map(|view| BatchItem {
                image: prepared_finetune.split.train[0],
                view: ViewId::Numbered(view),
            });
            config.activations.for_each_batch(&[batch.to_vec()], &mut |_, values| {
                let input = headstock_backbone::StageActivations {
                    values,
                    images: 2,
                    height: 4,
                    width: 4,
                    channels: 1024,
                };
                model.forward_backward(input, 0, &mut |logits| (0.0, vec![0.0; logits.len()]))?;
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            let after = statistics(&mut model);
            assert_eq!(before.len(), 20);
            let n_changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert_eq!(n_changed, if mode == BatchNormMode::Train { 20 } else { 0 });
            Ok(())
        })
        .unwrap();
    }
    // Three views of each photo trained on, and the evaluation view of each held out, in bf16.
    let record_files = fs::read_dir(folder.path().join(".headstock/activations"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let record_files: Vec<PathBuf> =
        record_files.filter(|path| path.extension().is_some_and(|end| end == "records")).collect();
    assert_eq!(record_files.len(), 1);
    assert!(
        record_files[0].file_name().unwrap().to_str().unwrap().starts_with("layer3-bf16-"),
        "{record_files:?}"
    );
    assert!(n_views > 12 && n_views < 3 * 12, "{n_views}");
    assert_eq!(fs::metadata(&record_files[0]).unwrap().len(), n_views * (32 + 2 * 4 * 4 * 1024));
}

// effect: tune.head_init
#[test]
fn the_head_starts_fitted_on_the_training_samples_or_unfitted() {
    let (folder, config) = project_files(8);
    let start = |start: &str| {
        let settings = resolve(&folder, &config, &[&format!("tune.head_init={start}"), "head.C=\"auto\""]);
        let prepared_finetune = PreparedFinetune::prepare(&settings, None, &()).unwrap();
        (
            prepared_finetune.initial_head["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            prepared_finetune.chosen_params,
            settings,
            prepared_finetune.split,
        )
    };
    let (random, chosen_params, _, _) = start("random");
    assert!(random.len() == 2 * 2048 && random.iter().all(|&value| value == 0.0) && chosen_params.is_empty());
    let (fitted, chosen_params, settings, split) = start("fitted");
    assert_eq!(chosen_params.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["C"]);
    // The same as a fit on these photos alone.
    let PreparedData { samples, mut features, n_augmented, .. } =
        PreparedData::prepare(&settings, &()).unwrap();
    let mut fitter = HeadFitter { samples: &samples, features: &mut features, n_augmented, progress: &() };
    let (fitted_alone, _) = fitter.fit(settings.head.as_ref(), None, &split.train, "").unwrap();
    let fitted_alone =
        fitted_alone.head.tensors().unwrap()["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(fitted == fitted_alone && fitted.iter().any(|&value| value != 0.0));
}
