//! Networks that look like a ResNet are refused by name, with what gave them away.

use std::collections::BTreeMap;

use crate::support::{Folder, State, golden_json, names, write_zeros};

type Table = BTreeMap<String, BTreeMap<String, (String, Vec<usize>)>>;

/// A file with the tensors that timm's network has.
fn timms(network: &str) -> Folder {
    let table: Table = golden_json("lookalikes.json");
    let tensors = &table[network];
    let folder = Folder::new();
    let entries = tensors.iter().map(|(name, (dtype, shape))| {
        (name.as_str(), if dtype == "int64" { "I64" } else { "F32" }, shape.as_slice())
    });
    write_zeros(&folder.path("model.safetensors"), entries);
    folder
}

#[test]
fn look_alikes_are_refused_by_name_with_what_gave_them_away() {
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
        let refusal = timms(network).refusal();
        assert!(refusal.contains("no plain ResNet"), "{network}: {refusal}");
        assert!(refusal.contains(name), "{network}: {refusal}");
        assert!(refusal.contains(evidence), "{network}: {refusal}");
        assert!(refusal.contains("model.safetensors"), "{network}: {refusal}");
    }
}

#[test]
fn other_networks_are_no_resnet() {
    for (network, evidence) in [
        ("resnet26", "[1, 1, 1, 1] bottleneck blocks"),
        ("vgg11_bn", "no tensor is named like `layer1.0.conv1.weight`; they are features.0.bias"),
    ] {
        let refusal = timms(network).refusal();
        assert!(refusal.contains("holds no ResNet") && refusal.contains(evidence), "{network}: {refusal}");
    }
}

#[test]
fn look_alikes_whose_tensors_are_a_resnets_are_refused_by_their_config() {
    // No tensor of these two tells them from ResNet-50.
    let table: Table = golden_json("lookalikes.json");
    for network in ["resnetaa50", "resnetblur50"] {
        let resnet = names("resnet50");
        assert!(table[network].iter().all(|(name, (_, shape))| resnet.get(name) == Some(shape)), "{network}");
    }
    let folder = State::formula("resnet50").written();
    for (config, name, evidence) in [
        (r#"{"architecture": "resnetaa50"}"#, "resnetaa50", "`architecture` is \"resnetaa50\""),
        (r#"{"architecture": "resnetblur50.bt_in1k"}"#, "resnetblur50", "`architecture` is"),
        (r#"{"architecture": "gluon_resnet50_v1s"}"#, "gluon_resnet50_v1s", "`architecture` is"),
        (r#"{"architecture": "resnet50", "model_args": {"aa_layer": "avg"}}"#, "other parts", "`aa_layer`"),
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
        folder.write("config.json", config);
        let refusal = folder.refusal();
        for part in ["no plain ResNet", "model.safetensors", "config.json", name, evidence] {
            assert!(refusal.contains(part), "{config}: {refusal}");
        }
    }
}

#[test]
fn configs_that_contradict_the_tensors_are_refused() {
    let folder = State::formula("resnet18").written();
    for (config, key) in [
        (
            r#"{"architecture": "resnet34"}"#,
            "`architecture` is resnet34, but the tensors are those of resnet18",
        ),
        (r#"{"model_type": "resnet", "depths": [3, 4, 6, 3]}"#, "`depths` is [3, 4, 6, 3]"),
        (r#"{"model_type": "resnet", "layer_type": "bottleneck"}"#, "`layer_type` is \"bottleneck\""),
    ] {
        folder.write("config.json", config);
        let refusal = folder.refusal();
        assert!(refusal.contains(key) && refusal.contains("config.json"), "{config}: {refusal}");
    }
}
