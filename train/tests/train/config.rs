//! Valid configs resolve; invalid ones are refused with the key and the file.

mod overrides;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use headstock_heads::{HeadKind, Registry};
use headstock_loader::source::{OpenDataSource, SourceConfigError, SourceContext, resolve_path};
use headstock_loader::{DatasetError, SourceConfig, SourceRegistry};
use headstock_train::config::{Config, ConfigError, DataSourceConfig, Options, Registries, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn corpus(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(kind);
    let entries = fs::read_dir(folder).expect("the folder of configs");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 5, "{kind}");
    files
}

fn resolve(text: &str, overrides: &[&str]) -> Result<Settings, ConfigError> {
    let mut config = Config::parse(text, "headstock.toml", Path::new("/base"))?;
    config.set(overrides)?;
    config.resolve(&Registries::builtin())
}

fn error_of(outcome: Result<Settings, ConfigError>) -> String {
    outcome.err().expect("the config is refused").to_string()
}

const MINIMAL: &str = "version = 1\n[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

#[test]
fn valid_configs_resolve_to_settings_that_resolve_to_themselves() {
    for file in corpus("valid") {
        let settings =
            resolve(&fs::read_to_string(&file).unwrap(), &[]).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let again =
            resolve(&settings.to_options().to_toml(), &[]).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        assert_eq!(again.to_options(), settings.to_options(), "{file:?}");
        assert_eq!(again.source, settings.source, "{file:?}");
    }
}

#[test]
fn invalid_configs_are_refused_for_the_reason_in_their_first_line() {
    for file in corpus("invalid") {
        let text = fs::read_to_string(&file).unwrap();
        let reason = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
        let found = error_of(resolve(&text, &[]));
        assert!(found.contains(reason), "{file:?}\n expected: {reason}\n found:    {found}");
        assert!(found.contains("headstock.toml"), "{file:?}: the message does not name the file: {found}");
    }
}

#[test]
fn paths_are_relative_to_the_config() {
    let settings = resolve(MINIMAL, &["data.test_folder=more"]).unwrap();
    let options = settings.to_options();
    assert_eq!(options.data.source["folder"].as_str(), Some("/base/photos"));
    assert_eq!(options.data.source["test_folder"].as_str(), Some("/base/more"));
    assert_eq!(options.backbone.unwrap().weights, "/base/backbone");
    assert_eq!(options.features.cache, Path::new("/base/.headstock"));
}

#[test]
fn a_missing_config_is_an_error_of_its_own() {
    let error = Config::read(Path::new("/nowhere/headstock.toml")).unwrap_err();
    assert!(matches!(error, ConfigError::Missing(_)), "{error}");
}

const CSV: &str =
    "version = 1\n[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const COCO: &str =
    "version = 1\n[data]\ncoco = \"x.json\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const PARQUET: &str = "version = 1\n[data]\nparquet = \"x.parquet\"\n[backbone]\nweights = \"backbone\"\n";
const TAR: &str = "version = 1\n[data]\nwebdataset = \"x.tar\"\n[backbone]\nweights = \"backbone\"\n";
const FEATURES: &str = "version = 1\n[data]\nfeatures = \"x.npz\"\n";

/// The default of every key, with a config and overrides in which it is allowed; empty for a key without one.
#[rustfmt::skip]
const DEFAULTS: &[(&str, &str, &[&str], &str)] = &[
    ("version", MINIMAL, &[], "1"),
    ("calibration", MINIMAL, &[], "temperature"),
    ("data.folder", CSV, &[], ""),
    ("data.csv", MINIMAL, &[], ""),
    ("data.metadata", MINIMAL, &[], ""),
    ("data.coco", MINIMAL, &[], ""),
    ("data.test_coco", MINIMAL, &[], ""),
    ("data.split_folders", MINIMAL, &[], ""),
    ("data.label_pattern", MINIMAL, &[], ""),
    ("data.parquet", MINIMAL, &[], ""),
    ("data.webdataset", MINIMAL, &[], ""),
    ("data.images", MINIMAL, &[], ""),
    ("data.id", CSV, &[], "id"),
    ("data.image", PARQUET, &[], "image"),
    ("data.label", CSV, &[], "label"),
    ("data.label", PARQUET, &[], "label"),
    ("data.label", TAR, &[], "label"),
    ("data.label", COCO, &[], "name"),
    ("data.group", CSV, &[], ""),
    ("data.extension", CSV, &[], "\"\""),
    ("data.features", MINIMAL, &[], ""),
    ("data.test_folder", MINIMAL, &[], ""),
    ("data.test_parquet", PARQUET, &[], ""),
    ("data.test_webdataset", TAR, &[], ""),
    ("data.class_order", MINIMAL, &[], "sorted"),
    ("data.on_error", MINIMAL, &[], "stop"),
    ("data.min_samples", MINIMAL, &[], "0"),
    ("data.follow_links", MINIMAL, &[], "false"),
    ("data.max_pixels", MINIMAL, &[], "200_000_000"),
    ("data.decode", MINIMAL, &[], "exact"),
    ("data.truncated", MINIMAL, &[], "error"),
    ("data.color", MINIMAL, &[], "ignore"),
    ("data.gray16", MINIMAL, &[], "error"),
    ("split.method", MINIMAL, &[], "stratified-shuffle"),
    ("data.kind", MINIMAL, &[], ""),
    ("split.test_size", MINIMAL, &[], "0.1"),
    ("split.seed", MINIMAL, &[], "0"),
    ("split.folds", MINIMAL, &["split.method=stratified-k-fold"], ""),
    ("split.fold", MINIMAL, &["split.method=stratified-k-fold"], "0"),
    ("split.column", CSV, &[], ""),
    ("split.column", CSV, &["split.method=predefined"], "split"),
    ("split.group_duplicates", MINIMAL, &[], "false"),
    ("backbone.weights", FEATURES, &[], ""),
    ("backbone.layer", MINIMAL, &[], "avgpool"),
    ("backbone.device", MINIMAL, &[], "auto"),
    ("backbone.precision", MINIMAL, &[], "f32"),
    ("features.cache", MINIMAL, &[], ".headstock"),
    ("features.views", MINIMAL, &["augment.invert=1"], "0"),
    ("augment.random_resized_crop.scale", MINIMAL, &["augment.random_resized_crop={}"], "[0.08, 1.0]"),
    ("augment.random_resized_crop.ratio", MINIMAL, &["augment.random_resized_crop={}"], "[0.75, 1.3333333333333333]"),
    ("augment.horizontal_flip", MINIMAL, &[], ""),
    ("augment.rotation", MINIMAL, &[], ""),
    ("augment.vertical_flip", MINIMAL, &[], ""),
    ("augment.policy.kind", MINIMAL, &[], ""),
    ("augment.policy.rand-augment.num_ops", MINIMAL, &[], "2"),
    ("augment.policy.rand-augment.magnitude", MINIMAL, &[], "9"),
    ("augment.policy.rand-augment.num_magnitude_bins", MINIMAL, &[], "31"),
    ("augment.policy.rand-augment.interpolation", MINIMAL, &[], "nearest"),
    ("augment.policy.trivial-augment-wide.num_magnitude_bins", MINIMAL, &[], "31"),
    ("augment.policy.trivial-augment-wide.interpolation", MINIMAL, &[], "nearest"),
    ("augment.policy.aug-mix.severity", MINIMAL, &[], "3"),
    ("augment.policy.aug-mix.mixture_width", MINIMAL, &[], "3"),
    ("augment.policy.aug-mix.chain_depth", MINIMAL, &[], "-1"),
    ("augment.policy.aug-mix.alpha", MINIMAL, &[], "1.0"),
    ("augment.policy.aug-mix.all_ops", MINIMAL, &[], "true"),
    ("augment.policy.auto-augment.interpolation", MINIMAL, &[], "nearest"),
    ("augment.affine.degrees", MINIMAL, &[], ""),
    ("augment.affine.translate", MINIMAL, &["augment.affine={ degrees = 5 }"], ""),
    ("augment.affine.scale", MINIMAL, &["augment.affine={ degrees = 5 }"], ""),
    ("augment.affine.shear", MINIMAL, &["augment.affine={ degrees = 5 }"], ""),
    ("augment.affine.interpolation", MINIMAL, &["augment.affine={ degrees = 5 }"], "nearest"),
    ("augment.perspective.distortion_scale", MINIMAL, &["augment.perspective={}"], "0.5"),
    ("augment.perspective.p", MINIMAL, &["augment.perspective={}"], "0.5"),
    ("augment.perspective.interpolation", MINIMAL, &["augment.perspective={}"], "bilinear"),
    ("augment.color_jitter.brightness", MINIMAL, &["augment.color_jitter={ hue = 0.2 }"], ""),
    ("augment.color_jitter.contrast", MINIMAL, &["augment.color_jitter={ hue = 0.2 }"], ""),
    ("augment.color_jitter.saturation", MINIMAL, &["augment.color_jitter={ hue = 0.2 }"], ""),
    ("augment.color_jitter.hue", MINIMAL, &["augment.color_jitter={ contrast = 0.2 }"], ""),
    ("augment.grayscale", MINIMAL, &[], ""),
    ("augment.gaussian_blur.kernel_size", MINIMAL, &[], ""),
    ("augment.gaussian_blur.sigma", MINIMAL, &["augment.gaussian_blur={ kernel_size = 5 }"], "[0.1, 2.0]"),
    ("augment.gaussian_blur.p", MINIMAL, &["augment.gaussian_blur={ kernel_size = 5 }"], "1.0"),
    ("augment.sharpness.factor", MINIMAL, &[], ""),
    ("augment.sharpness.p", MINIMAL, &["augment.sharpness={ factor = 2 }"], "0.5"),
    ("augment.posterize.bits", MINIMAL, &[], ""),
    ("augment.posterize.p", MINIMAL, &["augment.posterize={ bits = 4 }"], "0.5"),
    ("augment.solarize.threshold", MINIMAL, &[], ""),
    ("augment.solarize.p", MINIMAL, &["augment.solarize={ threshold = 99 }"], "0.5"),
    ("augment.equalize", MINIMAL, &[], ""),
    ("augment.autocontrast", MINIMAL, &[], ""),
    ("augment.invert", MINIMAL, &[], ""),
    ("augment.erasing.p", MINIMAL, &["augment.erasing={}"], "0.5"),
    ("augment.erasing.scale", MINIMAL, &["augment.erasing={}"], "[0.02, 0.33]"),
    ("augment.erasing.ratio", MINIMAL, &["augment.erasing={}"], "[0.3, 3.3]"),
    ("augment.erasing.value", MINIMAL, &["augment.erasing={}"], "0.0"),
    ("augment.seed", MINIMAL, &[], "0"),
    ("tune.from", MINIMAL, &[], "head"),
    ("tune.head_init", MINIMAL, TUNED, "fitted"),
    ("tune.epochs", MINIMAL, TUNED, "6"),
    ("tune.batch_size", MINIMAL, TUNED, "16"),
    ("tune.grad_accum_steps", MINIMAL, TUNED, "1"),
    ("tune.optimizer", MINIMAL, TUNED, "sgd"),
    ("tune.lr", MINIMAL, TUNED, "0.01"),
    ("tune.lr", MINIMAL, &["tune.from=layer4", "tune.optimizer=adamw"], "0.001"),
    ("tune.backbone_lr", MINIMAL, TUNED, "0.001"),
    ("tune.layer_decay", MINIMAL, TUNED, "1.0"),
    ("tune.momentum", MINIMAL, TUNED, "0.9"),
    ("tune.nesterov", MINIMAL, TUNED, "false"),
    ("tune.weight_decay", MINIMAL, TUNED, "0.0001"),
    ("tune.schedule", MINIMAL, TUNED, "cosine"),
    ("tune.warmup_epochs", MINIMAL, TUNED, "0.0"),
    ("tune.step_epochs", MINIMAL, TUNED, "2"),
    ("tune.step_gamma", MINIMAL, TUNED, "0.1"),
    ("tune.label_smoothing", MINIMAL, TUNED, "0.1"),
    ("tune.class_weight", MINIMAL, TUNED, "none"),
    ("tune.mixup", MINIMAL, TUNED, "0.0"),
    ("tune.cutmix", MINIMAL, TUNED, "0.0"),
    ("tune.clip_grad_norm", MINIMAL, TUNED, ""),
    ("tune.ema_decay", MINIMAL, TUNED, ""),
    ("tune.batch_norm", MINIMAL, TUNED, "frozen"),
    ("tune.unfreeze_epochs", MINIMAL, TUNED, ""),
    ("tune.augment", MINIMAL, TUNED, "cached"),
    ("tune.cache_dtype", MINIMAL, TUNED, "f16"),
    ("tune.cache_gb", MINIMAL, TUNED, "50.0"),
    ("tune.validation", MINIMAL, TUNED, "0.1"),
    ("tune.patience", MINIMAL, TUNED, ""),
    ("tune.seed", MINIMAL, TUNED, "0"),
];
const TUNED: &[&str] = &["tune.from=layer4"];

// effect: version
#[test]
fn omitted_keys_have_the_defaults_of_the_table() {
    for &(key, config, overrides, value) in DEFAULTS {
        let mut assignments = overrides.to_vec();
        let policy = key.strip_prefix("augment.policy.").and_then(|rest| rest.split_once('.'));
        let policy_override =
            policy.map_or(String::new(), |(kind, _)| format!("augment.policy={{ kind = \"{kind}\" }}"));
        assignments.extend((!policy_override.is_empty()).then_some(policy_override.as_str()));
        let path = policy.map_or(key.to_owned(), |(_, key)| format!("augment.policy.{key}"));
        let default_options =
            resolve(config, &assignments).unwrap_or_else(|error| panic!("{key}: {error}")).to_options();
        let written = toml::Value::try_from(&default_options).unwrap();
        let found = path.split('.').try_fold(&written, |value, part| value.get(part));
        if key == "version" {
            assert_eq!(found.and_then(toml::Value::as_integer), Some(1));
        } else if value.is_empty() {
            assert!(found.is_none(), "{key} is {found:?}");
        } else {
            let set = format!("{path}={value}");
            let given = resolve(config, &[assignments.as_slice(), &[&set]].concat());
            assert_eq!(
                default_options,
                given.unwrap_or_else(|error| panic!("{set}: {error}")).to_options(),
                "{set}"
            );
        }
    }
    let named: BTreeSet<String> = DEFAULTS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(named, headstock_train::config::known_keys().into_iter().collect());
}

// effect: head.kind
#[test]
fn a_config_that_names_no_head_means_linear_and_every_head_can_be_named() {
    assert_eq!(resolve(MINIMAL, &[]).unwrap().head.kind(), "linear");
    let kinds: Vec<&str> = Registry::builtin().iter().map(HeadKind::name).collect();
    assert_eq!(kinds, ["cosine", "knn", "lda", "linear", "mlp", "nearest-mean", "ridge", "svm"]);
    for kind in kinds {
        let settings = resolve(MINIMAL, &[&format!("head.kind={kind}")]).unwrap();
        assert_eq!(settings.head.kind(), kind);
        assert_eq!(settings.to_options().head["kind"].as_str(), Some(kind));
    }
}

#[test]
fn every_value_name_parses_to_its_variant() {
    use headstock_backbone::{DeviceChoice, FeatureLayer, Precision};
    use headstock_heads::CalibrationMethod;
    use headstock_loader::{ClassOrder, ColorProfiles, DecodeMode, Gray16, TruncatedFiles};
    use headstock_split::TestSize;
    use headstock_train::config::{OnError, SplitMethod};
    let options = |set: &str| resolve(CSV, &["data.group=dog", set]).unwrap().to_options();
    for (name, method) in [
        ("stratified-shuffle", SplitMethod::StratifiedShuffle),
        ("stratified-k-fold", SplitMethod::StratifiedKFold),
        ("group", SplitMethod::Group),
        ("predefined", SplitMethod::Predefined),
        ("hash", SplitMethod::Hash),
    ] {
        assert_eq!(options(&format!("split.method={name}")).split.method, method);
    }
    for (text, size) in [("0.25", TestSize::Fraction(0.25)), ("12", TestSize::Count(12))] {
        assert_eq!(options(&format!("split.test_size={text}")).split.test_size, size);
    }
    for (name, method) in [
        ("none", CalibrationMethod::None),
        ("temperature", CalibrationMethod::Temperature),
        ("isotonic", CalibrationMethod::Isotonic),
        ("platt", CalibrationMethod::Platt),
    ] {
        assert_eq!(options(&format!("calibration={name}")).calibration, method);
    }
    let backbone = |set: &str| options(set).backbone.unwrap();
    for (name, layer) in [
        ("stem", FeatureLayer::Stem),
        ("layer1", FeatureLayer::Layer1),
        ("layer2", FeatureLayer::Layer2),
        ("layer3", FeatureLayer::Layer3),
        ("layer4", FeatureLayer::Layer4),
        ("avgpool", FeatureLayer::Avgpool),
    ] {
        assert_eq!(backbone(&format!("backbone.layer={name}")).layer, layer);
    }
    for (name, device) in
        [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda", DeviceChoice::Cuda(0))]
    {
        assert_eq!(backbone(&format!("backbone.device={name}")).device, device);
    }
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        assert_eq!(backbone(&format!("backbone.precision={name}")).precision, precision);
    }
    assert_eq!(options("data.class_order=sorted").data.class_order, ClassOrder::Sorted);
    assert_eq!(options("data.class_order=appearance").data.class_order, ClassOrder::Appearance);
    assert_eq!(options("data.on_error=stop").data.on_error, OnError::Stop);
    assert_eq!(options("data.on_error=skip").data.on_error, OnError::Skip);
    assert_eq!(options("data.decode=exact").data.decode, DecodeMode::Exact);
    assert_eq!(options("data.decode=scaled").data.decode, DecodeMode::Scaled);
    assert_eq!(options("data.truncated=error").data.truncated, TruncatedFiles::Error);
    assert_eq!(options("data.truncated=accept").data.truncated, TruncatedFiles::Accept);
    assert_eq!(options("data.color=ignore").data.color, ColorProfiles::Ignore);
    assert_eq!(options("data.color=srgb").data.color, ColorProfiles::Srgb);
    assert_eq!(options("data.gray16=error").data.gray16, Gray16::Error);
    assert_eq!(options("data.gray16=scale").data.gray16, Gray16::Scale);
    assert_eq!(options("data.gray16=clip").data.gray16, Gray16::Clip);
}

#[test]
fn keys_of_another_kind_of_data_and_values_out_of_range_are_refused() {
    let csv_only = "needs `data.csv`: set it, or remove this key";
    let tables_only = "needs `data.csv`, `data.metadata`, `data.coco`, `data.parquet` or `data.webdataset`: set one of them, or remove";
    for (config, set, reason) in [
        (MINIMAL, "data.images=x", "needs `data.csv` or `data.coco`: set one of them"),
        (MINIMAL, "data.id=x", csv_only),
        (PARQUET, "data.extension=x", csv_only),
        (TAR, "data.id=x", csv_only),
        (FEATURES, "data.id=x", csv_only),
        (CSV, "data.test_coco=x", "`data.test_coco` needs `data.coco`"),
        (MINIMAL, "data.label=x", tables_only),
        (FEATURES, "data.label=x", tables_only),
        (FEATURES, "data.group=x", tables_only),
        (CSV, "data.image=x", "`data.image` needs `data.parquet` or `data.webdataset`"),
        (PARQUET, "data.test_folder=x", "`data.test_folder` needs `data.folder`"),
        (FEATURES, "data.test_folder=x", "`data.test_folder` needs `data.folder`"),
        (TAR, "data.test_parquet=x", "`data.test_parquet` needs `data.parquet`"),
        (PARQUET, "data.test_webdataset=x", "`data.test_webdataset` needs `data.webdataset`"),
        (CSV, "data.test_webdataset=x", "`data.test_webdataset` needs `data.webdataset`"),
        (MINIMAL, "data.parquet=x", "`data` must have exactly one of"),
        (CSV, "data.webdataset=x", "`data` must have exactly one of"),
        (PARQUET, "data.features=x.npz", "`data` must have exactly one of"),
        (FEATURES, "data.folder=x", "`data` must have exactly one of"),
        (TAR, "data.webdataset=hf://datasets/a/b", "`data.webdataset` is hf://datasets/a/b: only Parquet"),
        (
            TAR,
            "data.test_webdataset=hf://datasets/a/b",
            "only Parquet data sets of the Hugging Face hub are supported",
        ),
        (
            PARQUET,
            "data.parquet=hf://a/b",
            "`data.parquet` is hf://a/b: only Parquet data sets of the Hugging Face hub are supported",
        ),
        (PARQUET, "data.test_parquet=hf://a/b", "`data.test_parquet` is hf://a/b: only Parquet"),
        (MINIMAL, "data.max_pixels=0", "`data.max_pixels` is 0"),
        (MINIMAL, "data.max_pixels=-1", "data.max_pixels"),
        (MINIMAL, "data.class_order=size", "unknown variant `size`"),
        (MINIMAL, "data.on_error=go", "unknown variant `go`"),
        (MINIMAL, "data.decode=fast", "unknown variant `fast`"),
        (MINIMAL, "calibration=some", "unknown variant `some`"),
        (MINIMAL, "split.seed=-1", "split.seed"),
        (MINIMAL, "split.group_duplicates=1", "split.group_duplicates"),
        (MINIMAL, "backbone.precision=f16", "unknown variant `f16`"),
        (MINIMAL, "features.views=1", "[augment] is empty"),
        (MINIMAL, "features.views=1001", "`features.views` is 1001"),
        (MINIMAL, "features.views=-1", "features.views"),
        (FEATURES, "features.views=1", "`features.views` needs photos"),
        (FEATURES, "backbone.weights=x", "`backbone` does nothing with `data.features`"),
        (FEATURES, "split.group_duplicates=true", "`split.group_duplicates` needs photos"),
        (FEATURES, "split.method=predefined", "`data.features` has no split column"),
        (PARQUET, "split.method=group", "`data.group` is missing"),
        (MINIMAL, "data.test_folder=", "`data.test_folder` is empty"),
        (CSV, "data.csv=", "`data.csv` is empty"),
        (CSV, "data.images=", "`data.images` is empty"),
        (PARQUET, "data.parquet=", "`data.parquet` is empty"),
        (TAR, "data.webdataset=", "`data.webdataset` is empty"),
        (FEATURES, "data.features=", "`data.features` is empty"),
        (MINIMAL, "backbone.weights=", "`backbone.weights` is empty"),
        (MINIMAL, "features.cache=", "`features.cache` is empty"),
    ] {
        let found = error_of(resolve(config, &[set]));
        assert!(found.contains(reason), "{set}: {found}");
    }
    // The limits are valid.
    resolve(MINIMAL, &["features.views=1000", "augment.invert=1"]).unwrap();
    resolve(MINIMAL, &["data.max_pixels=1"]).unwrap();
    resolve(PARQUET, &["data.parquet=hf://datasets/a/b", "data.test_parquet=hf://datasets/a/c"]).unwrap();
}

// effect: data.kind
#[test]
fn a_kind_names_the_data_source() {
    let source = |settings: Settings| match settings.source {
        DataSourceConfig::Images(source) => source.kind(),
        DataSourceConfig::Features(_) => "features",
    };
    assert_eq!(source(resolve(CSV, &["data.kind=csv"]).unwrap()), "csv");
    for (config, set, reason) in [
        (MINIMAL, "data.kind=csv", "`data` must have exactly one of `folder`, `csv`, `metadata`"),
        (FEATURES, "data.kind=csv", "`data` must have exactly one of"),
        (MINIMAL, "data.kind=cvs", "there is no data source `cvs`: choose one of folder, csv, metadata"),
    ] {
        let found = error_of(resolve(config, &[set]));
        assert!(found.contains(reason), "{set}: {found}");
    }
    // A source that a program adds.
    let mut config = Config::parse(MINIMAL, "headstock.toml", Path::new("/base")).unwrap();
    config.set(&["data={ kind = 'listed', list = 'x.txt' }"]).unwrap();
    let sources = SourceRegistry::builtin().with::<ListedConfig>().unwrap();
    let settings = config.resolve(&Registries { heads: Registry::builtin(), sources }).unwrap();
    assert!(settings.to_options().to_toml().contains("kind = \"listed\"\nlist = \"/base/x.txt\"\n"));
    assert_eq!(source(settings), "listed");
}

/// The keys of a data source that is not built in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListedConfig {
    /// The file.
    list: PathBuf,
}

impl SourceConfig for ListedConfig {
    const KIND: &'static str = "listed";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("list", &mut self.list, base)
    }

    fn open(&self, _: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        unreachable!("the source is only configured")
    }
}

#[test]
fn relative_paths_resolve_from_the_config_and_absolute_ones_stay() {
    let options = |text: &str, set: &[&str]| resolve(text, set).unwrap().to_options();
    let csv = options(CSV, &[]);
    let value = |options: &Options, key: &str| options.data.source[key].as_str().unwrap().to_owned();
    assert_eq!(value(&csv, "csv"), "/base/x.csv");
    assert_eq!(value(&csv, "images"), "/base/photos");
    let parquet = options(PARQUET, &["data.test_parquet=test/*.parquet"]);
    assert_eq!(value(&parquet, "parquet"), "/base/x.parquet");
    assert_eq!(value(&parquet, "test_parquet"), "/base/test/*.parquet");
    let tar = options(TAR, &["data.test_webdataset=/else/{0..9}.tar"]);
    assert_eq!(value(&tar, "webdataset"), "/base/x.tar");
    assert_eq!(value(&tar, "test_webdataset"), "/else/{0..9}.tar");
    assert_eq!(options(FEATURES, &[]).data.features.unwrap(), Path::new("/base/x.npz"));
    let absolute = options(MINIMAL, &["data.folder=/photos", "features.cache=/cache", "backbone.weights=/w"]);
    assert_eq!(value(&absolute, "folder"), "/photos");
    assert_eq!(absolute.features.cache, Path::new("/cache"));
    assert_eq!(absolute.backbone.unwrap().weights, "/w");
    let hub = options(MINIMAL, &["backbone.weights=hf://timm/resnet50.a1_in1k"]);
    assert_eq!(hub.backbone.unwrap().weights, "hf://timm/resnet50.a1_in1k");
    let hub = options(PARQUET, &["data.parquet=hf://datasets/a/b"]);
    assert_eq!(value(&hub, "parquet"), "hf://datasets/a/b");
}

#[test]
fn a_backbone_may_be_missing_where_only_images_are_read() {
    let text = "version = 1\n[data]\nfolder = \"photos\"\n";
    let config = || Config::parse(text, "headstock.toml", Path::new("/base")).unwrap();
    let settings = config().resolve_images_only(&Registries::builtin()).unwrap();
    assert!(settings.backbone.is_none());
    let found = error_of(config().resolve(&Registries::builtin()));
    assert!(found.contains("`backbone.weights` is missing"), "{found}");
}

#[test]
fn freezing_the_backbone_removes_the_tune_settings() {
    let tuned = resolve(MINIMAL, &["tune.from=layer4", "tune.epochs=2"]).unwrap();
    assert_eq!(tuned.with_frozen_backbone().to_options(), resolve(MINIMAL, &[]).unwrap().to_options());
    // Unused settings are checked but not stored.
    assert_eq!(
        resolve(MINIMAL, &["tune.epochs=2"]).unwrap().to_options(),
        resolve(MINIMAL, &[]).unwrap().to_options()
    );
    // The same settings with another head.
    let heads = Registry::builtin();
    let settings = resolve(MINIMAL, &["split.seed=3"]).unwrap();
    let table = toml::Table::from_iter([("k".to_owned(), toml::Value::Integer(3))]);
    let source = settings.source.clone();
    let other = settings.with_head("knn", &table, &heads).unwrap();
    assert_eq!(
        other.to_options(),
        resolve(MINIMAL, &["split.seed=3", "head.kind=knn", "head.k=3"]).unwrap().to_options()
    );
    assert_eq!((other.head.kind(), other.source), ("knn", source));
}
