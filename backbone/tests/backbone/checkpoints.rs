//! Valid and invalid checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use headstock_backbone::{
    Backbone, BackboneError, Checkpoint, DeviceChoice, ErrorKind, FeatureLayer, PixelBatch, Precision,
    WeightsSource,
};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::formula;
use crate::records::log_lines;
use crate::support::{
    CheckpointDir, StateDict, assert_close, error_chain, f32_tensor, golden_bytes, tensor_shapes, write_zeros,
};

const SIZE: (usize, usize) = (193, 129);

fn features(directory: &CheckpointDir) -> Vec<f32> {
    let pixels = formula::pixels(1, SIZE.0, SIZE.1);
    directory
        .backbone()
        .features(PixelBatch::new(&pixels, 1, SIZE.0, SIZE.1).unwrap(), FeatureLayer::Avgpool)
        .unwrap()
}

#[test]
fn features_of_transformers_checkpoints_match_transformers() {
    let bytes = golden_bytes("taps.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for network in ["transformers-resnet18", "transformers-resnet50"] {
        let oracle = f32_tensor(&golden, &format!("{network}/1x193x129/avgpool"));
        let whole = features(&StateDict::from_formula(network).to_dir());
        assert_close(&whole, &oracle, 1e-4, network);

        // The names in `ResNetModel` lack the prefix of the classification model.
        let mut base = StateDict::from_formula(network).without_classifier();
        base.0 = base.0.into_iter().map(|(name, tensor)| (name.replacen("resnet.", "", 1), tensor)).collect();
        assert_eq!(features(&base.to_dir()), whole, "{network}");
    }
}

#[test]
fn all_architectures_are_detected_with_both_naming_schemes() {
    for depth in [18, 34, 50, 101, 152] {
        for scheme in ["", "transformers-"] {
            let directory = CheckpointDir::new();
            let shapes = tensor_shapes(&format!("{scheme}resnet{depth}"));
            let tensors = shapes.iter().map(|(name, shape)| {
                (name.as_str(), if shape.is_empty() { "I64" } else { "F32" }, shape.as_slice())
            });
            write_zeros(&directory.path("model.safetensors"), tensors);
            assert_eq!(directory.open().unwrap().architecture().as_str(), format!("resnet{depth}"));
        }
    }
}

#[test]
fn the_classifier_and_the_counters_of_batch_norm_are_ignored() {
    let whole = StateDict::from_formula("resnet18");
    let reduced = whole.clone().without_classifier();
    assert!(reduced.0.len() < whole.0.len() - 20);
    assert_eq!(features(&whole.to_dir()), features(&reduced.to_dir()));
}

#[test]
fn features_of_half_precision_files_differ_only_by_rounding() {
    let state = StateDict::from_formula("resnet18").without_classifier();
    let exact = features(&state.to_dir());
    let f16 = state.clone().with_dtype(Dtype::F16, |value| half::f16::from_f32(value).to_le_bytes());
    assert_close(&features(&f16.to_dir()), &exact, 2e-3, "f16");
    let bf16 = state.clone().with_dtype(Dtype::BF16, |value| half::bf16::from_f32(value).to_le_bytes());
    assert_close(&features(&bf16.to_dir()), &exact, 2e-2, "bf16");
    // The conversion to f32 is exact: the rounded values in an f32 file give the same features.
    let mut rounded = state;
    for (_, _, bytes) in rounded.0.values_mut() {
        for value in bytes.as_chunks_mut::<4>().0 {
            *value = half::f16::from_f32(f32::from_le_bytes(*value)).to_f32().to_le_bytes();
        }
    }
    assert_eq!(features(&rounded.to_dir()), features(&f16.to_dir()));
}

/// The tensors of `state` with `prefix` before their names.
fn with_prefix(state: &StateDict, prefix: &str) -> StateDict {
    let named = |(name, tensor): (&String, &_)| (format!("{prefix}{name}"), Clone::clone(tensor));
    StateDict(state.0.iter().map(named).collect())
}

#[test]
fn a_prefix_that_all_tensors_of_the_network_share_is_stripped_with_a_line() {
    for network in ["resnet18", "transformers-resnet18"] {
        let state = StateDict::from_formula(network);
        for prefix in
            ["module.", "model.", "backbone.", "encoder.", "net.", "_orig_mod.", "module.model.", "a.resnet."]
        {
            let mut prefixed = with_prefix(&state, prefix);
            let open = |state: &StateDict| log_lines(|| drop(state.to_dir().open().unwrap()));
            let line = format!("the tensors of the network begin with `{prefix}`");
            let log = open(&prefixed);
            assert!(log.len() == 1 && log[0].ends_with(&line), "{log:?}");
            // A head beside the network, and the counter of an average of weights.
            let bias = state.0.values().next().unwrap().clone();
            prefixed.0.insert("head.weight".into(), bias.clone());
            prefixed.0.insert("n_averaged".into(), bias);
            let log = open(&prefixed);
            let others = "; 2 other tensors, such as `head.weight`, are not used";
            assert!(log.len() == 1 && log[0].ends_with(&format!("{line}{others}")), "{log:?}");
        }
        assert_eq!(log_lines(|| drop(state.to_dir().open().unwrap())), [""; 0]);
        let prefixed = with_prefix(&state, "module.model.");
        assert_eq!(features(&prefixed.to_dir()), features(&state.to_dir()), "{network}");
    }
}

#[test]
fn a_prefix_of_some_tensors_or_of_an_unknown_network_is_not_stripped() {
    let state = StateDict::from_formula("resnet18");
    let mut half = with_prefix(&state, "module.");
    let stage = half.0.remove("module.layer4.1.bn2.bias").unwrap();
    half.0.insert("layer4.1.bn2.bias".into(), stage);
    let error = half.to_dir().open_error();
    assert!(error.contains("only some of the tensors of the network begin with `module.`"), "{error}");

    let two = [with_prefix(&state, "student."), with_prefix(&state, "teacher.")].map(|state| state.0);
    let error = StateDict(two.into_iter().flatten().collect()).to_dir().open_error();
    assert!(error.contains("there are 2 networks in the file"), "{error}");

    let mut missing = with_prefix(&state, "module.");
    missing.0.remove("module.layer1.0.conv2.weight");
    let extra = missing.0["module.bn1.bias"].clone();
    missing.0.insert("module.gate.bias".into(), extra.clone());
    let error = missing.to_dir().open_error();
    assert!(error.contains("tensor `layer1.0.conv2.weight` [64, 64, 3, 3] is missing"), "{error}");
    assert!(error.contains("tensor `gate.bias` is unexpected"), "{error}");

    let other =
        ["module.conv1.weight", "module.features.0.weight"].map(|name| (name.to_owned(), extra.clone()));
    let error = StateDict(other.into_iter().collect()).to_dir().open_error();
    assert!(error.contains("but there are module.conv1.weight, module.features.0.weight"), "{error}");

    let mut grouped = with_prefix(&state, "module.");
    let (dtype, _, bytes) = grouped.0["module.layer1.0.conv2.weight"].clone();
    let quarter = bytes[..bytes.len() / 4].to_vec();
    grouped.0.insert("module.layer1.0.conv2.weight".into(), (dtype, vec![64, 16, 3, 3], quarter));
    let error = grouped.to_dir().open_error();
    assert!(error.contains("is not a plain ResNet but a ResNeXt"), "{error}");
}

#[test]
fn missing_extra_and_misshapen_tensors_are_all_named() {
    let mut state = StateDict::from_formula("resnet50");
    state.0.remove("layer3.5.conv1.weight");
    state.0.remove("bn1.running_var");
    let shape = &mut state.0.get_mut("layer2.0.bn3.bias").unwrap().1;
    *shape = vec![16, 32];
    let extra = state.0["bn1.bias"].clone();
    state.0.insert("layer4.2.gate.bias".into(), extra);
    let error = state.to_dir().open_error();
    for part in [
        "model.safetensors is not a complete resnet50 model",
        "tensor `layer3.5.conv1.weight` [256, 1024, 1, 1] is missing",
        "tensor `bn1.running_var` [64] is missing",
        "tensor `layer2.0.bn3.bias` has shape [16, 32] instead of [512]",
        "tensor `layer4.2.gate.bias` is unexpected; download or save the model again",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn many_faults_are_counted_instead_of_listed() {
    let mut state = StateDict::from_formula("resnet18");
    state.0.retain(|name, _| !name.contains("layer1.0.conv") && !name.contains(".running_var"));
    let error = state.to_dir().open_error();
    assert!(error.contains("; and 14 more; download or save"), "{error}");
}

#[test]
fn a_tensor_with_two_names_is_rejected() {
    let mut state = StateDict::from_formula("transformers-resnet18");
    let duplicate = state.0["resnet.embedder.embedder.convolution.weight"].clone();
    state.0.insert("embedder.embedder.convolution.weight".into(), duplicate);
    let error = state.to_dir().open_error();
    assert!(
        error.contains(
            "twice, as `embedder.embedder.convolution.weight` and as \
             `resnet.embedder.embedder.convolution.weight`"
        ),
        "{error}"
    );
}

#[test]
fn weights_that_are_not_floating_point_are_rejected() {
    let mut state = StateDict::from_formula("resnet18");
    state.0.get_mut("layer1.0.bn1.bias").unwrap().0 = Dtype::I64;
    state.0.get_mut("layer1.0.bn1.bias").unwrap().2 = vec![0; 64 * 8];
    let error = state.to_dir().open_error();
    let expected = "tensor `layer1.0.bn1.bias` has type I64, but only F32, F16 and BF16 are supported";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn values_that_are_not_finite_are_rejected() {
    for (name, value, part) in [
        ("layer3.1.conv2.weight", f32::NAN, "tensor `layer3.1.conv2.weight` contains NaN"),
        ("bn1.bias", f32::NEG_INFINITY, "tensor `bn1.bias` contains -inf"),
        ("layer4.0.bn2.running_var", -1.0, "BatchNorm `layer4.0.bn2` cannot be used"),
        ("layer2.0.downsample.1.weight", f32::MAX, "BatchNorm `layer2.0.downsample.1` cannot be used"),
    ] {
        let mut state = StateDict::from_formula("resnet18");
        state.set_first_value(name, value);
        state.set_first_value("layer2.0.downsample.0.weight", 10.0);
        let directory = state.to_dir();
        let checkpoint = directory.open().unwrap();
        let error = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap_err();
        assert!(
            error.to_string().contains(part) && error.to_string().contains("model.safetensors"),
            "{error}"
        );
    }
}

#[test]
fn truncated_files_are_rejected() {
    let directory = StateDict::from_formula("resnet18").to_dir();
    let whole = std::fs::read(directory.path("model.safetensors")).unwrap();
    for length in [0, 7, 8, 100, 20_000, whole.len() - 1] {
        directory.write("model.safetensors", &whole[..length]);
        let error = directory.open_error();
        assert!(
            error.contains(
                "model.safetensors is not a complete .safetensors file: download or copy the file again"
            ),
            "{length}: {error}"
        );
    }
}

#[test]
fn errors_of_other_file_formats_name_the_format() {
    let directory = CheckpointDir::new();
    for (content, part) in [
        (&b"PK\x03\x04 archive/data.pkl"[..], "is not a .safetensors file but a PyTorch file: convert"),
        (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9", "is not a .safetensors file but a PyTorch file: convert"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "is not a complete .safetensors file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "is not a complete .safetensors file"),
        (
            b"\x02\0\0\0\0\0\0\0{}",
            "is not a ResNet: no tensor is named like `layer1.0.conv1.weight`, as the file has no tensors; \
             choose",
        ),
    ] {
        directory.write("model.safetensors", content);
        let error = directory.open_error();
        assert!(error.contains(part) && error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_directory_needs_exactly_one_safetensors_file() {
    let directory = CheckpointDir::new();
    assert!(directory.open_error().contains("has no .safetensors file: put the model weights there"));
    directory.write("pytorch_model.bin", "");
    let error = directory.open_error();
    assert!(error.contains("has no .safetensors file: convert pytorch_model.bin"), "{error}");
    directory.write("a.safetensors", "");
    directory.write("b.safetensors", "");
    let error = directory.open_error();
    assert!(error.contains("give the path of one of them (a.safetensors, b.safetensors)"), "{error}");

    let error = directory.open_named("c.safetensors").unwrap_err();
    assert!(error_chain(&error).contains("no model weights found at"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = directory.open_named("pytorch_model.bin").unwrap_err();
    assert!(matches!(error, BackboneError::Source(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("pytorch_model.bin is not a .safetensors file but a PyTorch file: convert "),
        "{error}"
    );
}

#[test]
fn model_safetensors_is_the_default_of_several_files() {
    let directory = StateDict::from_formula("resnet18").to_dir();
    StateDict::from_formula("resnet34").without_classifier().write(&directory.path("another.safetensors"));
    assert_eq!(directory.open().unwrap().architecture().as_str(), "resnet18");
    let other = directory.open_named("another.safetensors").unwrap();
    assert_eq!(other.architecture().as_str(), "resnet34");
    // The config files of the directory are used for this file, too.
    assert_eq!(other.preprocessing().mean, [0.5, 0.45, 0.4]);
}

#[test]
fn shards_are_rejected() {
    let directory = CheckpointDir::new();
    directory.write("model-00001-of-00002.safetensors", "");
    directory.write("model-00002-of-00002.safetensors", "");
    directory.write("model.safetensors.index.json", "{}");
    let error = directory.open_error();
    assert!(error.contains("split over several files (sharded)"), "{error}");
}

#[test]
fn the_hash_matches_sha256sum() {
    // sha256sum demo/backbone/model.safetensors
    let oracle = "4067ec86203c7959d9a99b478714234c50b2d0bdd3224abefa654cd7c158ddee";
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/backbone");
    let source = WeightsSource::parse(demo, Path::new("")).unwrap();
    let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
    assert_eq!(checkpoint.sha256(), oracle);
    assert_eq!(checkpoint.origin(), demo);
}

#[test]
fn replaced_tensors_are_used_and_change_the_fingerprint() {
    let state = StateDict::from_formula("resnet18")
        .without_classifier()
        .with_dtype(Dtype::BF16, |value| half::bf16::from_f32(value).to_le_bytes());
    let directory = state.to_dir();
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file_hash = hex(&std::fs::read(directory.path("model.safetensors")).unwrap());
    let untouched = directory.open().unwrap().with_tensors(&BTreeMap::new()).unwrap();
    assert_eq!((untouched.sha256(), untouched.fingerprint()), (file_hash.as_str(), file_hash.as_str()));

    // With these BatchNorms of layer4, the features are the shift of the last one.
    let value = |i: usize| (i as f32 + 1.0) / 3.0;
    let tensor = |value: &dyn Fn(usize) -> f32| {
        Tensor::from_iter((0..512).map(value), &candle_core::Device::Cpu).unwrap()
    };
    let tuned: BTreeMap<String, Tensor> = [
        ("layer4.0.bn2.weight", tensor(&|_| 0.0)),
        ("layer4.0.bn2.bias", tensor(&|_| 0.0)),
        ("layer4.0.downsample.1.weight", tensor(&|_| 0.0)),
        ("layer4.0.downsample.1.bias", tensor(&|_| 0.0)),
        ("layer4.1.bn2.weight", tensor(&|_| 0.0)),
        ("layer4.1.bn2.bias", tensor(&value)),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect();
    let checkpoint = directory.open().unwrap().with_tensors(&tuned).unwrap();
    let mut hashed = file_hash.clone().into_bytes();
    for (name, tensor) in &tuned {
        hashed.extend(name.bytes());
        hashed.extend(tensor.to_vec1::<f32>().unwrap().iter().flat_map(|value| value.to_le_bytes()));
    }
    assert_eq!(checkpoint.sha256(), file_hash);
    assert_eq!(checkpoint.fingerprint(), hex(&hashed));
    let backbone = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
    let pixels = formula::pixels(1, 64, 40);
    let features =
        backbone.features(PixelBatch::new(&pixels, 1, 64, 40).unwrap(), FeatureLayer::Avgpool).unwrap();
    let expected: Vec<f32> = (0..512).map(value).collect();
    assert_close(&features, &expected, 1e-6, "features");

    for (name, length, shape) in
        [("layer4.1.bn2.bias", 511, "[511]"), ("layer4.2.bn2.bias", 512, "[512]"), ("fc.bias", 512, "[512]")]
    {
        let foreign = Tensor::zeros(length, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let error = directory
            .open()
            .unwrap()
            .with_tensors(&BTreeMap::from([(name.to_owned(), foreign)]))
            .unwrap_err();
        let path = directory.path("model.safetensors");
        let expected = format!(
            "{}: there is no tensor `{name}` of shape {shape}: the run was fine-tuned from different weights; use \
             the weights that the run was trained with",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

// effect: backbone.weights
#[test]
fn weights_are_a_file_or_a_directory_relative_to_the_base() {
    let directory = StateDict::from_formula("resnet18").without_classifier().to_dir();
    directory.write("preprocessor_config.json", "{}");
    let path = |name: &str| directory.path(name);
    for (name, base, weights) in [
        ("model.safetensors", path(""), path("model.safetensors")),
        (".", path(""), path("./model.safetensors")),
        (path("").to_str().unwrap(), Path::new("/elsewhere").into(), path("model.safetensors")),
    ] {
        let files = WeightsSource::parse(name, &base).unwrap().fetch(&()).unwrap();
        assert_eq!(files.weights, weights);
        assert_eq!(std::fs::read(files.config.unwrap()).unwrap(), crate::support::CONFIG.as_bytes());
        assert_eq!(std::fs::read(files.preprocessor.unwrap()).unwrap(), b"{}");
        assert_eq!(files.origin, base.join(name).display().to_string());
    }
    std::fs::remove_file(path("config.json")).unwrap();
    std::fs::remove_file(path("preprocessor_config.json")).unwrap();
    let files = WeightsSource::parse("", &path("")).unwrap().fetch(&()).unwrap();
    assert_eq!((files.config, files.preprocessor), (None, None));
    assert!(matches!(WeightsSource::parse("hf://owner/name", Path::new("")).unwrap(), WeightsSource::Hub(_)));
    // Whatever is no address of the hub is a path.
    assert!(matches!(WeightsSource::parse("https:/x", Path::new("")).unwrap(), WeightsSource::Local(_)));
}

#[test]
fn the_error_for_a_hub_name_without_hf_says_how_to_write_it() {
    for weights in ["hf:timm/x", "https://huggingface.co/timm/x/tree/main", "timm:x"] {
        let error = WeightsSource::parse(weights, Path::new("/base")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{weights} is neither a path nor an hf:// name: did you mean \"hf://timm/x\"?")
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = |name: &str| {
        let error = WeightsSource::parse(name, folder.path()).unwrap().fetch(&()).unwrap_err().to_string();
        let (begin, advice) = error.split_once(": ").unwrap();
        assert_eq!(begin, format!("no model weights found at {}", folder.path().join(name).display()));
        advice.to_owned()
    };
    assert_eq!(
        missing("timm/x"),
        "did you mean \"hf://timm/x\" on the Hugging Face hub? If not, correct the path"
    );
    assert!(missing("resnet50").contains("\"hf://timm/resnet50.a1_in1k\""));
    assert_eq!(missing("backbone"), "correct the path");
}

#[test]
fn pickle_files_are_recognized_by_their_extension() {
    for extension in ["bin", "pt", "pth", "ckpt"] {
        let directory = CheckpointDir::new();
        let name = format!("weights.{extension}");
        directory.write(&name, "");
        assert!(
            directory
                .open_named(&name)
                .unwrap_err()
                .to_string()
                .contains("is not a .safetensors file but a PyTorch file: convert ")
        );
        assert!(
            directory.open_error().contains(&format!("has no .safetensors file: convert {name} in Python"))
        );
    }
    let directory = CheckpointDir::new();
    directory.write("weights.npz", "");
    let error = directory.open_error();
    assert!(error.ends_with("or give the file or folder that has them"), "{error}");
    assert!(
        error_chain(&directory.open_named("weights.npz").unwrap_err())
            .contains("is not a complete .safetensors file")
    );
}

#[test]
fn damaged_headers_are_rejected_without_a_panic() {
    const BYTES: &[u8] = b"0123456789-[]{}\",:.lz\0\xff";
    let directory = CheckpointDir::new();
    let path = directory.path("model.safetensors");
    for network in ["resnet18", "transformers-resnet18"] {
        let shapes = tensor_shapes(network);
        let scalars = shapes.keys().map(|name| (name.as_str(), "F32", &[1][..]));
        write_zeros(&path, scalars);
        let whole = std::fs::read(&path).unwrap();
        let header = whole.len() - 4 * shapes.len();
        let mut draws = formula::draws(network);
        let mut draw = |below: usize| (draws.next().unwrap() % below as u64) as usize;
        for _ in 0..500 {
            let mut damaged = whole.clone();
            for _ in 0..=draw(3) {
                damaged[draw(header)] = BYTES[draw(BYTES.len())];
            }
            directory.write("model.safetensors", damaged);
            // All tensors are misshapen, so the file is rejected regardless of the damage.
            directory.open_error();
        }
    }
}
