//! What a tuned run is made of, through `train`.

use headstock_backbone::BatchNormMode;

use super::*;
use crate::run::Run;

/// A tuned run: its model's bytes, its `predictions.csv`, its history, and its figures.
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
fn other_test_photos_and_other_test_labels_leave_a_tuned_model_equal_to_the_byte() {
    let (folder, config) = project_files(20);
    let config = config.replace("folder = \"photos\"", "folder = \"photos\"\ntest_folder = \"tested\"");
    let tested = folder.path().join("tested");
    for class in ["hat", "shoes"] {
        copy_photos(class, &tested.join(class), 20..26);
    }
    let settings = resolve(
        &folder,
        &config,
        &["tune.epochs=1", "tune.batch_size=8", "tune.lr=0.01", "calibration=platt"],
    );
    let one = finetune_run(&folder, "one", &settings);
    let metrics = &one.outcome.metrics;
    assert_eq!((metrics.counts.train, metrics.counts.test), (30, 12));
    let calibration = metrics.calibration.as_ref().unwrap();
    assert_eq!((calibration.samples, calibration.folds), (10, 1));
    // What is calibrated is what the epoch was judged by; half precision at the cut is all that lies between.
    let judged = one.history[0][3];
    let before = calibration.out_of_fold.before.log_loss;
    assert!((before - judged).abs() < 2e-3 * judged, "{before}, where the epoch had {judged}");
    let run = Run::open(&folder.path().join("one"), &Registry::builtin()).unwrap();
    assert_eq!(run.model.record.backbone.as_ref().unwrap().tuned, Some(FeatureLayer::Layer4));
    assert_eq!(run.model.conformal.unwrap().scores(headstock_heads::ConformalMethod::Lac).len(), 10);

    // The labels of the test part change places.
    let aside = folder.path().join("aside");
    fs::rename(tested.join("hat"), &aside).unwrap();
    fs::rename(tested.join("shoes"), tested.join("hat")).unwrap();
    fs::rename(&aside, tested.join("shoes")).unwrap();
    let two = finetune_run(&folder, "two", &settings);
    assert!(one.model == two.model, "the model depends on the labels of the test part");
    assert_eq!(one.history, two.history);
    let [right, wrong] = [&one, &two].map(|run| run.outcome.metrics.test.top1);
    assert!((right + wrong - 1.0).abs() < 1e-9 && right != wrong, "{right} and {wrong}");

    // Other photos are tested on.
    fs::remove_dir_all(&tested).unwrap();
    copy_photos("hat", &tested.join("hat"), 26..28);
    copy_photos("pants", &tested.join("shoes"), 0..5);
    let three = finetune_run(&folder, "three", &settings);
    assert!(one.model == three.model, "the model depends on the photos of the test part");
    assert_eq!((three.outcome.metrics.counts.test, one.predictions == three.predictions), (7, false));
}

// effect: calibration x tune.validation
#[test]
fn fewer_photos_held_out_than_ten_calibrate_nothing() {
    let (folder, config) = project_files(8);
    let settings = resolve(&folder, &config, &["tune.epochs=1", "tune.batch_size=8"]);
    let metrics = finetune_run(&folder, "few", &settings).outcome.metrics;
    assert!(metrics.calibration.is_none() && metrics.conformal.is_none());
}

// effect: calibration x data.group
#[test]
fn photos_held_out_that_are_all_of_one_group_calibrate_nothing() {
    let (folder, config) = project_files(16);
    let mut table = "id,label,patient\n".to_owned();
    for class in ["hat", "shoes"] {
        let photos = fs::read_dir(folder.path().join("photos").join(class)).unwrap();
        for (number, photo) in photos.enumerate() {
            let name = photo.unwrap().file_name().into_string().unwrap();
            table += &format!("{class}/{name},{class},{}\n", number % 2);
        }
    }
    fs::write(folder.path().join("photos.csv"), table).unwrap();
    let by_table = "csv = \"photos.csv\"\nimages = \"photos\"";
    let of = |name: &str, group: &str| {
        let config = config.replace("folder = \"photos\"", &format!("{by_table}{group}"));
        let more = ["tune.epochs=1", "tune.batch_size=8", "tune.validation=0.5"];
        finetune_run(&folder, name, &resolve(&folder, &config, &more)).outcome.metrics
    };
    let grouped = of("grouped", "\ngroup = \"patient\"");
    assert!(24 - grouped.counts.train >= 10, "{}", grouped.counts.train);
    assert!(grouped.calibration.is_none() && grouped.conformal.is_none());
    let loose = of("loose", "");
    assert_eq!((loose.counts.train, loose.calibration.unwrap().samples), (12, 12));
    assert!(loose.conformal.is_some());
}

// effect: data.group x tune.validation, split.group_duplicates x tune.validation
#[test]
fn copies_of_a_photo_are_learned_from_or_held_out_together() {
    let (folder, config) = project_files(8);
    for class in ["hat", "shoes"] {
        let photos = folder.path().join("photos").join(class);
        for entry in fs::read_dir(&photos).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>() {
            let copy = format!("copy-{}", entry.file_name().unwrap().to_str().unwrap());
            fs::copy(&entry, photos.join(copy)).unwrap();
        }
    }
    let divided = |group: bool| {
        let group = format!("split.group_duplicates={group}");
        let settings = resolve(&folder, &config, &["tune.validation=0.34", &group]);
        let PreparedFinetune { prepared, split: parts, .. } =
            PreparedFinetune::new(&settings, false, &()).unwrap();
        let names = |rows: &[usize]| {
            let name = |&row: &usize| prepared.samples.rows[row].id.replace("copy-", "");
            rows.iter().map(name).collect::<BTreeSet<_>>()
        };
        assert!(parts.held_out.len() >= 6, "{:?}", parts.held_out);
        names(&parts.fit).intersection(&names(&parts.held_out)).count()
    };
    assert_eq!(divided(true), 0);
    assert!(divided(false) > 2, "without groups copies do lie on both sides");
}

// effect: tune.batch_norm, tune.from, features.views x tune.views, tune.keep
#[test]
fn the_network_and_its_inputs_are_those_of_the_settings() {
    let (folder, config) = project_files(8);
    let views =
        ["features.views=2", "augment.horizontal_flip=0.5", "tune.keep=bf16", "tune.class_weight=balanced"];
    let settings = |mode: BatchNormMode| {
        let mode =
            if mode == BatchNormMode::Train { "tune.batch_norm=train" } else { "tune.batch_norm=frozen" };
        resolve(&folder, &config, &[&views[..], &[mode]].concat())
    };
    let mut renderings = 0;
    for mode in [BatchNormMode::Frozen, BatchNormMode::Train] {
        let settings = settings(mode);
        let ready = PreparedFinetune::new(&settings, false, &()).unwrap();
        renderings = (3 * ready.split.fit.len() + ready.split.held_out.len()) as u64;
        with_trainer_config(&ready, &settings, None, &(), |setup, mut network| {
            assert_eq!((setup.n_views, setup.activations.shape()), (2, [4, 4, 1024]));
            assert_eq!(
                (setup.class_weights.as_slice(), setup.labels),
                (&[1.0, 1.0][..], ready.labels.as_slice())
            );
            let names: Vec<String> = network.parameters_mut().into_iter().map(|slot| slot.name).collect();
            assert!(
                names.iter().all(|name| name.starts_with("layer4.") || name.starts_with("head.")),
                "{names:?}"
            );
            // Ten convolutions, each with a scale and a shift, and the head.
            assert_eq!(names.len(), 3 * 10 + 2);
            let statistics = |network: &mut FinetuneModel<'_>| -> Vec<Vec<f32>> {
                let values = network.named_values_mut().into_iter();
                values
                    .filter(|(name, _)| name.contains("running_"))
                    .map(|(_, values)| values.to_vec())
                    .collect()
            };
            let before = statistics(&mut network);
            let batch =
                [1, 2].map(|view| BatchItem { image: ready.split.fit[0], view: ViewId::Numbered(view) });
            setup.activations.for_each_batch(&[batch.to_vec()], &mut |_, values| {
                let input = headstock_backbone::StageActivations {
                    values,
                    images: 2,
                    height: 4,
                    width: 4,
                    channels: 1024,
                };
                network.forward_backward(input, 0, &mut |logits| (0.0, vec![0.0; logits.len()]))?;
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            let after = statistics(&mut network);
            assert_eq!(before.len(), 20);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert_eq!(moved, if mode == BatchNormMode::Train { 20 } else { 0 });
            Ok(())
        })
        .unwrap();
    }
    // Three renderings of each of the photos that are learned from, and the plain one of those held out, in bf16.
    let kept = fs::read_dir(folder.path().join(".headstock/activations"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let kept: Vec<PathBuf> =
        kept.filter(|path| path.extension().is_some_and(|end| end == "records")).collect();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].file_name().unwrap().to_str().unwrap().starts_with("layer3-bf16-"), "{kept:?}");
    assert!(renderings > 12 && renderings < 3 * 12, "{renderings}");
    assert_eq!(fs::metadata(&kept[0]).unwrap().len(), renderings * (32 + 2 * 4 * 4 * 1024));
}

// effect: tune.start
#[test]
fn a_head_starts_fitted_on_what_is_learned_from_or_as_it_knows_nothing() {
    let (folder, config) = project_files(8);
    let start = |start: &str| {
        let settings = resolve(&folder, &config, &[&format!("tune.start={start}"), "head.C=\"auto\""]);
        let ready = PreparedFinetune::new(&settings, false, &()).unwrap();
        (
            ready.initial_head["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            ready.chosen_params,
            settings,
            ready.split,
        )
    };
    let (random, chosen, _, _) = start("random");
    assert!(random.len() == 2 * 2048 && random.iter().all(|&value| value == 0.0) && chosen.is_empty());
    let (fitted, chosen, settings, parts) = start("fitted");
    assert_eq!(chosen.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["C"]);
    // The same as a fit on these photos alone.
    let PreparedData { samples, features: mut matrix, n_views: views, .. } =
        PreparedData::new(&settings, &()).unwrap();
    let mut learner = HeadFitter { samples: &samples, features: &mut matrix, n_views: views, progress: &() };
    let (by_hand, _) = learner.fit(settings.head.as_ref(), None, &parts.fit, "").unwrap();
    let by_hand = by_hand.head.tensors().unwrap()["weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(fitted == by_hand && fitted.iter().any(|&value| value != 0.0));
}
