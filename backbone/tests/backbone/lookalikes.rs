//! Other networks that resemble a ResNet are rejected, with their name and the evidence.

use std::collections::BTreeMap;

use crate::support::{CheckpointDir, StateDict, golden_json, tensor_shapes, write_zeros};

type TensorTable = BTreeMap<String, BTreeMap<String, (String, Vec<usize>)>>;

/// A checkpoint with the tensors of a network of timm.
fn timm_checkpoint(network: &str) -> CheckpointDir {
    let table: TensorTable = golden_json("lookalikes.json");
    let tensors = &table[network];
    let directory = CheckpointDir::new();
    let entries = tensors.iter().map(|(name, (dtype, shape))| {
        (name.as_str(), if dtype == "int64" { "I64" } else { "F32" }, shape.as_slice())
    });
    write_zeros(&directory.path("model.safetensors"), entries);
    directory
}

#[test]
fn other_networks_are_recognized_by_their_tensors() {
    for (network, name, evidence) in [
        ("resnet50c", "a ResNet-C", "`conv1.0.weight` [32, 3, 3, 3]"),
        ("resnet50d", "a ResNet-D", "`conv1.0.weight` [32, 3, 3, 3]"),
        ("resnet50s", "a ResNet-S", "`conv1.0.weight` [64, 3, 3, 3]"),
        ("resnet50t", "a ResNet-T", "`conv1.0.weight` [24, 3, 3, 3]"),
        ("resnet18d", "a ResNet-D", "`conv1.0.weight` [32, 3, 3, 3]"),
        ("resnet26t", "a ResNet-T", "`conv1.0.weight` [24, 3, 3, 3]"),
        ("resnetrs50", "a ResNet-RS", "`maxpool.0.weight`"),
        ("resnet50_gn", "a ResNet with GroupNorm", "no layer has a `running_mean`"),
        ("seresnet50", "an SE-ResNet", "`layer1.0.se.fc1.bias`"),
        ("seresnet50t", "an SE-ResNet", "`layer1.0.se.fc1.bias`"),
        ("ecaresnet50d", "an ECA-ResNet", "`layer1.0.se.conv.weight`"),
        ("ecaresnet26t", "an ECA-ResNet", "`layer1.0.se.conv.weight`"),
        ("ecaresnetlight", "an ECA-ResNet", "`layer1.0.se.conv.weight`"),
        ("resnext50_32x4d", "a ResNeXt", "`layer1.0.conv2.weight` is [128, 4, 3, 3]: 32 groups"),
        ("resnext101_64x4d", "a ResNeXt", "`layer1.0.conv2.weight` is [256, 4, 3, 3]: 64 groups"),
        ("resnext50d_32x4d", "a ResNet-D", "`conv1.0.weight` [32, 3, 3, 3]"),
        ("seresnext50_32x4d", "an SE-ResNet", "`layer1.0.se.fc1.bias`"),
        ("wide_resnet50_2", "a Wide ResNet", "`layer1.0.conv1.weight` is [128, 64, 1, 1]"),
        ("wide_resnet101_2", "a Wide ResNet", "`layer1.0.conv1.weight` is [128, 64, 1, 1]"),
        ("resnetv2_50", "a ResNetV2", "`stages.0.blocks.0.norm1."),
        ("resnetv2_50x1_bit", "a ResNetV2", "`stages.0.blocks.0.norm1."),
        ("resnetv2_50d_gn", "a ResNetV2", "`stages.0.blocks.0.norm1."),
        ("resnest50d", "a ResNeSt", "`layer1.0.conv2.fc1.bias`"),
        ("res2net50_26w_4s", "a Res2Net", "`layer1.0.convs.0.weight`"),
        ("skresnet18", "a ResNet with attention", "`layer1.0.conv1.attn."),
        ("gcresnet50t", "a ResNet with attention", "`stages.0.0.attn."),
        ("resnet50_clip", "named stages", "`stages.0.0."),
        ("cspresnet50", "named stages", "`stages.0."),
        ("convnext_tiny", "named stages", "`stages.0."),
    ] {
        let error = timm_checkpoint(network).open_error();
        assert!(error.contains("not a plain ResNet"), "{network}: {error}");
        assert!(error.contains(name), "{network}: {error}");
        assert!(error.contains(evidence), "{network}: {error}");
        assert!(error.contains("model.safetensors"), "{network}: {error}");
    }
}

#[test]
fn networks_without_resnet_blocks_are_rejected() {
    for (network, evidence) in [
        ("resnet26", "the numbers of bottleneck blocks in its four stages, [1, 1, 1, 1], are not"),
        ("vgg11_bn", "no tensor is named like `layer1.0.conv1.weight`, but there are features.0.bias"),
    ] {
        let error = timm_checkpoint(network).open_error();
        assert!(error.contains("is not a ResNet") && error.contains(evidence), "{network}: {error}");
    }
}

#[test]
fn networks_with_the_tensors_of_a_resnet_are_rejected_by_their_config() {
    // These two networks have the same tensors as ResNet-50.
    let table: TensorTable = golden_json("lookalikes.json");
    for network in ["resnetaa50", "resnetblur50"] {
        let resnet = tensor_shapes("resnet50");
        assert!(table[network].iter().all(|(name, (_, shape))| resnet.get(name) == Some(shape)), "{network}");
    }
    let directory = StateDict::from_formula("resnet50").to_dir();
    for (config, name, evidence) in [
        (r#"{"architecture": "resnetaa50"}"#, "resnetaa50", "`architecture` is \"resnetaa50\""),
        (r#"{"architecture": "resnetblur50.bt_in1k"}"#, "resnetblur50", "`architecture` is"),
        (r#"{"architecture": "gluon_resnet50_v1s"}"#, "gluon_resnet50_v1s", "`architecture` is"),
        (
            r#"{"architecture": "resnet50", "model_args": {"aa_layer": "avg"}}"#,
            "non-default arguments",
            "`aa_layer`",
        ),
        (
            r#"{"model_type": "resnet", "downsample_in_bottleneck": true}"#,
            "2015",
            "`downsample_in_bottleneck`",
        ),
        (
            r#"{"model_type": "resnet", "downsample_in_first_stage": true}"#,
            "first stage",
            "`downsample_in_first_stage`",
        ),
        (r#"{"model_type": "resnet", "hidden_act": "gelu"}"#, "activation", "`hidden_act` is \"gelu\""),
        (r#"{"model_type": "regnet"}"#, "regnet", "`model_type` is \"regnet\""),
    ] {
        directory.write("config.json", config);
        let error = directory.open_error();
        for part in ["not a plain ResNet", "model.safetensors", "config.json", name, evidence] {
            assert!(error.contains(part), "{config}: {error}");
        }
    }
}

#[test]
fn configs_that_contradict_the_tensors_are_rejected() {
    let directory = StateDict::from_formula("resnet18").to_dir();
    for (config, key) in [
        (
            r#"{"architecture": "resnet34"}"#,
            "`architecture` is resnet34, but the weights are those of resnet18: replace this config.json",
        ),
        (r#"{"model_type": "resnet", "depths": [3, 4, 6, 3]}"#, "`depths` is [3, 4, 6, 3]"),
        (r#"{"model_type": "resnet", "layer_type": "bottleneck"}"#, "`layer_type` is \"bottleneck\""),
    ] {
        directory.write("config.json", config);
        let error = directory.open_error();
        assert!(error.contains(key) && error.contains("config.json"), "{config}: {error}");
    }
}

/// Includes older names of timm, tags, arguments that do not matter before `avgpool`, and the keys of
/// transformers.
#[test]
fn configs_that_agree_with_the_tensors_are_accepted() {
    let directory = StateDict::from_formula("resnet18").to_dir();
    for config in [
        r#"{"architecture": "resnet18"}"#,
        r#"{"architecture": "resnet18.a1_in1k"}"#,
        r#"{"architecture": "tv_resnet18"}"#,
        r#"{"architecture": "ssl_resnet18"}"#,
        r#"{"architecture": "swsl_resnet18"}"#,
        r#"{"architecture": "gluon_resnet18_v1b"}"#,
        r#"{"architecture": "resnet18", "model_args": {"drop_block_rate": 0.1, "drop_path_rate": 0.1, "drop_rate": 0.1,
            "global_pool": "max", "in_chans": 3, "num_classes": 5, "zero_init_last": false}}"#,
        r#"{"model_type": "resnet", "depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_act": "relu",
            "downsample_in_bottleneck": false, "downsample_in_first_stage": false}"#,
    ] {
        directory.write("config.json", config);
        assert_eq!(directory.open().unwrap().architecture().as_str(), "resnet18", "{config}");
    }
    for config in [
        r#"{"architecture": "xssl_resnet18"}"#,
        r#"{"architecture": "gluon_resnet18_v1c"}"#,
        r#"{"architecture": "tv_ssl_resnet18"}"#,
    ] {
        directory.write("config.json", config);
        assert!(directory.open_error().contains("is not a plain ResNet but"), "{config}");
    }
}

#[test]
fn a_single_tensor_is_enough_to_recognize_another_network() {
    let shapes = tensor_shapes("resnet50");
    let whole: Vec<(&str, &[usize])> = shapes
        .iter()
        .filter(|(_, shape)| !shape.is_empty())
        .map(|(name, shape)| (name.as_str(), shape.as_slice()))
        .collect();
    for (name, shape, expected) in [
        (
            "layer2.1.se.conv.weight",
            &[1, 1, 3][..],
            "an ECA-ResNet (efficient channel attention): it has tensor `layer2.1.se.conv.weight`",
        ),
        ("maxpool.0.weight", &[1], "a ResNet-RS: it has tensor `maxpool.0.weight`"),
        (
            "layer2.1.se.fc1.bias",
            &[1],
            "an SE-ResNet (squeeze and excitation): it has tensor `layer2.1.se.fc1.bias`",
        ),
        ("layer2.1.attn.x", &[1], "a ResNet with attention in its blocks: it has tensor `layer2.1.attn.x`"),
        ("layer2.1.convs.0.weight", &[1], "a Res2Net: it has tensor `layer2.1.convs.0.weight`"),
        (
            "layer2.1.conv2.fc1.bias",
            &[1],
            "a ResNeSt (split attention): it has tensor `layer2.1.conv2.fc1.bias`",
        ),
        ("stem.conv1.weight", &[1], "a timm network with named stages: it has tensor `stem.conv1.weight`"),
        ("stages.0.x", &[1], "a timm network with named stages: it has tensor `stages.0.x`"),
        (
            "conv1.0.weight",
            &[48, 3, 3, 3],
            "a ResNet with a stem of several convolutions: it has tensor `conv1.0.weight` [48, 3, 3, 3]",
        ),
        (
            "layer2.0.downsample.1.weight",
            &[512, 256, 1, 1],
            "a ResNet with average pools in its shortcuts: `layer2.0.downsample.1.weight` is a convolution, \
             after an average pool",
        ),
        (
            "layer1.0.conv2.weight",
            &[64, 32, 3, 3],
            "a ResNeXt (grouped convolutions): `layer1.0.conv2.weight` is [64, 32, 3, 3]: 2 groups",
        ),
        (
            "layer1.0.conv1.weight",
            &[65, 64, 1, 1],
            "a Wide ResNet: `layer1.0.conv1.weight` is [65, 64, 1, 1], not [64, 64, 1, 1]",
        ),
    ] {
        let others = whole.iter().copied().filter(|(other, _)| *other != name);
        let tensors = others.chain([(name, shape)]).map(|(name, shape)| (name, "F32", shape));
        let directory = CheckpointDir::new();
        write_zeros(&directory.path("model.safetensors"), tensors);
        let error = directory.open_error();
        let expected =
            format!("model.safetensors is not a plain ResNet but {expected}; choose the weights of");
        assert!(error.contains(&expected), "{error}");
    }
    // These are not a Wide ResNet or a ResNeXt but misshapen: the convolution is narrower, or has too many
    // inputs.
    for (name, shape) in
        [("layer1.0.conv1.weight", &[32, 64, 1, 1]), ("layer1.0.conv2.weight", &[64, 128, 3, 3])]
    {
        let others = whole.iter().copied().filter(|(other, _)| *other != name);
        let tensors = others.chain([(name, &shape[..])]).map(|(name, shape)| (name, "F32", shape));
        let directory = CheckpointDir::new();
        write_zeros(&directory.path("model.safetensors"), tensors);
        let error = directory.open_error();
        assert!(
            error.contains(&format!("is not a complete resnet50 model: tensor `{name}` has shape {shape:?}")),
            "{error}"
        );
    }
}
