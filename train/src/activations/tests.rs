use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use half::{bf16, f16};
use headstock_backbone::{DeviceChoice, Precision, Preprocessing};
use headstock_inference::BackboneOptions;
use headstock_loader::{DecodeOptions, ImageRef};
use tempfile::TempDir;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level};

use super::*;
use crate::compare::log_capture;
use crate::config::{Config, Registries, Settings};

const SIDE: u32 = 64;

fn demo_backbone() -> &'static (PretrainedBackbone, Backbone) {
    static DEMO: OnceLock<(PretrainedBackbone, Backbone)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let options = BackboneOptions {
            weights: Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/backbone").display().to_string(),
            layer: FeatureLayer::Avgpool,
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
            search: Vec::new(),
        };
        let original = PretrainedBackbone::open(&options, &()).unwrap();
        let preprocessing = original.checkpoint().preprocessing().clone();
        let preprocessing = Preprocessing { resize: SIDE.into(), crop: [SIDE; 2], ..preprocessing };
        let pretrained =
            PretrainedBackbone::open_with_preprocessing(&options, Some(&preprocessing), &()).unwrap();
        let backbone = pretrained.load().unwrap();
        (pretrained, backbone)
    })
}

/// Settings with the cache in `folder`, augmentation, fine-tuning, and overrides.
fn settings(folder: &Path, overrides: &[&str]) -> Settings {
    let text = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n\
                [features]\ncache = \"cache\"\n[augment]\nhorizontal_flip = 0.5\nrotation = 30.0\n\
                [tune]\nfrom = \"layer4\"\n";
    let mut config = Config::parse(text, "a test", folder).unwrap();
    config.set(overrides).unwrap();
    config.resolve(&Registries::builtin()).unwrap()
}

/// Four demo images in a writable folder, with a cache next to them.
struct ActivationFixture {
    folder: TempDir,
    settings: Settings,
    images: Vec<ImageRef>,
    hashes: Vec<Option<ImageHash>>,
}

impl ActivationFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let classes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/photos/test");
        let sorted = |folder: &Path| {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            entries
        };
        let (mut images, mut hashes) = (Vec::new(), Vec::new());
        for class in sorted(&classes).iter().take(4) {
            let image = &sorted(class)[0];
            let path = folder.path().join(format!("{}.jpg", images.len()));
            fs::copy(image, &path).unwrap();
            hashes.push(Some(ImageHash::new(&fs::read(&path).unwrap(), DecodeOptions::default())));
            images.push(path.into());
        }
        let settings = settings(folder.path(), &[]);
        Self { folder, settings, images, hashes }
    }

    fn source(&self) -> ActivationSource<'_> {
        let (pretrained, backbone) = demo_backbone();
        let Self { settings, images, hashes, .. } = self;
        let options = settings.extract_options();
        ActivationSource { pretrained, backbone: Some(backbone), options, images, hashes }
    }

    fn prepare(
        &self,
        split_point: Option<SplitPoint>,
        views: [Option<u32>; 4],
    ) -> Result<ActivationCache<'_>, TrainError> {
        ActivationCache::prepare(self.source(), split_point, &views, &())
    }

    /// The records file.
    fn records_path(&self) -> PathBuf {
        let folder = self.folder.path().join("cache/activations");
        let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "records")).unwrap()
    }
}

const SPLIT: SplitPoint =
    SplitPoint { layer: FeatureLayer::Layer3, dtype: CacheDtype::F16, cache_limit: None };

const NO_BUDGET: SplitPoint = SplitPoint { cache_limit: Some(0), ..SPLIT };

fn eval_item(image: usize) -> BatchItem {
    BatchItem { image, view: ViewId::Numbered(0) }
}

fn numbered_item(image: usize, view: u32) -> BatchItem {
    BatchItem { image, view: ViewId::Numbered(view) }
}

fn per_epoch_item(image: usize, epoch: u64) -> BatchItem {
    BatchItem { image, view: ViewId::PerEpoch { epoch } }
}

/// The values of each batch.
fn read_batches(cache: &ActivationCache<'_>, batches: &[Vec<BatchItem>]) -> Vec<Vec<f32>> {
    let mut batches_read = Vec::new();
    cache
        .for_each_batch(batches, &mut |number, values| {
            assert_eq!(number, batches_read.len());
            batches_read.push(values.to_vec());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(batches_read.len(), batches.len());
    batches_read
}

#[test]
fn values_are_rounded_activations_whether_cached_or_not() {
    let round = |dtype, value| match dtype {
        CacheDtype::F16 => f16::from_f32(value).to_f32(),
        CacheDtype::Bf16 => bf16::from_f32(value).to_f32(),
    };
    let (pretrained, backbone) = demo_backbone();
    let fixture = ActivationFixture::new();
    for (layer, dtype) in [(FeatureLayer::Stem, CacheDtype::F16), (FeatureLayer::Layer3, CacheDtype::Bf16)] {
        let split_point = SplitPoint { layer, dtype, cache_limit: None };
        let from_disk = fixture.prepare(Some(split_point), [Some(2), Some(0), None, Some(0)]).unwrap();
        assert_eq!(from_disk.computed(), 5);
        let second = ActivationFixture::new();
        let recomputed =
            second.prepare(Some(SplitPoint { cache_limit: Some(0), ..split_point }), [Some(2); 4]).unwrap();
        assert_eq!(recomputed.computed(), 0);
        // Some batches mix cached and computed items; image 2 is never cached.
        let batches = [
            vec![eval_item(3), numbered_item(0, 2), eval_item(2)],
            vec![],
            vec![numbered_item(0, 1)],
            vec![eval_item(1), eval_item(3)],
        ];
        let batches_read = read_batches(&from_disk, &batches);
        assert!(batches_read == read_batches(&recomputed, &batches), "{layer}");

        let pixels: Vec<u8> = [3, 2]
            .iter()
            .flat_map(|&image| {
                let image =
                    headstock_loader::decode(&fixture.images[image].read().unwrap(), 1 << 30).unwrap();
                pretrained.transform().apply(&image).into_raw()
            })
            .collect();
        let expected =
            backbone.activations_nchw(PixelBatch::new(&pixels, 2, 64, 64).unwrap(), layer).unwrap();
        let [height, width, channels] = from_disk.shape();
        assert_eq!(expected.dims(), [2, channels, height, width]);
        let expected =
            expected.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = expected.into_iter().map(|value| round(dtype, value)).collect();
        let len = height * width * channels;
        assert!(
            batches_read[0][..len] == expected[..len] && batches_read[0][2 * len..] == expected[len..],
            "{layer}"
        );
        assert!(
            batches_read[0][..len] == batches_read[3][len..]
                && batches_read[0][len..2 * len] != batches_read[2][..]
        );
    }
}

#[test]
fn cached_activations_are_found_by_later_runs() {
    let fixture = ActivationFixture::new();
    let computed =
        |split_point: SplitPoint, views| fixture.prepare(Some(split_point), views).unwrap().computed();
    assert_eq!(computed(SPLIT, [Some(1), Some(0), None, None]), 3);
    assert_eq!(computed(SPLIT, [Some(1), Some(0), None, None]), 0);
    assert_eq!(computed(SPLIT, [Some(1), Some(1), Some(0), None]), 2);
    assert_eq!(computed(SplitPoint { dtype: CacheDtype::Bf16, ..SPLIT }, [Some(0), None, None, None]), 1);
    assert_eq!(computed(SplitPoint { layer: FeatureLayer::Layer2, ..SPLIT }, [Some(0), None, None, None]), 1);
    let mut second = ActivationFixture::new();
    second.settings.features.cache = fixture.settings.features.cache.clone();
    second.settings.augment.seed = 1;
    // Another augmentation shares the evaluation views.
    assert_eq!(second.prepare(Some(SPLIT), [Some(1), None, None, None]).unwrap().computed(), 1);
    assert_eq!(computed(SPLIT, [Some(1), None, None, None]), 0);
}

// effect: tune.cache_dtype, tune.from, data.decode x features.cache
#[test]
fn only_settings_that_change_activations_recompute_them() {
    let fixture = ActivationFixture::new();
    // The evaluation view and two augmented ones.
    let computed = |settings: &Settings, source: ActivationSource<'_>| {
        let source = ActivationSource { options: settings.extract_options(), ..source };
        ActivationCache::prepare(source, Some(SPLIT), &[Some(2), None, None, None], &()).unwrap().computed()
    };
    assert_eq!(computed(&fixture.settings, fixture.source()), 3);
    for (key, value, recomputed) in [
        ("data.decode", "\"scaled\"", 3),
        ("augment.rotation", "40.0", 2),
        ("augment.horizontal_flip", "0.4", 2),
        ("augment.seed", "9", 2),
        ("data.max_pixels", "1000000", 0),
        ("data.on_error", "\"skip\"", 0),
        ("data.class_order", "\"appearance\"", 0),
        ("split.seed", "5", 0),
        ("features.views", "7", 0),
        ("calibration", "\"isotonic\"", 0),
        ("tune.seed", "4", 0),
        ("tune.batch_size", "3", 0),
        ("tune.epochs", "2", 0),
        ("head.C", "2.0", 0),
    ] {
        let changed = settings(fixture.folder.path(), &[&format!("{key}={value}")]);
        assert!(changed.to_options() != fixture.settings.to_options(), "{key}");
        assert_eq!(computed(&changed, fixture.source()), recomputed, "{key}");
    }
    // Another preprocessing of the same weights has its own activations.
    let (pretrained, _) = demo_backbone();
    let preprocessing = pretrained.checkpoint().preprocessing();
    let preprocessing = Preprocessing { resize: (SIDE + 8).into(), ..preprocessing.clone() };
    let pretrained =
        PretrainedBackbone::open_with_preprocessing(&pretrained.options, Some(&preprocessing), &()).unwrap();
    let source = ActivationSource { pretrained: &pretrained, ..fixture.source() };
    assert_eq!(computed(&fixture.settings, source), 3);
}

#[test]
fn identical_images_are_cached_once() {
    let mut fixture = ActivationFixture::new();
    fixture.images[1] = fixture.images[0].clone();
    fixture.hashes[1] = fixture.hashes[0];
    let cache = fixture.prepare(Some(SPLIT), [Some(1), Some(1), None, None]).unwrap();
    assert_eq!(cache.computed(), 2);
    let batches_read = read_batches(&cache, &[vec![numbered_item(0, 1)], vec![numbered_item(1, 1)]]);
    assert!(batches_read[0] == batches_read[1]);
}

/// With a single subscriber, an event first met by a thread without it would be cached as of no interest to
/// anyone.
static EXTRA_SUBSCRIBERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

fn capture_up_to<R>(level: Level, act: impl FnOnce() -> R) -> (R, Vec<String>) {
    LazyLock::force(&EXTRA_SUBSCRIBERS);
    log_capture::capture_events(level, act)
}

#[test]
fn the_planned_size_is_logged_and_nothing_is_cached_above_the_limit() {
    let fixture = ActivationFixture::new();
    let views = [Some(1), Some(0), None, None];
    // Layer3 is 4 x 4 x 1024 here: 32,768 bytes and the key.
    let record_bytes = 32_768 + 32;
    let folder = fixture.settings.features.cache.join("activations");
    let (limited, lines) = capture_up_to(Level::INFO, || {
        fixture.prepare(Some(SplitPoint { cache_limit: Some(3 * record_bytes - 1), ..SPLIT }), views)
    });
    assert_eq!(limited.unwrap().computed(), 0);
    let planned_message = format!(
        "cache of activations (outputs of layer3): 3 views (photos without or with augmentation) take 98 kB, \
         33 kB each in f16; already cached: 0; to be computed: 98 kB; the folder {} holds 0 B of \
         activations, and its disk has ",
        folder.display()
    );
    assert!(lines[0].starts_with(&planned_message) && lines[0].ends_with(" free"), "{lines:?}");
    let limit_warning = "98 kB of new activations exceed the limit of 98 kB: they are not cached, and the \
                         layers up to layer3 run again for each batch, which is slower but gives the same \
                         result; raise `cache_gb` to at least 0.001";
    assert_eq!(lines[1..], [limit_warning]);
    assert_eq!(fs::metadata(fixture.records_path()).unwrap().len(), 0);

    let enough = SplitPoint { cache_limit: Some(3 * record_bytes), ..SPLIT };
    assert_eq!(fixture.prepare(Some(enough), views).unwrap().computed(), 3);
    let (again, lines) = capture_up_to(Level::INFO, || fixture.prepare(Some(NO_BUDGET), views));
    assert_eq!(again.unwrap().computed(), 0);
    let expected =
        format!("already cached: 3; to be computed: 0 B; the folder {} holds 98 kB", folder.display());
    assert!(lines.len() == 1 && lines[0].contains(&expected), "{lines:?}");
    // Activations cached at another layer count towards the limit.
    let second = SplitPoint { layer: FeatureLayer::Layer2, cache_limit: Some(4 * record_bytes), ..SPLIT };
    let (second, lines) =
        capture_up_to(Level::WARN, || fixture.prepare(Some(second), [Some(0), None, None, None]));
    assert!(second.unwrap().computed() == 0 && lines.len() == 1, "{lines:?}");
    assert!(
        lines[0].contains(" and 98 kB that are already cached exceed the limit of 131 kB")
            && lines[0].contains(", or delete activations that you no longer need in "),
        "{lines:?}"
    );
}

#[test]
fn lost_records_are_recomputed() {
    let fixture = ActivationFixture::new();
    let batch = [vec![eval_item(0), eval_item(1), eval_item(2)]];
    let before =
        read_batches(&fixture.prepare(Some(SPLIT), [Some(0), Some(0), Some(0), None]).unwrap(), &batch);
    let file = fs::File::options().write(true).open(fixture.records_path()).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let again = fixture.prepare(Some(SPLIT), [Some(0), Some(0), Some(0), None]).unwrap();
    assert_eq!(again.computed(), 2);
    assert!(read_batches(&again, &batch) == before);
    // If records are lost while in use, they are recomputed for the batch.
    file.set_len(0).unwrap();
    assert!(read_batches(&again, &batch) == before);
}

#[test]
fn concurrent_runs_share_one_records_file() {
    let fixture = ActivationFixture::new();
    let batch = [(0..4).map(eval_item).collect::<Vec<_>>()];
    let read = || read_batches(&fixture.prepare(Some(SPLIT), [Some(1); 4]).unwrap(), &batch);
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(read), scope.spawn(read));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert!(first == second);
    assert_eq!(fs::metadata(fixture.records_path()).unwrap().len(), 8 * 32_800);
    assert!(
        read_batches(&ActivationFixture::new().prepare(Some(NO_BUDGET), [Some(1); 4]).unwrap(), &batch)
            == first
    );
}

#[test]
fn per_epoch_views_depend_on_the_epoch_alone() {
    let fixture = ActivationFixture::new();
    let cache = fixture.prepare(Some(SPLIT), [None; 4]).unwrap();
    let batches_read = read_batches(
        &cache,
        &[
            vec![per_epoch_item(0, 1), per_epoch_item(1, 1)],
            vec![per_epoch_item(0, 2)],
            vec![per_epoch_item(1, 1), per_epoch_item(0, 1)],
            vec![numbered_item(0, 1)],
        ],
    );
    let record_bytes: usize = cache.shape().iter().product();
    assert!(
        batches_read[0][..record_bytes] == batches_read[2][record_bytes..]
            && batches_read[0][record_bytes..] == batches_read[2][..record_bytes]
    );
    assert!(
        batches_read[0][..record_bytes] != batches_read[1][..]
            && batches_read[0][..record_bytes] != batches_read[3][..]
            && batches_read[1] != batches_read[3]
    );
    assert_eq!(fs::metadata(fixture.records_path()).unwrap().len(), 0);
}

#[test]
fn without_a_split_point_values_are_normalized_pixels() {
    let fixture = ActivationFixture::new();
    let cache = fixture.prepare(None, [Some(1); 4]).unwrap();
    assert_eq!((cache.shape(), cache.computed()), ([64, 64, 3], 0));
    assert!(!fixture.settings.features.cache.exists());
    let batches_read = read_batches(&cache, &[vec![eval_item(1), numbered_item(2, 1)], vec![eval_item(2)]]);
    let image = headstock_loader::decode(&fixture.images[1].read().unwrap(), 1 << 30).unwrap();
    let pretrained = &demo_backbone().0;
    let pixels = pretrained.transform().apply(&image).into_raw();
    let preprocessing = pretrained.checkpoint().preprocessing();
    for (i, (value, pixel)) in batches_read[0].iter().zip(&pixels).enumerate() {
        let expected = (f64::from(*pixel) / 255.0 - f64::from(preprocessing.mean[i % 3]))
            / f64::from(preprocessing.std[i % 3]);
        assert!((f64::from(*value) - expected).abs() < 1e-6, "{i}");
    }
    assert!(batches_read[0][pixels.len()..] != batches_read[1][..]);
}

#[test]
fn an_error_or_a_break_ends_the_reading() {
    let fixture = ActivationFixture::new();
    let cache = fixture.prepare(Some(SPLIT), [Some(0); 4]).unwrap();
    let batches: Vec<Vec<BatchItem>> = (0..40).map(|i| vec![eval_item(i % 4)]).collect();
    let mut seen = 0;
    let failed = cache.for_each_batch(&batches, &mut |number, _| {
        seen += 1;
        if number == 2 { Err(TrainError::Data("stop here".into())) } else { Ok(ControlFlow::Continue(())) }
    });
    assert_eq!((failed.unwrap_err().to_string(), seen), ("stop here".into(), 3));
    let interrupted = cache.for_each_batch(&batches, &mut |number, _| {
        seen += 1;
        Ok(if number == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert!(interrupted.is_ok() && seen == 8, "{seen}");
}

#[test]
fn an_image_that_changed_or_is_gone_is_named() {
    let fixture = ActivationFixture::new();
    let cache = fixture.prepare(Some(NO_BUDGET), [Some(0), None, None, None]).unwrap();
    let error = |batch: Vec<BatchItem>| {
        cache
            .for_each_batch(&[batch], &mut |_, _| unreachable!("there are no values"))
            .unwrap_err()
            .to_string()
    };
    let mut bytes = fixture.images[1].read().unwrap();
    bytes.push(0);
    fs::write(fixture.images[1].file_path().unwrap(), bytes).unwrap();
    fs::remove_file(fixture.images[2].file_path().unwrap()).unwrap();
    let changed = format!("{}: the file changed while in use: run the command again", fixture.images[1]);
    assert_eq!(error(vec![eval_item(0), eval_item(1), eval_item(2)]), changed);
    let gone = error(vec![eval_item(2)]);
    assert!(gone.contains(&format!("1 photo cannot be read\n  {}", fixture.images[2])), "{gone}");
    let prepared = |views| fixture.prepare(Some(SPLIT), views).err().unwrap().to_string();
    assert_eq!(prepared([Some(0), Some(0), None, None]), changed);
    assert_eq!(prepared([None, None, Some(0), None]), gone);
}
