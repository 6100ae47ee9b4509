use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use half::{bf16, f16};
use headstock_backbone::{DeviceChoice, Precision, Preprocessing};
use headstock_loader::{Augment, ImageRef};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level};

use super::*;
use crate::compare::log_capture;
use crate::config::BackboneOptions;

const SIDE: u32 = 64;

fn demo_backbone() -> &'static (PretrainedBackbone, Backbone) {
    static DEMO: OnceLock<(PretrainedBackbone, Backbone)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let options = BackboneOptions {
            weights: Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/backbone").display().to_string(),
            layer: FeatureLayer::Avgpool,
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
        };
        let own = PretrainedBackbone::open(&options, &()).unwrap();
        let record = own.checkpoint().preprocessing().clone();
        let record = Preprocessing { resize: SIDE, crop: [SIDE; 2], ..record };
        let stock = PretrainedBackbone::open_with_preprocessing(&options, Some(&record), &()).unwrap();
        let backbone = stock.load().unwrap();
        (stock, backbone)
    })
}

/// Four photos of the demo in a folder that may be written to, and a cache beside them.
struct ActivationFixture {
    folder: TempDir,
    options: Options,
    images: Vec<ImageRef>,
    hashes: Vec<Option<[u8; 32]>>,
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
        let (mut photos, mut hashes) = (Vec::new(), Vec::new());
        for class in sorted(&classes).iter().take(4) {
            let photo = &sorted(class)[0];
            let path = folder.path().join(format!("{}.jpg", photos.len()));
            fs::copy(photo, &path).unwrap();
            hashes.push(Some(Sha256::digest(fs::read(&path).unwrap()).into()));
            photos.push(path.into());
        }
        let mut options: Options = toml::from_str("version = 1").unwrap();
        options.features.cache = folder.path().join("cache");
        options.augment = Augment { horizontal_flip: Some(0.5), rotation: Some(30.0), ..Augment::default() };
        Self { folder, options, images: photos, hashes }
    }

    fn source(&self) -> ActivationSource<'_> {
        let (stock, backbone) = demo_backbone();
        let Self { options, images: photos, hashes, .. } = self;
        ActivationSource { pretrained: stock, backbone: Some(backbone), options, images: photos, hashes }
    }

    fn prepare(
        &self,
        cut: Option<SplitPoint>,
        views: [Option<ViewIndex>; 4],
    ) -> Result<ActivationCache<'_>, TrainError> {
        ActivationCache::prepare(self.source(), cut, &views, &())
    }

    /// The file of the records.
    fn records_path(&self) -> PathBuf {
        let cache = self.folder.path().join("cache/activations");
        let mut files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "records")).unwrap()
    }
}

const SPLIT: SplitPoint =
    SplitPoint { layer: FeatureLayer::Layer3, dtype: HalfPrecision::F16, cache_limit: None };

const NO_BUDGET: SplitPoint = SplitPoint { cache_limit: Some(0), ..SPLIT };

fn eval_item(photo: usize) -> BatchItem {
    BatchItem { image: photo, view: ViewId::Numbered(0) }
}

fn numbered_item(photo: usize, view: ViewIndex) -> BatchItem {
    BatchItem { image: photo, view: ViewId::Numbered(view) }
}

fn per_epoch_item(photo: usize, epoch: u64) -> BatchItem {
    BatchItem { image: photo, view: ViewId::PerEpoch { epoch } }
}

/// The values of batches, one after another.
fn read_batches(activations: &ActivationCache<'_>, batches: &[Vec<BatchItem>]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    activations
        .for_each_batch(batches, &mut |number, values| {
            assert_eq!(number, all.len());
            all.push(values.to_vec());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(all.len(), batches.len());
    all
}

#[test]
fn values_are_the_taps_rounded_whether_they_were_kept_or_not() {
    let round = |kept, value| match kept {
        HalfPrecision::F16 => f16::from_f32(value).to_f32(),
        HalfPrecision::Bf16 => bf16::from_f32(value).to_f32(),
    };
    let (stock, backbone) = demo_backbone();
    let desk = ActivationFixture::new();
    for (layer, kept) in
        [(FeatureLayer::Stem, HalfPrecision::F16), (FeatureLayer::Layer3, HalfPrecision::Bf16)]
    {
        let cut = SplitPoint { layer, dtype: kept, cache_limit: None };
        let from_disk = desk.prepare(Some(cut), [Some(2), Some(0), None, Some(0)]).unwrap();
        assert_eq!(from_disk.computed(), 5);
        let other = ActivationFixture::new();
        let anew = other.prepare(Some(SplitPoint { cache_limit: Some(0), ..cut }), [Some(2); 4]).unwrap();
        assert_eq!(anew.computed(), 0);
        // Some batches have both, and photo 2 was never kept.
        let batches = [
            vec![eval_item(3), numbered_item(0, 2), eval_item(2)],
            vec![],
            vec![numbered_item(0, 1)],
            vec![eval_item(1), eval_item(3)],
        ];
        let all = read_batches(&from_disk, &batches);
        assert!(all == read_batches(&anew, &batches), "{layer}");

        let pixels: Vec<u8> = [3, 2]
            .iter()
            .flat_map(|&photo| {
                let photo = headstock_loader::decode(&desk.images[photo].read().unwrap(), 1 << 30).unwrap();
                stock.transform().apply(&photo).into_raw()
            })
            .collect();
        let tap = backbone.activations_nchw(PixelBatch::new(&pixels, 2, 64, 64).unwrap(), layer).unwrap();
        let [height, width, channels] = from_disk.shape();
        assert_eq!(tap.dims(), [2, channels, height, width]);
        let tap = tap.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let tap: Vec<f32> = tap.into_iter().map(|value| round(kept, value)).collect();
        let each = height * width * channels;
        assert!(all[0][..each] == tap[..each] && all[0][2 * each..] == tap[each..], "{layer}");
        assert!(all[0][..each] == all[3][each..] && all[0][each..2 * each] != all[2][..]);
    }
}

#[test]
fn what_was_kept_once_is_found_by_the_next() {
    let desk = ActivationFixture::new();
    let computed = |cut: SplitPoint, views| desk.prepare(Some(cut), views).unwrap().computed();
    assert_eq!(computed(SPLIT, [Some(1), Some(0), None, None]), 3);
    assert_eq!(computed(SPLIT, [Some(1), Some(0), None, None]), 0);
    assert_eq!(computed(SPLIT, [Some(1), Some(1), Some(0), None]), 2);
    assert_eq!(computed(SplitPoint { dtype: HalfPrecision::Bf16, ..SPLIT }, [Some(0), None, None, None]), 1);
    assert_eq!(computed(SplitPoint { layer: FeatureLayer::Layer2, ..SPLIT }, [Some(0), None, None, None]), 1);
    let mut other = ActivationFixture::new();
    other.options.features.cache = desk.options.features.cache.clone();
    other.options.augment.seed = 1;
    // Another augmentation has the same plain views.
    assert_eq!(other.prepare(Some(SPLIT), [Some(1), None, None, None]).unwrap().computed(), 1);
    assert_eq!(computed(SPLIT, [Some(1), None, None, None]), 0);
}

// effect: tune.keep, tune.from, data.decode x features.cache
#[test]
fn what_changes_activations_computes_them_anew_and_what_does_not_finds_them() {
    let desk = ActivationFixture::new();
    let written: toml::Table = desk.options.to_toml().parse().unwrap();
    // A plain view and two augmented ones.
    let computed = |options: Options, photos: ActivationSource<'_>| {
        let photos = ActivationSource { options: &options, ..photos };
        ActivationCache::prepare(photos, Some(SPLIT), &[Some(2), None, None, None], &()).unwrap().computed()
    };
    assert_eq!(computed(desk.options.clone(), desk.source()), 3);
    for (key, value, anew) in [
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
        let mut table = written.clone();
        let value: toml::Table = format!("value = {value}").parse().unwrap();
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let section = match section {
            "" => &mut table,
            section => {
                let empty = || toml::Value::Table(toml::Table::new());
                table.entry(section).or_insert_with(empty).as_table_mut().unwrap()
            }
        };
        section.insert(name.into(), value["value"].clone());
        let options: Options = toml::from_str(&toml::to_string(&table).unwrap()).unwrap();
        assert!(options != desk.options, "{key}");
        assert_eq!(computed(options, desk.source()), anew, "{key}");
    }
    // Another preprocessing of the same weights has activations of its own.
    let (stock, _) = demo_backbone();
    let record = stock.checkpoint().preprocessing();
    let record = Preprocessing { resize: SIDE + 8, ..record.clone() };
    let stock = PretrainedBackbone::open_with_preprocessing(stock.options(), Some(&record), &()).unwrap();
    let photos = ActivationSource { pretrained: &stock, ..desk.source() };
    assert_eq!(computed(desk.options.clone(), photos), 3);
}

#[test]
fn photos_that_are_the_same_are_kept_once() {
    let mut desk = ActivationFixture::new();
    desk.images[1] = desk.images[0].clone();
    desk.hashes[1] = desk.hashes[0];
    let activations = desk.prepare(Some(SPLIT), [Some(1), Some(1), None, None]).unwrap();
    assert_eq!(activations.computed(), 2);
    let all = read_batches(&activations, &[vec![numbered_item(0, 1)], vec![numbered_item(1, 1)]]);
    assert!(all[0] == all[1]);
}

/// While there is one subscriber only, an event that a thread without it meets first counts as of no interest to anyone.
static EXTRA_SUBSCRIBERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

fn capture_up_to<R>(level: Level, act: impl FnOnce() -> R) -> (R, Vec<String>) {
    LazyLock::force(&EXTRA_SUBSCRIBERS);
    log_capture::capture_events(level, act)
}

#[test]
fn room_is_told_beforehand_and_a_limit_keeps_nothing() {
    let desk = ActivationFixture::new();
    let views = [Some(1), Some(0), None, None];
    // Layer3 is 4 x 4 x 1024 here: 32,768 bytes and the key.
    let each = 32_768 + 32;
    let folder = desk.options.features.cache.join("activations");
    let (kept, lines) = capture_up_to(Level::INFO, || {
        desk.prepare(Some(SplitPoint { cache_limit: Some(3 * each - 1), ..SPLIT }), views)
    });
    assert_eq!(kept.unwrap().computed(), 0);
    let begin = format!(
        "activations at layer3: 3 renderings of 33 kB in f16 are 98 kB in {}, where 0 B lie already; 0 of them are there, \
         and 98 kB are to be computed; the disk has ",
        folder.display()
    );
    assert!(lines[0].starts_with(&begin) && lines[0].ends_with(" free"), "{lines:?}");
    let warned = format!(
        "98 kB of activations are more than the limit of 98 kB allows: none are kept, and the layers up to layer3 run again \
         for each batch, which is slower; raise `tune.space` to 0.001 at least, or remove what {} holds of others",
        folder.display()
    );
    assert_eq!(lines[1..], [warned]);
    assert_eq!(fs::metadata(desk.records_path()).unwrap().len(), 0);

    let enough = SplitPoint { cache_limit: Some(3 * each), ..SPLIT };
    assert_eq!(desk.prepare(Some(enough), views).unwrap().computed(), 3);
    let (again, lines) = capture_up_to(Level::INFO, || desk.prepare(Some(NO_BUDGET), views));
    assert_eq!(again.unwrap().computed(), 0);
    assert!(
        lines.len() == 1 && lines[0].contains("98 kB lie already; 3 of them are there, and 0 B are"),
        "{lines:?}"
    );
    // What is kept at another layer counts as well.
    let other = SplitPoint { layer: FeatureLayer::Layer2, cache_limit: Some(4 * each), ..SPLIT };
    let (other, lines) =
        capture_up_to(Level::WARN, || desk.prepare(Some(other), [Some(0), None, None, None]));
    assert!(other.unwrap().computed() == 0 && lines.len() == 1, "{lines:?}");
}

#[test]
fn records_that_were_lost_are_computed_anew() {
    let desk = ActivationFixture::new();
    let batch = [vec![eval_item(0), eval_item(1), eval_item(2)]];
    let before = read_batches(&desk.prepare(Some(SPLIT), [Some(0), Some(0), Some(0), None]).unwrap(), &batch);
    let file = fs::File::options().write(true).open(desk.records_path()).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let again = desk.prepare(Some(SPLIT), [Some(0), Some(0), Some(0), None]).unwrap();
    assert_eq!(again.computed(), 2);
    assert!(read_batches(&again, &batch) == before);
    // Lost while they are in use, they are computed for the batch.
    file.set_len(0).unwrap();
    assert!(read_batches(&again, &batch) == before);
}

#[test]
fn two_at_once_keep_the_same_in_one_place() {
    let desk = ActivationFixture::new();
    let batch = [(0..4).map(eval_item).collect::<Vec<_>>()];
    let of = || read_batches(&desk.prepare(Some(SPLIT), [Some(1); 4]).unwrap(), &batch);
    let (one, other) = std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(of), scope.spawn(of));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert!(one == other);
    assert_eq!(fs::metadata(desk.records_path()).unwrap().len(), 8 * 32_800);
    assert!(
        read_batches(&ActivationFixture::new().prepare(Some(NO_BUDGET), [Some(1); 4]).unwrap(), &batch)
            == one
    );
}

#[test]
fn fresh_views_are_others_in_each_epoch_and_the_same_in_the_same() {
    let desk = ActivationFixture::new();
    let activations = desk.prepare(Some(SPLIT), [None; 4]).unwrap();
    let all = read_batches(
        &activations,
        &[
            vec![per_epoch_item(0, 1), per_epoch_item(1, 1)],
            vec![per_epoch_item(0, 2)],
            vec![per_epoch_item(1, 1), per_epoch_item(0, 1)],
            vec![numbered_item(0, 1)],
        ],
    );
    let each: usize = activations.shape().iter().product();
    assert!(all[0][..each] == all[2][each..] && all[0][each..] == all[2][..each]);
    assert!(all[0][..each] != all[1][..] && all[0][..each] != all[3][..] && all[1] != all[3]);
    assert_eq!(fs::metadata(desk.records_path()).unwrap().len(), 0);
}

#[test]
fn without_a_cut_values_are_pixels() {
    let desk = ActivationFixture::new();
    let activations = desk.prepare(None, [Some(1); 4]).unwrap();
    assert_eq!((activations.shape(), activations.computed()), ([64, 64, 3], 0));
    assert!(!desk.options.features.cache.exists());
    let all = read_batches(&activations, &[vec![eval_item(1), numbered_item(2, 1)], vec![eval_item(2)]]);
    let photo = headstock_loader::decode(&desk.images[1].read().unwrap(), 1 << 30).unwrap();
    let stock = &demo_backbone().0;
    let pixels = stock.transform().apply(&photo).into_raw();
    let record = stock.checkpoint().preprocessing();
    for (i, (value, pixel)) in all[0].iter().zip(&pixels).enumerate() {
        let expected =
            (f64::from(*pixel) / 255.0 - f64::from(record.mean[i % 3])) / f64::from(record.std[i % 3]);
        assert!((f64::from(*value) - expected).abs() < 1e-6, "{i}");
    }
    assert!(all[0][pixels.len()..] != all[1][..]);
}

#[test]
fn an_error_or_a_break_ends_the_reading() {
    let desk = ActivationFixture::new();
    let activations = desk.prepare(Some(SPLIT), [Some(0); 4]).unwrap();
    let batches: Vec<Vec<BatchItem>> = (0..40).map(|i| vec![eval_item(i % 4)]).collect();
    let mut seen = 0;
    let failed = activations.for_each_batch(&batches, &mut |number, _| {
        seen += 1;
        if number == 2 { Err(TrainError::Data("enough".into())) } else { Ok(ControlFlow::Continue(())) }
    });
    assert_eq!((failed.unwrap_err().to_string(), seen), ("enough".into(), 3));
    let broken = activations.for_each_batch(&batches, &mut |number, _| {
        seen += 1;
        Ok(if number == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert!(broken.is_ok() && seen == 8, "{seen}");
}

#[test]
fn a_photo_that_changed_or_is_gone_is_named() {
    let desk = ActivationFixture::new();
    let activations = desk.prepare(Some(NO_BUDGET), [Some(0), None, None, None]).unwrap();
    let error = |batch: Vec<BatchItem>| {
        activations
            .for_each_batch(&[batch], &mut |_, _| unreachable!("there are no values"))
            .unwrap_err()
            .to_string()
    };
    let mut bytes = desk.images[1].read().unwrap();
    bytes.push(0);
    fs::write(desk.images[1].file_path().unwrap(), bytes).unwrap();
    fs::remove_file(desk.images[2].file_path().unwrap()).unwrap();
    let changed = format!("{}: changed while it was in use: run the command again", desk.images[1]);
    assert_eq!(error(vec![eval_item(0), eval_item(1), eval_item(2)]), changed);
    let gone = error(vec![eval_item(2)]);
    assert!(gone.contains(&format!("1 photo cannot be read\n  {}", desk.images[2])), "{gone}");
    let prepared = |views| desk.prepare(Some(SPLIT), views).err().unwrap().to_string();
    assert_eq!(prepared([Some(0), Some(0), None, None]), changed);
    assert_eq!(prepared([None, None, Some(0), None]), gone);
}
