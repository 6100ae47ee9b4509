mod holdout;
mod leak;
mod resume;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use headstock_heads::History;
use headstock_hub::DownloadProgress;
use tempfile::TempDir;

use super::model::ParameterGroup;
use super::*;
use crate::activations::BatchItem;
use crate::features::ViewId;

/// A folder with photos of two classes and the bundled backbone at 64 x 64 pixels, and settings that
/// fine-tune its last stage.
fn demo_project(overrides: &[&str]) -> (TempDir, Settings) {
    let (folder, config) = project_files(8);
    let settings = resolve(&folder, &config, overrides);
    (folder, settings)
}

/// A temporary folder in memory if possible, where syncing is fast.
pub(super) fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// The folder of [`demo_project`] with `n_images` photos per class, and its config.
fn project_files(n_images: usize) -> (TempDir, String) {
    let folder = in_memory();
    for class in ["hat", "shoes"] {
        copy_images(class, &folder.path().join("photos").join(class), 0..n_images);
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
    let weights = folder.path().join("backbone");
    fs::create_dir(&weights).unwrap();
    let (bundled, here) = (demo.join("backbone/model.safetensors"), weights.join("model.safetensors"));
    if fs::hard_link(&bundled, &here).is_err() {
        fs::copy(&bundled, &here).unwrap();
    }
    let preprocessing = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
    fs::write(weights.join("config.json"), preprocessing).unwrap();
    let config = "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.25\n[backbone]\nweights = \"backbone\"\n\
                  [tune]\nfrom = \"layer4\"\nbatch_size = 2\nvalidation = 0.25\nhead_init = \"random\"\n";
    (folder, config.to_owned())
}

/// Copies some of the demo's training photos of a class.
fn copy_images(class: &str, folder: &Path, range: Range<usize>) {
    fs::create_dir_all(folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/photos/train").join(class);
    let mut paths: Vec<PathBuf> = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for image in &paths[range] {
        fs::copy(image, folder.join(image.file_name().unwrap())).unwrap();
    }
}

fn resolve(folder: &TempDir, config: &str, overrides: &[&str]) -> Settings {
    let mut config = Config::parse(config, "a test", folder.path()).unwrap();
    config.set(overrides).unwrap();
    config.resolve(&Registries::builtin()).unwrap()
}

/// Copies the latest checkpoint after `after` batches; the checkpoint does not include the last of these
/// batches.
struct CheckpointCopier {
    after: u64,
    seen: AtomicU64,
    from: PathBuf,
    to: PathBuf,
}

impl Progress for CheckpointCopier {
    fn begin(&self, _: &str, _: u64, _: &'static str) {}

    fn step(&self, _: u64) {
        if self.seen.fetch_add(1, Ordering::Relaxed) == self.after {
            fs::copy(&self.from, &self.to).unwrap();
        }
    }

    fn set_position(&self, _: u64, _: u64) {}

    fn milestone(&self, _: &str) {}

    fn end(&self) {}
}

impl DownloadProgress for CheckpointCopier {
    fn start(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, _: u64) {}

    fn finish(&self) {}
}

/// Trains with a checkpoint at every step; returns the model's values by name and the history.
fn train_to_end(
    prepared: &PreparedFinetune,
    settings: &Settings,
    run: &RunInProgress,
    progress: &dyn Progress,
) -> (Vec<(String, Vec<f32>)>, History) {
    let trained = with_trainer_config(prepared, settings, Some(run), &(), |config, model| {
        let FinetuneResult { mut model, history, .. } =
            Trainer::new(config, model)?.with_checkpoint_every_step().run(progress)?;
        let values =
            model.named_values_mut().into_iter().map(|(name, values)| (name, values.to_vec())).collect();
        Ok((values, history))
    });
    trained.unwrap()
}

fn begin_run(folder: &TempDir, name: &str, settings: &Settings) -> RunInProgress {
    let run_dir = RunDir::Named(folder.path().join(name));
    let reservation = run_dir.reserve(&settings.source).unwrap();
    RunInProgress::begin(reservation, "linear", &settings.to_options().to_toml()).unwrap()
}

// effect: train --resume
#[test]
fn a_training_resumed_within_an_epoch_ends_the_same() {
    // `trainer/tests.rs` interrupts every kind of training; this adds the real network.
    let overrides = [
        "tune.epochs=2",
        "tune.from=layer3",
        "tune.unfreeze_epochs=1",
        "tune.batch_norm=train",
        "tune.ema_decay=0.9",
        "tune.cutmix=1",
        "tune.grad_accum_steps=2",
    ];
    let (folder, settings) = demo_project(&overrides);
    let prepared = PreparedFinetune::prepare(&settings, None, &()).unwrap();
    let uninterrupted = begin_run(&folder, "whole", &settings);
    let resumed = begin_run(&folder, "resumed", &settings);
    // In the second epoch, after its second batch.
    let per_epoch = prepared.split.train.len().div_ceil(2) as u64;
    let progress = CheckpointCopier {
        after: per_epoch + 3,
        seen: AtomicU64::new(0),
        from: uninterrupted.checkpoint_path("last.safetensors"),
        to: resumed.checkpoint_path("last.safetensors"),
    };
    // The best epoch is saved in a separate file.
    let (values, history) = train_to_end(&prepared, &settings, &uninterrupted, &progress);
    fs::copy(uninterrupted.checkpoint_path("best.safetensors"), resumed.checkpoint_path("best.safetensors"))
        .unwrap();
    assert!(train_to_end(&prepared, &settings, &resumed, &()) == (values, history));
    let copied = fs::metadata(resumed.checkpoint_path("last.safetensors")).unwrap().len();
    assert!(copied > 0 && progress.seen.load(Ordering::Relaxed) > progress.after);
}

// effect: tune.augment, features.views x tune.augment
#[test]
fn order_and_views_depend_on_the_epoch_and_each_image_comes_once() {
    let (_folder, settings) =
        demo_project(&["features.views=2", "augment.horizontal_flip=0.5", "tune.batch_size=3"]);
    let prepared = PreparedFinetune::prepare(&settings, None, &()).unwrap();
    let epochs = with_trainer_config(&prepared, &settings, None, &(), |config, model| {
        let trainer = Trainer::new(config, model)?;
        Ok([0, 1, 2].map(|epoch| trainer.epoch_batches(epoch).concat()))
    });
    let epochs = epochs.unwrap();
    let images = |epoch: &[BatchItem]| epoch.iter().map(|item| item.image).collect::<Vec<_>>();
    assert_ne!(images(&epochs[0]), images(&epochs[1]));
    let mut seen: Vec<(usize, u32)> = Vec::new();
    for epoch in &epochs {
        let mut sorted = images(epoch);
        sorted.sort_unstable();
        assert_eq!(sorted, prepared.split.train);
        seen.extend(epoch.iter().map(|item| match item.view {
            ViewId::Numbered(view) => (item.image, view),
            ViewId::PerEpoch { .. } => panic!("there are no per-epoch views here"),
        }));
    }
    // In three epochs each of the three views comes once.
    seen.sort_unstable();
    let expected: Vec<(usize, u32)> =
        prepared.split.train.iter().flat_map(|&image| (0..3).map(move |view| (image, view))).collect();
    assert_eq!(seen, expected);
}

// effect: tune.layer_decay, tune.lr, tune.unfreeze_epochs
#[test]
fn learning_rates_decay_by_stage_and_stages_unfreeze_one_by_one() {
    let (_folder, settings) =
        demo_project(&["tune.layer_decay=0.5", "tune.lr=1", "tune.unfreeze_epochs=2", "tune.from=layer2"]);
    let options = &settings.tune;
    let rates = [
        ParameterGroup::Head,
        ParameterGroup::Stage(FeatureLayer::Layer4),
        ParameterGroup::Stage(FeatureLayer::Layer3),
        ParameterGroup::Stage(FeatureLayer::Stem),
    ]
    .map(|group| trainer::group_lr(options, group));
    assert_eq!(rates, [1.0, 0.1, 0.05, 0.1 / 16.0]);
    let stages = [0, 1, 2, 3, 4, 5, 6].map(|epoch| options.first_stage_in(epoch));
    let [two, three, four] = [FeatureLayer::Layer2, FeatureLayer::Layer3, FeatureLayer::Layer4];
    assert_eq!(stages, [four, four, three, three, two, two, two]);
}
