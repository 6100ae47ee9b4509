//! Names and sizes of feature layers and architectures.

use headstock_backbone::{Architecture, FeatureLayer};

// effect: backbone.layer
#[test]
fn layer_names_round_trip_and_the_default_is_avgpool() {
    assert_eq!(FeatureLayer::default(), FeatureLayer::Avgpool);
    let names = ["stem", "layer1", "layer2", "layer3", "layer4", "avgpool"];
    for (name, layer) in names.into_iter().zip(FeatureLayer::ALL) {
        assert_eq!(name.parse(), Ok(layer));
        assert_eq!(layer.to_string(), name);
        let json = format!("\"{name}\"");
        assert_eq!(serde_json::from_str::<FeatureLayer>(&json).unwrap(), layer);
        assert_eq!(serde_json::to_string(&layer).unwrap(), json);
    }
    assert!(FeatureLayer::ALL.is_sorted(), "layers are ordered from the input to the output");
    for name in ["layer5", "Layer1", "pool", ""] {
        let expected =
            format!("there is no layer `{name}`: use one of stem, layer1, layer2, layer3, layer4, avgpool");
        assert_eq!(name.parse::<FeatureLayer>(), Err(expected));
    }
}

#[test]
fn channels_and_output_sizes_match_torchvision() {
    for (architecture, channels) in [
        (Architecture::ResNet18, [64, 64, 128, 256, 512, 512]),
        (Architecture::ResNet34, [64, 64, 128, 256, 512, 512]),
        (Architecture::ResNet50, [64, 256, 512, 1024, 2048, 2048]),
        (Architecture::ResNet101, [64, 256, 512, 1024, 2048, 2048]),
        (Architecture::ResNet152, [64, 256, 512, 1024, 2048, 2048]),
    ] {
        assert_eq!(FeatureLayer::ALL.map(|layer| layer.channels(architecture)), channels, "{architecture}");
    }
    for ((height, width), sizes) in [
        ((224, 224), [(56, 56), (56, 56), (28, 28), (14, 14), (7, 7), (1, 1)]),
        ((32, 33), [(8, 9), (8, 9), (4, 5), (2, 3), (1, 2), (1, 1)]),
        ((225, 64), [(57, 16), (57, 16), (29, 8), (15, 4), (8, 2), (1, 1)]),
    ] {
        assert_eq!(FeatureLayer::ALL.map(|layer| layer.output_size(height, width)), sizes);
    }
}

#[test]
fn architecture_names_round_trip() {
    for (name, architecture) in
        ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"].into_iter().zip(Architecture::ALL)
    {
        assert_eq!(name.parse(), Ok(architecture));
        assert_eq!(architecture.to_string(), name);
    }
    for name in ["resnet26", "ResNet18", "resnet", ""] {
        assert_eq!(name.parse::<Architecture>(), Err(()));
    }
}
