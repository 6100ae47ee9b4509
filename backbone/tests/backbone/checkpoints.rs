//! What is read as a checkpoint, and what is refused and why.

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
use crate::support::{
    CheckpointDir, StateDict, assert_close, error_chain, f32_tensor, golden_bytes, tensor_shapes, write_zeros,
};

const SIZE: (usize, usize) = (193, 129);

fn features(folder: &CheckpointDir) -> Vec<f32> {
    let pixels = formula::pixels(1, SIZE.0, SIZE.1);
    folder
        .backbone()
        .features(PixelBatch::new(&pixels, 1, SIZE.0, SIZE.1).unwrap(), FeatureLayer::Avgpool)
        .unwrap()
}

#[test]
fn transformers_names_give_transformers_features() {
    let bytes = golden_bytes("taps.safetensors");
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for network in ["transformers-resnet18", "transformers-resnet50"] {
        let oracle = f32_tensor(&golden, &format!("{network}/1x193x129/avgpool"));
        let whole = features(&StateDict::from_formula(network).to_dir());
        assert_close(&whole, &oracle, 1e-4, network);

        // `ResNetModel` is saved without the prefix of the classification model.
        let mut bare = StateDict::from_formula(network).without_classifier();
        bare.0 = bare.0.into_iter().map(|(name, tensor)| (name.replacen("resnet.", "", 1), tensor)).collect();
        assert_eq!(features(&bare.to_dir()), whole, "{network}");
    }
}

#[test]
fn every_depth_is_known_by_both_naming_schemes() {
    for depth in [18, 34, 50, 101, 152] {
        for scheme in ["", "transformers-"] {
            let folder = CheckpointDir::new();
            let shapes = tensor_shapes(&format!("{scheme}resnet{depth}"));
            let tensors = shapes.iter().map(|(name, shape)| {
                (name.as_str(), if shape.is_empty() { "I64" } else { "F32" }, shape.as_slice())
            });
            write_zeros(&folder.path("model.safetensors"), tensors);
            assert_eq!(folder.open().unwrap().architecture().as_str(), format!("resnet{depth}"));
        }
    }
}

#[test]
fn the_classifier_and_batchnorms_counters_change_nothing() {
    let whole = StateDict::from_formula("resnet18");
    let trunk = whole.clone().without_classifier();
    assert!(trunk.0.len() < whole.0.len() - 20);
    assert_eq!(features(&whole.to_dir()), features(&trunk.to_dir()));
}

#[test]
fn half_precision_files_give_the_same_features_within_their_rounding() {
    let state = StateDict::from_formula("resnet18").without_classifier();
    let exact = features(&state.to_dir());
    let half = state.clone().with_dtype(Dtype::F16, |value| half::f16::from_f32(value).to_le_bytes());
    assert_close(&features(&half.to_dir()), &exact, 2e-3, "f16");
    let brain = state.clone().with_dtype(Dtype::BF16, |value| half::bf16::from_f32(value).to_le_bytes());
    assert_close(&features(&brain.to_dir()), &exact, 2e-2, "bf16");
    // Widening is exact: the rounded values in a file of f32 give the same bits.
    let mut rounded = state;
    for (_, _, bytes) in rounded.0.values_mut() {
        for value in bytes.as_chunks_mut::<4>().0 {
            *value = half::f16::from_f32(f32::from_le_bytes(*value)).to_f32().to_le_bytes();
        }
    }
    assert_eq!(features(&rounded.to_dir()), features(&half.to_dir()));
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
    let refusal = state.to_dir().open_error();
    for part in [
        "model.safetensors is no complete resnet50",
        "`layer3.5.conv1.weight` [256, 1024, 1, 1] is missing",
        "`bn1.running_var` [64] is missing",
        "`layer2.0.bn3.bias` is [16, 32], not [512]",
        "`layer4.2.gate.bias` is not part of it",
    ] {
        assert!(refusal.contains(part), "{refusal}");
    }
}

#[test]
fn many_faults_are_counted_not_listed() {
    let mut state = StateDict::from_formula("resnet18");
    state.0.retain(|name, _| !name.contains("layer1.0.conv") && !name.contains(".running_var"));
    let refusal = state.to_dir().open_error();
    assert!(refusal.ends_with("and 14 more"), "{refusal}");
}

#[test]
fn a_tensor_under_two_names_is_refused() {
    let mut state = StateDict::from_formula("transformers-resnet18");
    let again = state.0["resnet.embedder.embedder.convolution.weight"].clone();
    state.0.insert("embedder.embedder.convolution.weight".into(), again);
    let refusal = state.to_dir().open_error();
    assert!(
        refusal.contains(
            "twice, as `embedder.embedder.convolution.weight` and as `resnet.embedder.embedder.convolution.weight`"
        ),
        "{refusal}"
    );
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let mut state = StateDict::from_formula("resnet18");
    state.0.get_mut("layer1.0.bn1.bias").unwrap().0 = Dtype::I64;
    state.0.get_mut("layer1.0.bn1.bias").unwrap().2 = vec![0; 64 * 8];
    let refusal = state.to_dir().open_error();
    assert!(refusal.contains("tensor `layer1.0.bn1.bias` is I64; known are F32, F16 and BF16"), "{refusal}");
}

#[test]
fn values_that_cannot_be_computed_with_are_refused() {
    for (name, value, part) in [
        ("layer3.1.conv2.weight", f32::NAN, "tensor `layer3.1.conv2.weight` holds NaN"),
        ("bn1.bias", f32::NEG_INFINITY, "tensor `bn1.bias` holds -inf"),
        ("layer4.0.bn2.running_var", -1.0, "BatchNorm `layer4.0.bn2` cannot be computed"),
        ("layer2.0.downsample.1.weight", f32::MAX, "BatchNorm `layer2.0.downsample.1` cannot be computed"),
    ] {
        let mut state = StateDict::from_formula("resnet18");
        state.set_first_value(name, value);
        state.set_first_value("layer2.0.downsample.0.weight", 10.0);
        let folder = state.to_dir();
        let checkpoint = folder.open().unwrap();
        let error = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap_err();
        assert!(
            error.to_string().contains(part) && error.to_string().contains("model.safetensors"),
            "{error}"
        );
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let folder = StateDict::from_formula("resnet18").to_dir();
    let whole = std::fs::read(folder.path("model.safetensors")).unwrap();
    for length in [0, 7, 8, 100, 20_000, whole.len() - 1] {
        folder.write("model.safetensors", &whole[..length]);
        let refusal = folder.open_error();
        assert!(
            refusal.contains("model.safetensors is not a complete .safetensors file: fetch or copy it again"),
            "{length}: {refusal}"
        );
    }
}

#[test]
fn other_files_under_the_name_are_told_apart() {
    let folder = CheckpointDir::new();
    for (content, part) in [
        (&b"PK\x03\x04 archive/data.pkl"[..], "is not a .safetensors file: convert"),
        (b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9", "is not a .safetensors file: convert"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "is not a complete .safetensors file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "is not a complete .safetensors file"),
        (
            b"\x02\0\0\0\0\0\0\0{}",
            "holds no ResNet: no tensor is named like `layer1.0.conv1.weight`; there are none",
        ),
    ] {
        folder.write("model.safetensors", content);
        let refusal = folder.open_error();
        assert!(refusal.contains(part) && refusal.contains("model.safetensors"), "{refusal}");
    }
}

#[test]
fn a_directory_without_one_safetensors_file_is_refused() {
    let folder = CheckpointDir::new();
    assert!(folder.open_error().contains("holds no .safetensors file"));
    folder.write("pytorch_model.bin", "");
    let refusal = folder.open_error();
    assert!(refusal.contains("holds no .safetensors file: convert pytorch_model.bin"), "{refusal}");
    folder.write("a.safetensors", "");
    folder.write("b.safetensors", "");
    let refusal = folder.open_error();
    assert!(
        refusal.contains("name one of them in `backbone.weights` (a.safetensors, b.safetensors)"),
        "{refusal}"
    );

    let error = folder.open_named("c.safetensors").unwrap_err();
    assert!(error_chain(&error).contains("there are no weights at"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = folder.open_named("pytorch_model.bin").unwrap_err();
    assert!(matches!(error, BackboneError::Source(_)), "{error}");
    assert!(
        error.to_string().contains("pytorch_model.bin is not a .safetensors file: convert it"),
        "{error}"
    );
}

#[test]
fn of_several_files_model_safetensors_is_taken_and_others_by_name() {
    let folder = StateDict::from_formula("resnet18").to_dir();
    StateDict::from_formula("resnet34").without_classifier().write(&folder.path("another.safetensors"));
    assert_eq!(folder.open().unwrap().architecture().as_str(), "resnet18");
    let other = folder.open_named("another.safetensors").unwrap();
    assert_eq!(other.architecture().as_str(), "resnet34");
    // The records beside it hold for it as well.
    assert_eq!(other.preprocessing().mean, [0.5, 0.45, 0.4]);
}

#[test]
fn shards_are_refused() {
    let folder = CheckpointDir::new();
    folder.write("model-00001-of-00002.safetensors", "");
    folder.write("model-00002-of-00002.safetensors", "");
    folder.write("model.safetensors.index.json", "{}");
    let refusal = folder.open_error();
    assert!(refusal.contains("in shards"), "{refusal}");
}

#[test]
fn the_hash_is_that_of_the_file() {
    // sha256sum demo/backbone/model.safetensors
    let oracle = "4067ec86203c7959d9a99b478714234c50b2d0bdd3224abefa654cd7c158ddee";
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/backbone");
    let source = WeightsSource::parse(demo, Path::new("")).unwrap();
    let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
    assert_eq!(checkpoint.sha256(), oracle);
    assert_eq!(checkpoint.origin(), demo);
}

/// Tensors that were tuned: they are computed with, in `f32`, and the fingerprint is that of the file and of them.
#[test]
fn tensors_that_take_the_place_of_others_are_computed_with_and_change_the_fingerprint() {
    let state = StateDict::from_formula("resnet18")
        .without_classifier()
        .with_dtype(Dtype::BF16, |value| half::bf16::from_f32(value).to_le_bytes());
    let folder = state.to_dir();
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_file = hex(&std::fs::read(folder.path("model.safetensors")).unwrap());
    let untouched = folder.open().unwrap().with_tensors(&BTreeMap::new()).unwrap();
    assert_eq!((untouched.sha256(), untouched.fingerprint()), (of_file.as_str(), of_file.as_str()));

    // The last two BatchNorms of the network, with a scale of 0 and a shift of 1/3 and more: each feature is what it was before them
    // and no less.
    let value = |at: usize| (at as f32 + 1.0) / 3.0;
    let tensor =
        |of: &dyn Fn(usize) -> f32| Tensor::from_iter((0..512).map(of), &candle_core::Device::Cpu).unwrap();
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
    let checkpoint = folder.open().unwrap().with_tensors(&tuned).unwrap();
    let mut hashed = of_file.clone().into_bytes();
    for (name, tensor) in &tuned {
        hashed.extend(name.bytes());
        hashed.extend(tensor.to_vec1::<f32>().unwrap().iter().flat_map(|value| value.to_le_bytes()));
    }
    assert_eq!(checkpoint.sha256(), of_file);
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
        let error =
            folder.open().unwrap().with_tensors(&BTreeMap::from([(name.to_owned(), foreign)])).unwrap_err();
        let path = folder.path("model.safetensors");
        let expected = format!(
            "{} has no tensor `{name}` of shape {shape}, which was tuned: these are other weights",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

// effect: backbone.weights
#[test]
fn weights_are_a_file_or_a_folder_from_where_they_are_named() {
    let folder = StateDict::from_formula("resnet18").without_classifier().to_dir();
    folder.write("preprocessor_config.json", "{}");
    let path = |name: &str| folder.path(name);
    for (named, base, weights) in [
        ("model.safetensors", path(""), path("model.safetensors")),
        (".", path(""), path("./model.safetensors")),
        (path("").to_str().unwrap(), Path::new("/elsewhere").into(), path("model.safetensors")),
    ] {
        let files = WeightsSource::parse(named, &base).unwrap().fetch(&()).unwrap();
        assert_eq!(files.weights, weights);
        assert_eq!(std::fs::read(files.config.unwrap()).unwrap(), crate::support::CONFIG.as_bytes());
        assert_eq!(std::fs::read(files.preprocessor.unwrap()).unwrap(), b"{}");
        assert_eq!(files.origin, base.join(named).display().to_string());
    }
    std::fs::remove_file(path("config.json")).unwrap();
    std::fs::remove_file(path("preprocessor_config.json")).unwrap();
    let files = WeightsSource::parse("", &path("")).unwrap().fetch(&()).unwrap();
    assert_eq!((files.config, files.preprocessor), (None, None));
    assert!(matches!(WeightsSource::parse("hf://owner/name", Path::new("")).unwrap(), WeightsSource::Hub(_)));
    assert!(matches!(
        WeightsSource::parse("hf:/owner/name", Path::new("")).unwrap(),
        WeightsSource::Local(_)
    ));
}

#[test]
fn weights_in_pytorchs_own_format_are_told_by_each_of_its_endings() {
    for ending in ["bin", "pt", "pth", "ckpt"] {
        let folder = CheckpointDir::new();
        let name = format!("weights.{ending}");
        folder.write(&name, "");
        assert!(
            folder
                .open_named(&name)
                .unwrap_err()
                .to_string()
                .contains("is not a .safetensors file: convert it")
        );
        assert!(
            folder.open_error().contains(&format!("holds no .safetensors file: convert {name} in Python"))
        );
    }
    let folder = CheckpointDir::new();
    folder.write("weights.npz", "");
    let refusal = folder.open_error();
    assert!(refusal.ends_with("holds no .safetensors file"), "{refusal}");
    assert!(
        error_chain(&folder.open_named("weights.npz").unwrap_err())
            .contains("is not a complete .safetensors file")
    );
}

#[test]
fn no_damage_to_a_header_makes_it_panic() {
    const BYTES: &[u8] = b"0123456789-[]{}\",:.lz\0\xff";
    let folder = CheckpointDir::new();
    let path = folder.path("model.safetensors");
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
            folder.write("model.safetensors", damaged);
            // Every tensor is misshapen, so whatever the damage, it is refused.
            folder.open_error();
        }
    }
}
