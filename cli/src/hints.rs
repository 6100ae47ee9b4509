//! The flag or the key of the config that helps against an error of a library, which knows neither.

use std::error::Error;
use std::path::Path;

use headstock_backbone::{BackboneError, CheckpointError, DeviceError, EngineError, SourceError};
use headstock_heads::HeadError;
use headstock_hub::HubError;
use headstock_inference::InferenceError;
use headstock_loader::{DatasetError, DecodeError};
use headstock_split::SplitError;
use headstock_train::config::ConfigError;
use headstock_train::{Remedy, TrainError};

use crate::commands::shell_quote;

/// The hint for the first error in the chain of causes that has one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(hint_of)
}

/// The hint for an error of any crate.
fn hint_of(error: &(dyn Error + 'static)) -> Option<String> {
    let error = innermost(error);
    let by_crate = [
        train_hint,
        inference_hint,
        loader_hint,
        split_hint,
        heads_hint,
        backbone_hint,
        engine_hint,
        hub_hint,
    ];
    by_crate.iter().find_map(|hint| hint(error))
}

/// The error inside transparent ones, which the chain of causes does not contain.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let inner: &(dyn Error + 'static) =
        match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
            (Some(TrainError::Inference(inner)), ..) => inner,
            (Some(TrainError::Config(inner)), ..) => inner,
            (Some(TrainError::Dataset(inner)), ..) => inner,
            (Some(TrainError::Split(inner)), ..) => inner,
            (Some(TrainError::Hub(inner)), ..) => inner,
            (_, Some(InferenceError::Backbone(inner)), _) => inner,
            (_, Some(InferenceError::Head(inner)), _) => inner,
            (.., Some(BackboneError::Source(inner))) => inner,
            (.., Some(BackboneError::Checkpoint(inner))) => inner,
            (.., Some(BackboneError::Device(inner))) => inner,
            (.., Some(BackboneError::Engine(inner))) => inner,
            _ => match error.downcast_ref() {
                Some(SourceError::Hub(inner)) => inner,
                _ => return error,
            },
        };
    innermost(inner)
}

/// The hint for an error of `headstock-train`.
fn train_hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(ConfigError::Missing(_)) = error.downcast_ref() {
        return Some(
            "`headstock init` writes a config file; `--config` gives the path of another one".into(),
        );
    }
    let hint = match error.downcast_ref()? {
        TrainError::NeedsImages => "name photos in [data] of the config, for example with `data.folder`",
        TrainError::Unreadable(images) => {
            let skip = "`data.on_error = \"skip\"` in the config skips unreadable photos";
            let mut hints: Vec<String> = Vec::new();
            for (_, error) in &images.0 {
                let hint = hint_of(error).unwrap_or_else(|| skip.to_owned());
                if !hints.contains(&hint) {
                    hints.push(hint);
                }
            }
            return Some(hints.join("; "));
        }
        TrainError::Cache { .. } => "`features.cache` in the config names the folder of the cache",
        TrainError::WithRemedy { error, remedy } => {
            let hints = [hint_of(error.as_ref()), Some(remedy_hint(remedy))];
            return Some(hints.into_iter().flatten().collect::<Vec<_>>().join("; "));
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// How users of the command line do what helps against an error.
fn remedy_hint(remedy: &Remedy) -> String {
    let other_folder = "`--run` names a different folder";
    let hint = match remedy {
        Remedy::AddAugmentation => {
            "add an augmentation to [augment] in the config, such as `horizontal_flip = 0.5`"
        }
        Remedy::ExamineImages => "`headstock doctor --quick` lists the photos that cannot be read",
        Remedy::NameFeatures => "`data.features` in the config names a file of features",
        Remedy::NoFinetuning => "leave `--warm` out, or set `tune.from = \"head\"` in the config",
        Remedy::NoCleanTable => "leave `--write-clean` out",
        Remedy::GiveReview(file) => {
            return format!("`--review {}` gives the review back", shell_quote(file.display()));
        }
        Remedy::NoWarmStart => "leave `--warm` out",
        Remedy::WarmStartHead(head) => {
            return format!("train with `--head {head}`, or leave `--warm` out");
        }
        Remedy::OtherFeatures => "`--set data.features=FILE` names a different file",
        Remedy::OtherTestImages => "`--set data.test_folder=FOLDER` names other test photos",
        Remedy::OtherRunFolder => other_folder,
        Remedy::OtherPackFolder => "`--out` names a different folder",
        Remedy::Resume(folder) => return format!("{} continues it", resume_command(folder)),
        Remedy::ResumeOrOtherRunFolder(folder) => {
            return format!("{} continues it; {other_folder}", resume_command(folder));
        }
        Remedy::Train => "`headstock train` starts a new training",
        Remedy::LargerBudget => "raise `--budget`",
        Remedy::FewerFolds => "lower `--folds`",
        Remedy::Finetune => "`--set tune.from=layer4` fine-tunes the last stage",
        Remedy::LowerLearningRate => "lower `tune.lr` in the config, or set `tune.clip_grad_norm`",
        Remedy::OtherSplit => {
            "`split.method` in the config chooses the method, `split.column` the column of a predefined split"
        }
    };
    hint.to_owned()
}

/// The command that resumes the training of the run in `folder`.
fn resume_command(folder: &Path) -> String {
    format!("`headstock train --resume {}`", shell_quote(folder.display()))
}

/// The hint for an error of `headstock-inference`.
fn inference_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        InferenceError::NoConformalScores => {
            "`--coverage` needs a run that was trained with `calibration = \"temperature\"` at the top of the \
             config"
        }
        InferenceError::NoBackbone => "`data.folder` in the config names a folder of photos",
        InferenceError::OtherWeights { .. } | InferenceError::WeightsNotFound { .. } => {
            "`--weights PATH` names the weights"
        }
        InferenceError::OtherFeatures { .. } => {
            "leave `backbone.layer` and `backbone.precision` as they are in the run"
        }
        InferenceError::NotARun { .. } => "`headstock train` writes a run",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The hint for an image that cannot be decoded.
fn decode_hint(error: &DecodeError) -> Option<&'static str> {
    match error {
        DecodeError::TooLarge { .. } => Some("raise `data.max_pixels` in the config"),
        DecodeError::Damaged { format: "JPEG" | "PNG", .. } if error.is_truncated() => {
            Some("`data.truncated = \"accept\"` in the config takes what is there")
        }
        DecodeError::Gray16 => Some(
            "in the config, `data.gray16 = \"scale\"` divides its values by 257, and `\"clip\"` makes those above 255 \
             white, as Pillow does",
        ),
        DecodeError::UnsupportedFormat { description, .. }
            if description.contains("HEIC") || description.contains("AVIF") =>
        {
            Some("a program that is built with `--features heif` reads HEIC and AVIF")
        }
        _ => None,
    }
}

/// The hint for an error of `headstock-loader`.
fn loader_hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return decode_hint(error).map(str::to_owned);
    }
    let skip = "`data.on_error = \"skip\"` in the config leaves out what cannot be used";
    match error.downcast_ref()? {
        DatasetError::LeavesRoot { .. } => {
            Some(format!("`data.follow_links = true` in the config allows links; {skip}"))
        }
        DatasetError::UnclearFolders { likely, .. } => {
            Some(folders_hint(likely.train.as_deref(), likely.test.as_deref()))
        }
        DatasetError::Entries { problem, .. } if problem.contains("files sorted by name") => {
            Some(format!("`tar --sort=name -cf NEW.tar FOLDER` sorts the files of an archive; {skip}"))
        }
        DatasetError::EmptyClass { .. }
        | DatasetError::Entries { .. }
        | DatasetError::SameFile { .. }
        | DatasetError::UnknownClass { .. } => Some(skip.into()),
        DatasetError::NoColumn { parameter: Some(parameter), .. } => {
            let key = if *parameter == "split" { "split.column" } else { &format!("data.{parameter}") };
            Some(format!("`{key}` in the config names the column"))
        }
        DatasetError::MissingImages { .. } => {
            Some(format!("the keys of the config are `data.images`, `data.id` and `data.extension`; {skip}"))
        }
        _ => None,
    }
}

/// The lines of the config that say whether folders are classes or splits. `train` and `test` are the folders
/// that are probably for training and for testing.
fn folders_hint(train: Option<&Path>, test: Option<&Path>) -> String {
    let quoted = |path: &Path| toml::Value::from(path.display().to_string());
    let classes = "`split_folders = false` in [data] reads the folders as classes";
    match (train, test) {
        (Some(train), Some(test)) => format!(
            "`folder = {}` and `test_folder = {}` in [data] read them as splits; {classes}",
            quoted(train),
            quoted(test)
        ),
        (Some(train), None) => {
            format!("`folder = {}` in [data] trains on the folders in it; {classes}", quoted(train))
        }
        (None, _) => {
            format!("{classes}; `folder` in [data] may name one of them, whose folders are the classes then")
        }
    }
}

/// The hint for an error of `headstock-split`.
fn split_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        SplitError::TestSize { .. }
        | SplitError::TooSmall { .. }
        | SplitError::NoTrainGroups { .. }
        | SplitError::NotAFraction { .. } => "`split.test_size` in the config is the size of the test set",
        SplitError::EmptySide { .. } => "change `split.seed` or `split.test_size` in the config",
        SplitError::TooFewFolds { .. } | SplitError::TooManyFolds { .. } => {
            "`split.folds` in the config, or `--folds` of `compare`, is the number of folds"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The hint for an error of `headstock-heads`.
fn heads_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        HeadError::Parameter { parameter, .. } => format!("change `head.{parameter}` in the config"),
        HeadError::Width { .. } => {
            "`backbone.weights` and `backbone.layer` in the config choose the features".to_owned()
        }
        HeadError::NotFinite { .. } => {
            "`backbone.weights` and `backbone.precision` in the config choose the backbone and its precision"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// What to change if the weights cannot be used.
const WEIGHTS_HINT: &str = "`backbone.weights` in the config names the weights";

/// The hint for an error of `headstock-backbone`.
fn backbone_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let is_of_weights = error.is::<SourceError>()
        || matches!(error.downcast_ref(), Some(error) if !matches!(error, CheckpointError::Candle(_)));
    let hint = match (error.downcast_ref(), error.downcast_ref()) {
        _ if is_of_weights => WEIGHTS_HINT,
        (Some(DeviceError::CudaNotBuilt(_)), _) => {
            "install headstock with `cargo install --path cli --features cuda` in the folder of its source code, \
             or set `backbone.device = \"cpu\"` in the config"
        }
        (Some(_), _) => "set `backbone.device` in the config",
        (_, Some(BackboneError::SingleValuePerChannel { .. })) => {
            "raise `tune.batch_size` in the config, or set `tune.batch_norm = \"frozen\"`"
        }
        (_, Some(BackboneError::Candle(_))) => {
            "lower `tune.batch_size` in the config, or set `backbone.device = \"cpu\"`"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The hint for an error of `headstock-engine`.
fn engine_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        EngineError::NoBf16 => "set `backbone.precision` to \"f32\" in the config",
        EngineError::Threads { .. } => "give a lower number with `--threads`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The hint for an error of `headstock-hub`.
fn hub_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = match error.downcast_ref()? {
        HubError::InvalidName { .. } | HubError::FileNotFound { .. } | HubError::Pickled { .. } => {
            WEIGHTS_HINT
        }
        HubError::InvalidDatasetName { .. } | HubError::NoSelection { .. } | HubError::UnsafePath { .. } => {
            "`data.parquet` in the config names the data set"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use headstock_backbone::{DeviceChoice, WeightsSource};
    use headstock_hub::HubDataset;
    use headstock_loader::decode;
    use headstock_split::{
        TestSize, hash_split, stratified_k_fold, stratified_shuffle_split, words::NameList,
    };
    use headstock_train::config::{Config, Registries};
    use headstock_train::{Run, RunDir, UnreadableImages};

    use super::*;

    /// The hint for an error of the program with this cause.
    fn hint_for(error: impl Into<TrainError>) -> String {
        hint(&anyhow::Error::from(error.into())).unwrap_or_default()
    }

    #[test]
    fn errors_of_training_have_the_key_or_the_flag_that_helps() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Config::read(&folder.path().join("headstock.toml")).unwrap_err();
        assert!(hint_for(missing).starts_with("`headstock init` writes"));
        assert!(hint_for(TrainError::NeedsImages).contains("`data.folder`"));
        assert_eq!(hint_for(TrainError::Data("no row".into())), "");

        std::fs::create_dir_all(folder.path().join("a run/checkpoints")).unwrap();
        let path = folder.path().join("a run");
        let command = format!("`headstock train --resume '{}'` continues it", path.display());
        let unfinished = Run::open(&path, &Registries::builtin()).err().unwrap();
        assert_eq!(hint_for(unfinished), command);
        let source = headstock_train::config::DataSourceConfig::Features("x.npz".into());
        let existing = |path| hint_for(RunDir::Named(path).reserve(&source).err().unwrap());
        assert_eq!(existing(path), format!("{command}; `--run` names a different folder"));
        assert_eq!(existing(folder.path().into()), "`--run` names a different folder");
    }

    #[test]
    fn the_hint_of_the_error_comes_before_its_remedy() {
        let error = TrainError::WithRemedy {
            error: Box::new(InferenceError::NoBackbone.into()),
            remedy: Remedy::LargerBudget,
        };
        let hints = "`data.folder` in the config names a folder of photos; raise `--budget`";
        assert_eq!(hint_for(error), hints);
    }

    #[test]
    fn a_missing_column_or_image_names_the_keys_of_the_table() {
        let no_column = |parameter| {
            let (path, columns) = ("x.csv".into(), NameList(Vec::new()));
            hint_for(DatasetError::NoColumn { path, parameter, column: "breed".into(), columns })
        };
        assert_eq!(no_column(Some("label")), "`data.label` in the config names the column");
        assert_eq!(no_column(Some("split")), "`split.column` in the config names the column");
        assert_eq!(no_column(None), "");
        let (table, images) = ("x.csv".into(), "x".into());
        let missing =
            DatasetError::MissingImages { table, images, missing: NameList(Vec::new()), cause: None };
        assert!(hint_for(missing).contains("`data.images`, `data.id` and `data.extension`"));
    }

    #[test]
    fn a_large_image_names_the_limit() {
        let mut file = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(4, 3).write_to(&mut file, image::ImageFormat::Png).unwrap();
        let error = || decode(file.get_ref(), 11).unwrap_err();
        let expected = "raise `data.max_pixels` in the config";
        assert_eq!(hint(&InferenceError::from(error()).into()).unwrap(), expected);
        let images = UnreadableImages(vec![(std::path::PathBuf::from("a.png").into(), error())]);
        assert_eq!(hint_for(TrainError::Unreadable(images)), expected);
    }

    #[test]
    fn a_truncated_image_names_the_key_that_accepts_it() {
        let truncated = |format: image::ImageFormat| {
            let mut file = std::io::Cursor::new(Vec::new());
            image::RgbImage::new(40, 30).write_to(&mut file, format).unwrap();
            let bytes = file.into_inner();
            decode(&bytes[..bytes.len() - 12], 10_000).unwrap_err()
        };
        for format in [image::ImageFormat::Jpeg, image::ImageFormat::Png] {
            let expected = "`data.truncated = \"accept\"` in the config takes what is there";
            assert_eq!(hint(&InferenceError::from(truncated(format)).into()).unwrap(), expected);
        }
        assert_eq!(hint(&InferenceError::from(truncated(image::ImageFormat::WebP)).into()), None);
        // Each hint once for a list of images.
        let errors =
            [image::ImageFormat::Jpeg, image::ImageFormat::WebP, image::ImageFormat::Png].map(truncated);
        let images = errors.map(|error| (std::path::PathBuf::from("a").into(), error)).into();
        assert_eq!(
            hint_for(TrainError::Unreadable(UnreadableImages(images))),
            "`data.truncated = \"accept\"` in the config takes what is there; `data.on_error = \"skip\"` in the \
             config skips unreadable photos"
        );
    }

    #[test]
    fn gray_of_16_bits_names_the_key_that_converts_it() {
        let mut file = std::io::Cursor::new(Vec::new());
        let image = image::DynamicImage::ImageLuma16(image::ImageBuffer::new(4, 3));
        image.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let error = decode(file.get_ref(), 10_000).unwrap_err();
        let hint = hint(&InferenceError::from(error).into()).unwrap();
        assert!(hint.starts_with("in the config, `data.gray16 = \"scale\"` divides"), "{hint}");
    }

    #[cfg(not(feature = "heif"))]
    #[test]
    fn heic_and_avif_name_the_feature_that_reads_them() {
        for brand in [b"heic", b"avif"] {
            let file = [&b"\0\0\0\x10ftyp"[..], brand, &[0; 4]].concat();
            let error = decode(&file, 10_000).unwrap_err();
            let expected = "a program that is built with `--features heif` reads HEIC and AVIF";
            assert_eq!(hint(&InferenceError::from(error).into()).unwrap(), expected);
        }
    }

    #[test]
    fn a_split_names_its_key() {
        let size = |labels: &[u32], size| hint_for(stratified_shuffle_split(labels, 1, size, 0).unwrap_err());
        let size_hint = "`split.test_size` in the config is the size of the test set";
        assert_eq!(size(&[0, 0], TestSize::Count(2)), size_hint);
        assert_eq!(size(&[0, 0, 1, 1], TestSize::Count(1)), size_hint);
        let hash = |size| hint_for(hash_split(&["a", "b"], size, 0).unwrap_err());
        assert_eq!(hash(TestSize::Count(1)), size_hint);
        assert!(hash(TestSize::Fraction(1e-9)).contains("`split.seed`"));
        for n_splits in [1, 3] {
            assert!(hint_for(stratified_k_fold(&[0, 0], n_splits, 0).unwrap_err()).contains("`split.folds`"));
        }
        assert_eq!(size(&[], TestSize::Count(1)), "");
    }

    #[test]
    fn errors_of_heads_name_the_keys_that_change_them() {
        for (error, expected) in [
            (
                HeadError::Parameter { parameter: "alpha", value: "0".into(), expected: "must be above 0" },
                "`head.alpha`",
            ),
            (HeadError::Width { expected: 4, found: 3 }, "`backbone.weights` and `backbone.layer`"),
            (
                HeadError::NotFinite { row: 0, column: 1, value: f32::NAN },
                "`backbone.weights` and `backbone.precision`",
            ),
        ] {
            let hint = hint(&TrainError::from(error).into()).unwrap_or_default();
            assert!(hint.contains(expected), "{hint}");
        }
        assert_eq!(hint(&HeadError::Data("no row".into()).into()), None);
    }

    #[test]
    fn errors_of_the_engine_name_the_key_and_the_flag_that_change_them() {
        let no_bf16 = || BackboneError::from(EngineError::NoBf16);
        let expected = "set `backbone.precision` to \"f32\" in the config";
        assert_eq!(hint(&no_bf16().into()).as_deref(), Some(expected));
        assert_eq!(hint(&TrainError::from(no_bf16()).into()).as_deref(), Some(expected));
        let first = rayon::ThreadPoolBuilder::new().build_global();
        let source = first.and_then(|()| rayon::ThreadPoolBuilder::new().build_global());
        let threads = EngineError::Threads { threads: 9, source: source.expect_err("built twice") };
        let expected = "give a lower number with `--threads`";
        assert_eq!(hint(&BackboneError::from(threads).into()).as_deref(), Some(expected));
    }

    #[test]
    fn an_error_of_the_backbone_names_the_key_through_every_crate() {
        let missing = || SourceError::Missing { path: "absent".into(), hub_name: None };
        let misspelt = || WeightsSource::parse("hf://resnet50", "".as_ref()).unwrap_err();
        let single = BackboneError::SingleValuePerChannel { layer: "bn1".into() };
        for (error, key) in [
            (missing().into(), "`backbone.weights`"),
            (misspelt().into(), "`backbone.weights`"),
            (CheckpointError::from(missing()).into(), "`backbone.weights`"),
            (single, "raise `tune.batch_size`"),
            (BackboneError::Candle(candle_core::Error::Msg("no memory".into())), "lower `tune.batch_size`"),
            (DeviceError::CudaNotBuilt(DeviceChoice::Cuda(0)).into(), "--features cuda"),
        ] {
            let message = error.to_string();
            let hint = hint(&TrainError::from(error).into()).expect("a hint");
            assert!(hint.contains(key), "{message}: {hint}");
        }
        assert_eq!(hint(&BackboneError::Pixels("too few".into()).into()), None);
    }

    #[test]
    fn an_error_about_a_data_set_of_the_hub_names_the_key() {
        let misspelt = || "datasets/photos".parse::<HubDataset>().unwrap_err();
        for error in [misspelt().into(), TrainError::from(misspelt()).into()] {
            assert_eq!(hint(&error).as_deref(), Some("`data.parquet` in the config names the data set"));
        }
    }
}
