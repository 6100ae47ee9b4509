//! What the cache key of a feature vector depends on.

use std::collections::BTreeSet;
use std::fs;

use headstock_backbone::{Preprocessing, Resampling, Resize, WeightsSource};
use headstock_heads::{Registry, Tensors};
use headstock_inference::BackboneOptions;
use headstock_loader::PixelChanges;

use super::*;
use crate::config;

/// How another value of a config key affects cached features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheEffect {
    /// All features are recomputed.
    All,
    /// Features of augmented views are recomputed.
    Views,
    /// Cached features stay valid.
    Same,
}
use CacheEffect::{All, Same, Views};

const FOLDER: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const CSV: &str = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const METADATA: &str = "[data]\nmetadata = \"x\"\n[backbone]\nweights = \"backbone\"\n";
const COCO: &str = "[data]\ncoco = \"x.json\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const PARQUET: &str = "[data]\nparquet = \"x\"\n[backbone]\nweights = \"backbone\"\n";
const TAR: &str = "[data]\nwebdataset = \"x\"\n[backbone]\nweights = \"backbone\"\n";
const FEATURES: &str = "[data]\nfeatures = \"x.npz\"\n";

/// Every config key outside `[head]`: a config in which it applies, other keys it needs, another value, and
/// the effect.
#[rustfmt::skip]
const KEY_EFFECTS: &[(&str, &str, &[&str], &str, CacheEffect)] = &[
    ("calibration", FOLDER, &[], "none", Same),
    ("data.kind", FOLDER, &[], "folder", Same),
    ("data.folder", FOLDER, &[], "others", Same),
    ("data.csv", CSV, &[], "y.csv", Same),
    ("data.metadata", METADATA, &[], "y", Same),
    ("data.coco", COCO, &[], "y.json", Same),
    ("data.test_coco", COCO, &[], "test.json", Same),
    ("data.parquet", PARQUET, &[], "y", Same),
    ("data.webdataset", TAR, &[], "y", Same),
    ("data.images", CSV, &[], "others", Same),
    ("data.id", CSV, &[], "file", Same),
    ("data.image", PARQUET, &[], "picture", Same),
    ("data.label", CSV, &[], "breed", Same),
    ("data.group", CSV, &[], "dog", Same),
    ("data.extension", CSV, &[], "jpg", Same),
    ("data.features", FEATURES, &[], "y.npz", Same),
    ("data.test_folder", FOLDER, &[], "test", Same),
    ("data.split_folders", FOLDER, &[], "false", Same),
    ("data.label_pattern", FOLDER, &[], "(.)", Same),
    ("data.test_parquet", PARQUET, &[], "test", Same),
    ("data.test_webdataset", TAR, &[], "test", Same),
    ("data.class_order", FOLDER, &[], "appearance", Same),
    ("data.on_error", FOLDER, &[], "skip", Same),
    ("data.min_samples", FOLDER, &[], "2", Same),
    ("data.follow_links", FOLDER, &[], "true", Same),
    // It only rejects images.
    ("data.max_pixels", FOLDER, &[], "1000", Same),
    ("data.decode", FOLDER, &[], "scaled", All),
    // They change the keys of the images whose pixels they change.
    ("data.truncated", FOLDER, &[], "accept", Same),
    ("data.color", FOLDER, &[], "srgb", Same),
    ("data.gray16", FOLDER, &[], "scale", Same),
    ("split.method", FOLDER, &[], "hash", Same),
    ("split.test_size", FOLDER, &[], "0.3", Same),
    ("split.seed", FOLDER, &[], "1", Same),
    ("split.folds", FOLDER, &["split.method=stratified-k-fold"], "3", Same),
    ("split.fold", FOLDER, &["split.method=stratified-k-fold"], "3", Same),
    ("split.column", CSV, &["split.method=predefined"], "use", Same),
    ("split.group_duplicates", FOLDER, &[], "true", Same),
    // The bytes of the weights matter, not their path.
    ("backbone.weights", FOLDER, &[], "elsewhere", Same),
    ("backbone.layer", FOLDER, &[], "layer1", All),
    ("backbone.device", FOLDER, &[], "cpu", Same),
    ("backbone.precision", FOLDER, &[], "bf16", All),
    ("features.cache", FOLDER, &[], "elsewhere", Same),
    ("features.views", FOLDER, &["augment.invert=1"], "2", Same),
    ("augment.random_resized_crop.scale", FOLDER, &["augment.random_resized_crop={}"], "[0.5, 1]", Views),
    ("augment.random_resized_crop.ratio", FOLDER, &["augment.random_resized_crop={}"], "[0.5, 1]", Views),
    ("augment.horizontal_flip", FOLDER, &[], "0.5", Views),
    ("augment.rotation", FOLDER, &[], "9", Views),
    ("augment.vertical_flip", FOLDER, &[], "0.5", Views),
    ("augment.policy.kind", FOLDER, &["augment.policy={ kind = 'rand-augment' }"], "aug-mix", Views),
    ("augment.policy.rand-augment.num_ops", FOLDER, &[], "3", Views),
    ("augment.policy.rand-augment.magnitude", FOLDER, &[], "3", Views),
    ("augment.policy.rand-augment.num_magnitude_bins", FOLDER, &[], "20", Views),
    ("augment.policy.rand-augment.interpolation", FOLDER, &[], "bilinear", Views),
    ("augment.policy.trivial-augment-wide.num_magnitude_bins", FOLDER, &[], "20", Views),
    ("augment.policy.trivial-augment-wide.interpolation", FOLDER, &[], "bilinear", Views),
    ("augment.policy.aug-mix.severity", FOLDER, &[], "5", Views),
    ("augment.policy.aug-mix.mixture_width", FOLDER, &[], "2", Views),
    ("augment.policy.aug-mix.chain_depth", FOLDER, &[], "2", Views),
    ("augment.policy.aug-mix.alpha", FOLDER, &[], "0.5", Views),
    ("augment.policy.aug-mix.all_ops", FOLDER, &[], "false", Views),
    ("augment.policy.auto-augment.interpolation", FOLDER, &[], "bilinear", Views),
    ("augment.affine.degrees", FOLDER, &["augment.affine={ degrees = 5 }"], "9", Views),
    ("augment.affine.translate", FOLDER, &["augment.affine={ degrees = 5 }"], "[0.1, 0.1]", Views),
    ("augment.affine.scale", FOLDER, &["augment.affine={ degrees = 5 }"], "[0.5, 1]", Views),
    ("augment.affine.shear", FOLDER, &["augment.affine={ degrees = 5 }"], "9", Views),
    ("augment.affine.interpolation", FOLDER, &["augment.affine={ degrees = 5 }"], "bilinear", Views),
    ("augment.perspective.distortion_scale", FOLDER, &["augment.perspective={}"], "0.3", Views),
    ("augment.perspective.p", FOLDER, &["augment.perspective={}"], "0.3", Views),
    ("augment.perspective.interpolation", FOLDER, &["augment.perspective={}"], "nearest", Views),
    ("augment.color_jitter.brightness", FOLDER, &["augment.color_jitter={ hue = 0.2 }"], "0.1", Views),
    ("augment.color_jitter.contrast", FOLDER, &["augment.color_jitter={ hue = 0.2 }"], "0.1", Views),
    ("augment.color_jitter.saturation", FOLDER, &["augment.color_jitter={ hue = 0.2 }"], "0.1", Views),
    ("augment.color_jitter.hue", FOLDER, &["augment.color_jitter={ hue = 0.2 }"], "0.1", Views),
    ("augment.grayscale", FOLDER, &[], "0.5", Views),
    ("augment.gaussian_blur.kernel_size", FOLDER, &["augment.gaussian_blur={ kernel_size = 5 }"], "7", Views),
    ("augment.gaussian_blur.sigma", FOLDER, &["augment.gaussian_blur={ kernel_size = 5 }"], "3", Views),
    ("augment.gaussian_blur.p", FOLDER, &["augment.gaussian_blur={ kernel_size = 5 }"], "0.3", Views),
    ("augment.sharpness.factor", FOLDER, &["augment.sharpness={ factor = 2 }"], "3", Views),
    ("augment.sharpness.p", FOLDER, &["augment.sharpness={ factor = 2 }"], "0.3", Views),
    ("augment.posterize.bits", FOLDER, &["augment.posterize={ bits = 4 }"], "3", Views),
    ("augment.posterize.p", FOLDER, &["augment.posterize={ bits = 4 }"], "0.3", Views),
    ("augment.solarize.threshold", FOLDER, &["augment.solarize={ threshold = 99 }"], "98", Views),
    ("augment.solarize.p", FOLDER, &["augment.solarize={ threshold = 99 }"], "0.3", Views),
    ("augment.equalize", FOLDER, &[], "0.5", Views),
    ("augment.autocontrast", FOLDER, &[], "0.5", Views),
    ("augment.invert", FOLDER, &[], "0.5", Views),
    ("augment.erasing.p", FOLDER, &["augment.erasing={}"], "0.3", Views),
    ("augment.erasing.scale", FOLDER, &["augment.erasing={}"], "[0.1, 0.2]", Views),
    ("augment.erasing.ratio", FOLDER, &["augment.erasing={}"], "[0.5, 1]", Views),
    ("augment.erasing.value", FOLDER, &["augment.erasing={}"], "random", Views),
    ("augment.seed", FOLDER, &[], "1", Views),
    ("tune.from", FOLDER, &[], "layer4", Same),
    ("tune.head_init", FOLDER, WITH_TUNING, "random", Same),
    ("tune.epochs", FOLDER, WITH_TUNING, "2", Same),
    ("tune.batch_size", FOLDER, WITH_TUNING, "2", Same),
    ("tune.grad_accum_steps", FOLDER, WITH_TUNING, "2", Same),
    ("tune.optimizer", FOLDER, WITH_TUNING, "adamw", Same),
    ("tune.lr", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.backbone_lr", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.layer_decay", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.momentum", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.nesterov", FOLDER, WITH_TUNING, "true", Same),
    ("tune.weight_decay", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.schedule", FOLDER, WITH_TUNING, "step", Same),
    ("tune.warmup_epochs", FOLDER, WITH_TUNING, "1", Same),
    ("tune.step_epochs", FOLDER, WITH_TUNING, "1", Same),
    ("tune.step_gamma", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.label_smoothing", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.class_weight", FOLDER, WITH_TUNING, "balanced", Same),
    ("tune.mixup", FOLDER, WITH_TUNING, "1", Same),
    ("tune.cutmix", FOLDER, WITH_TUNING, "1", Same),
    ("tune.clip_grad_norm", FOLDER, WITH_TUNING, "1", Same),
    ("tune.ema_decay", FOLDER, WITH_TUNING, "0.9", Same),
    ("tune.batch_norm", FOLDER, WITH_TUNING, "train", Same),
    ("tune.unfreeze_epochs", FOLDER, WITH_TUNING, "1", Same),
    ("tune.augment", FOLDER, &["tune.from=layer4", "augment.invert=1"], "per-epoch", Same),
    ("tune.cache_dtype", FOLDER, WITH_TUNING, "bf16", Same),
    ("tune.cache_gb", FOLDER, WITH_TUNING, "1", Same),
    ("tune.validation", FOLDER, WITH_TUNING, "0.5", Same),
    ("tune.patience", FOLDER, WITH_TUNING, "1", Same),
    ("tune.seed", FOLDER, WITH_TUNING, "1", Same),
];
const WITH_TUNING: &[&str] = &["tune.from=layer4"];

/// Cache keys of the evaluation view and of two augmented views of two images.
fn cache_keys(pretrained: &PretrainedBackbone, options: &Settings) -> ([CacheKey; 2], [CacheKey; 4]) {
    let keys = CacheKeyBuilder::new(
        &[CACHE_FORMAT],
        pretrained,
        pretrained.options.layer,
        options.extract_options(),
    );
    let key = |image: u8, view| {
        keys.key(&ImageHash { bytes: [image; 32], pixel_changes: PixelChanges::default() }, view)
    };
    ([key(1, 0), key(2, 0)], [key(1, 1), key(2, 1), key(1, 2), key(2, 2)])
}

/// The effect of a change of options on the cache keys.
fn cache_effect(pretrained: &mut PretrainedBackbone, before: &Settings, after: &Settings) -> CacheEffect {
    let mut keys = |options: &Settings| {
        // Precomputed features have no backbone.
        if let Some(backbone) = &options.backbone {
            pretrained.options = backbone.clone();
        }
        cache_keys(pretrained, options)
    };
    let (before, after) = (keys(before), keys(after));
    let differ = |before: &[CacheKey], after: &[CacheKey]| {
        let n_different = before.iter().zip(after).filter(|(a, b)| a != b).count();
        assert!(n_different == 0 || n_different == before.len(), "{n_different} of {}", before.len());
        n_different > 0
    };
    match (differ(&before.0, &after.0), differ(&before.1, &after.1)) {
        (true, true) => All,
        (false, true) => Views,
        (false, false) => Same,
        (true, false) => panic!("only the evaluation view is recomputed"),
    }
}

// effect: backbone.device, backbone.weights, features.cache
#[test]
fn every_config_key_has_the_listed_effect_on_cached_features() {
    let folder = TestFolder::new();
    let mut pretrained = pretrained(&folder.settings(FOLDER, &[] as &[&str]));
    for &(key, config, required, value, expected) in KEY_EFFECTS {
        // All policy kinds share one table of keys.
        let mut required = required.to_vec();
        let (path, kind) = match key.strip_prefix("augment.policy.").and_then(|rest| rest.split_once('.')) {
            Some((kind, key)) => {
                (format!("augment.policy.{key}"), format!("augment.policy={{ kind = \"{kind}\" }}"))
            }
            None => (key.to_owned(), String::new()),
        };
        required.extend((!kind.is_empty()).then_some(kind.as_str()));
        let before = folder.settings(config, &required);
        let set = format!("{path}={value}");
        let after = folder.settings(config, &[required.as_slice(), &[&set]].concat());
        if key != "data.kind" {
            assert_ne!(before.to_options(), after.to_options(), "{key}");
        }
        assert_eq!(cache_effect(&mut pretrained, &before, &after), expected, "{key}");
    }
    let named: BTreeSet<&str> = KEY_EFFECTS.iter().map(|(key, ..)| *key).collect();
    assert_eq!(named.len(), KEY_EFFECTS.len(), "a key is listed twice");
    let known = config::known_keys();
    // `version` has a single valid value.
    let known: BTreeSet<&str> = known.iter().map(String::as_str).filter(|key| *key != "version").collect();
    assert_eq!(named, known);
}

// effect: head.kind
#[test]
fn head_settings_do_not_affect_cached_features() {
    let folder = TestFolder::new();
    let before = folder.settings(FOLDER, &[] as &[&str]);
    let mut pretrained = pretrained(&before);
    for kind in Registry::builtin().iter() {
        let after = folder.settings(FOLDER, &[format!("head.kind={}", kind.name())]);
        assert_eq!(cache_effect(&mut pretrained, &before, &after), Same, "{}", kind.name());
    }
}

#[test]
fn every_image_view_layer_and_precision_has_its_own_key() {
    let folder = TestFolder::new();
    let mut keys = BTreeSet::new();
    let mut count = 0;
    for layer in FeatureLayer::ALL {
        for precision in [Precision::F32, Precision::Bf16] {
            for decode in ["exact", "scaled"] {
                let mut options = folder.settings(FOLDER, &[format!("data.decode={decode}")]);
                options.backbone =
                    options.backbone.map(|backbone| BackboneOptions { layer, precision, ..backbone });
                let (eval, augmented) = cache_keys(&pretrained(&options), &options);
                count += eval.len() + augmented.len();
                keys.extend(eval.into_iter().chain(augmented));
            }
        }
    }
    assert_eq!((keys.len(), count), (6 * 2 * 2 * 6, 6 * 2 * 2 * 6));
    // The device does not change features.
    let options = folder.settings(FOLDER, &["data.decode=scaled", "backbone.device=cuda:3"]);
    assert!(keys.contains(&cache_keys(&pretrained(&options), &options).0[0]));
}

#[test]
fn each_field_of_the_preprocessing_changes_the_keys() {
    let options = TestFolder::new().settings(FOLDER, &[] as &[&str]);
    let backbone = options.backbone.clone().unwrap();
    let variants = [
        small_preprocessing(),
        Preprocessing { resize: 37.into(), ..small_preprocessing() },
        Preprocessing { resize: Resize::BothSides([36, 36]), ..small_preprocessing() },
        Preprocessing { resize: Resize::BothSides([36, 37]), ..small_preprocessing() },
        Preprocessing { crop: [33, 32], ..small_preprocessing() },
        Preprocessing { crop: [32, 33], ..small_preprocessing() },
        Preprocessing { interpolation: Resampling::Bicubic, ..small_preprocessing() },
        Preprocessing { mean: [0.0, 0.0, 0.001], ..small_preprocessing() },
        Preprocessing { std: [1.0, 0.999, 1.0], ..small_preprocessing() },
    ];
    let keys = variants.map(|preprocessing| {
        let checkpoint = Checkpoint::open_with(&bundled_weights(), Some(&preprocessing)).unwrap();
        cache_keys(&PretrainedBackbone::from_checkpoint(checkpoint, backbone.clone()), &options)
    });
    let eval: BTreeSet<CacheKey> = keys.iter().map(|(eval, _)| eval[0]).collect();
    let augmented: BTreeSet<CacheKey> = keys.iter().map(|(_, augmented)| augmented[0]).collect();
    assert_eq!((eval.len(), augmented.len()), (9, 9));
}

// effect: backbone.weights
#[test]
fn the_bytes_of_the_weights_matter_and_not_their_path() {
    let folder = TestFolder::new();
    folder.write_backbone("one");
    let mut bytes = fs::read(bundled_weights().weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    folder.write("other/model.safetensors", bytes);
    fs::copy(folder.path("one/config.json"), folder.path("other/config.json")).unwrap();
    let keys = |weights: &str| {
        let options = folder.settings(FOLDER, &[format!("backbone.weights={weights}")]);
        let pretrained = PretrainedBackbone::open(options.backbone.as_ref().unwrap(), &()).unwrap();
        assert_eq!(pretrained.checkpoint().preprocessing(), &small_preprocessing());
        cache_keys(&pretrained, &options)
    };
    let (one, file, other) = (keys("one"), keys("one/model.safetensors"), keys("other"));
    assert_eq!(one, file);
    assert!(one.0[0] != other.0[0] && one.1[0] != other.1[0]);
    // Fine-tuned tensors change the key.
    let files = WeightsSource::parse("one", &folder.path("")).unwrap().fetch(&()).unwrap();
    let options = folder.settings(FOLDER, &[] as &[&str]);
    let backbone = options.backbone.clone().unwrap();
    let pretrained = PretrainedBackbone::from_checkpoint(Checkpoint::open(&files).unwrap(), backbone);
    let bias = candle_core::Tensor::zeros(64, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let tuned = pretrained.with_tensors(&Tensors::from([("bn1.bias".to_owned(), bias)])).unwrap();
    assert_ne!(cache_keys(&tuned, &options).0[0], one.0[0]);
}
