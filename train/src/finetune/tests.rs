mod holdout;
mod leak;
mod resume;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use headstock_backbone::DownloadProgress;
use headstock_heads::History;
use tempfile::TempDir;

use super::model::ParameterGroup;
use super::*;
use crate::activations::BatchItem;
use crate::features::ViewId;

/// A folder with photos of two classes, the bundled backbone at 64 x 64 pixels, and settings that tune its last stage.
fn demo_project(more: &[&str]) -> (TempDir, Settings) {
    let (folder, config) = project_files(8);
    let settings = resolve(&folder, &config, more);
    (folder, settings)
}

/// A folder in memory, where there is one: what is saved there is on its disk at once.
pub(super) fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// The folder of [`project`] with so many photos a class, and its config.
fn project_files(photos: usize) -> (TempDir, String) {
    let folder = in_memory();
    for class in ["hat", "shoes"] {
        copy_photos(class, &folder.path().join("photos").join(class), 0..photos);
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
    let weights = folder.path().join("backbone");
    fs::create_dir(&weights).unwrap();
    let (bundled, here) = (demo.join("backbone/model.safetensors"), weights.join("model.safetensors"));
    if fs::hard_link(&bundled, &here).is_err() {
        fs::copy(&bundled, &here).unwrap();
    }
    let record = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}"#;
    fs::write(weights.join("config.json"), record).unwrap();
    let config = "version = 1\n[data]\nfolder = \"photos\"\n[split]\ntest_size = 0.25\n[backbone]\nweights = \"backbone\"\n\
                  [tune]\nfrom = \"layer4\"\nbatch_size = 2\nvalidation = 0.25\nstart = \"random\"\n";
    (folder, config.to_owned())
}

/// Copies some of the demo's training photos of a class.
fn copy_photos(class: &str, to: &Path, photos: Range<usize>) {
    fs::create_dir_all(to).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/photos/train").join(class);
    let mut paths: Vec<PathBuf> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for photo in &paths[photos] {
        fs::copy(photo, to.join(photo.file_name().unwrap())).unwrap();
    }
}

fn resolve(folder: &TempDir, config: &str, more: &[&str]) -> Settings {
    let mut config = Config::parse(config, "a test", folder.path()).unwrap();
    config.set(more).unwrap();
    config.resolve(&Registry::builtin()).unwrap()
}

/// Copies the last checkpoint when so many batches have been learned from, of which the last is not in it.
struct CheckpointCopier {
    after: u64,
    seen: AtomicU64,
    from: PathBuf,
    to: PathBuf,
}

impl Progress for CheckpointCopier {
    fn begin_run(&self, _: &str, _: u64, _: &'static str) {}

    fn step(&self, _: u64) {
        if self.seen.fetch_add(1, Ordering::Relaxed) == self.after {
            fs::copy(&self.from, &self.to).unwrap();
        }
    }

    fn set_position(&self, _: u64, _: u64) {}

    fn train_to_end(&self) {}
}

impl DownloadProgress for CheckpointCopier {
    fn start(&self, _: &str, _: Option<u64>) {}

    fn advance(&self, _: u64) {}

    fn finish(&self) {}
}

/// What a course ends with, which saves after every step: its values by name, and its history.
fn end(
    ready: &PreparedFinetune,
    settings: &Settings,
    run: &RunInProgress,
    progress: &dyn Progress,
) -> (Vec<(String, Vec<f32>)>, History) {
    let trained = with_trainer_config(ready, settings, Some(run), &(), |setup, network| {
        let FinetuneResult { model: mut network, history, .. } =
            Trainer::new(setup, network)?.with_checkpoint_every_step().run(progress)?;
        let values =
            network.named_values_mut().into_iter().map(|(name, values)| (name, values.to_vec())).collect();
        Ok((values, history))
    });
    trained.unwrap()
}

fn begin(folder: &TempDir, name: &str, settings: &Settings) -> RunInProgress {
    let place = RunDir::Named(folder.path().join(name));
    let reserved = place.reserve(&settings.source).unwrap();
    RunInProgress::with_trainer(reserved, "linear", &settings.options.to_toml()).unwrap()
}

// effect: train --resume
#[test]
fn a_course_goes_on_in_the_middle_of_an_epoch_as_if_it_had_not_stopped() {
    // The tests of the course stop every kind of one (`course/tests.rs`); here, what the real network adds.
    let more = [
        "tune.epochs=2",
        "tune.from=layer3",
        "tune.unfreeze=1",
        "tune.batch_norm=train",
        "tune.ema=0.9",
        "tune.cutmix=1",
        "tune.accumulate=2",
    ];
    let (folder, settings) = demo_project(&more);
    let ready = PreparedFinetune::new(&settings, false, &()).unwrap();
    let whole = begin(&folder, "whole", &settings);
    let cut = begin(&folder, "cut", &settings);
    // In the second epoch, after its second batch.
    let per_epoch = ready.split.fit.len().div_ceil(2) as u64;
    let progress = CheckpointCopier {
        after: per_epoch + 3,
        seen: AtomicU64::new(0),
        from: whole.checkpoint_path("last.safetensors"),
        to: cut.checkpoint_path("last.safetensors"),
    };
    // The best epoch so far is a file of its own.
    let (values, history) = end(&ready, &settings, &whole, &progress);
    fs::copy(whole.checkpoint_path("best.safetensors"), cut.checkpoint_path("best.safetensors")).unwrap();
    assert!(end(&ready, &settings, &cut, &()) == (values, history));
    let copied = fs::metadata(cut.checkpoint_path("last.safetensors")).unwrap().len();
    assert!(copied > 0 && progress.seen.load(Ordering::Relaxed) > progress.after);
}

// effect: tune.views, features.views x tune.views
#[test]
fn the_order_and_the_renderings_of_an_epoch_are_its_own_and_each_photo_comes_once() {
    let (_folder, settings) =
        demo_project(&["features.views=2", "augment.horizontal_flip=0.5", "tune.batch_size=3"]);
    let ready = PreparedFinetune::new(&settings, false, &()).unwrap();
    let epochs = with_trainer_config(&ready, &settings, None, &(), |setup, network| {
        let course = Trainer::new(setup, network)?;
        Ok([0, 1, 2].map(|epoch| course.epoch_batches(epoch).concat()))
    });
    let epochs = epochs.unwrap();
    let photos = |epoch: &[BatchItem]| epoch.iter().map(|item| item.image).collect::<Vec<_>>();
    assert_ne!(photos(&epochs[0]), photos(&epochs[1]));
    let mut seen: Vec<(usize, ViewIndex)> = Vec::new();
    for epoch in &epochs {
        let mut once = photos(epoch);
        once.sort_unstable();
        assert_eq!(once, ready.split.fit);
        seen.extend(epoch.iter().map(|item| match item.view {
            ViewId::Numbered(view) => (item.image, view),
            ViewId::PerEpoch { .. } => panic!("nothing is fresh here"),
        }));
    }
    // In three epochs each of the three renderings once.
    seen.sort_unstable();
    let all: Vec<(usize, ViewIndex)> =
        ready.split.fit.iter().flat_map(|&photo| (0..3).map(move |view| (photo, view))).collect();
    assert_eq!(seen, all);
}

// effect: tune.layer_decay, tune.lr, tune.unfreeze
#[test]
fn rates_fall_from_stage_to_stage_and_stages_come_one_by_one() {
    let (_folder, settings) =
        demo_project(&["tune.layer_decay=0.5", "tune.lr=1", "tune.unfreeze=2", "tune.from=layer2"]);
    let options = &settings.options.tune;
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
