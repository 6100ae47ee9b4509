//! Cached features are what the network computes.

use std::fs;

use headstock_backbone::{Preprocessing, Resampling};
use headstock_loader::encode::thumbnail;
use headstock_loader::{ColorProfiles, DecodeMode, LazyImage, RenderSpec, render_views};
use sha2::{Digest, Sha256};

use super::*;

/// Random draws of every kind: position, magnitude, probability.
const AUGMENTED: [&str; 3] =
    ["augment.random_resized_crop={}", "augment.horizontal_flip=0.5", "augment.rotation=40"];

// effect: features.views, augment.seed
#[test]
fn each_vector_belongs_to_its_image_and_view() {
    let project = Project::new(&[1, 2, 3]);
    let features = project.prepare(&AUGMENTED, 2).unwrap();
    assert_eq!((features.width(), features.computed()), (64, 9));
    let augment = project.settings(&AUGMENTED).augment;
    let expected = |image: usize, view: ViewIndex| {
        let bytes = project.bytes(image);
        let (decoded, hash) = (decode(&bytes, 10_000).unwrap(), Sha256::digest(&bytes).into());
        let rendered = if view == 0 {
            eval_transform().apply(&decoded)
        } else {
            RenderSpec::augmented(&augment, &eval_transform(), decoded.dimensions(), view, &hash)
                .render(&decoded)
        };
        expected_features(rendered.as_raw(), FeatureLayer::Stem)
    };
    for view in [0, 1, 2] {
        let mut found = vec![7.0];
        features.append(&[2, 0, 1, 0], view, &mut found).unwrap();
        let rows = [2, 0, 1, 0].map(|image| expected(image, view)).concat();
        assert!(found == [vec![7.0], rows].concat(), "view {view}");
    }
    assert!(expected(0, 0) != expected(0, 1) && expected(0, 1) != expected(0, 2));
    // Another seed changes the augmented views only.
    let seeded = [&AUGMENTED[..], &["augment.seed=5"]].concat();
    assert_eq!(project.computed(&seeded, 2), 6);
}

#[test]
fn the_random_draws_of_a_view_depend_on_the_image_bytes() {
    // The same pixels in files with different bytes: only the random draws differ.
    let folder = TestFolder::new();
    let image = synthetic_image(1, 48, 40);
    let first_file = headstock_loader::encode::png(&image);
    let mut second_file = first_file.clone();
    // An ignored PNG chunk before the end.
    let end = second_file.len() - 12;
    second_file.splice(end..end, *b"\0\0\0\0teSt\x37\xfb\xbd\x1d");
    assert_eq!(decode(&first_file, 10_000).unwrap(), decode(&second_file, 10_000).unwrap());
    let options = folder.settings(STEM, &AUGMENTED);
    let renderer = Renderer::new(eval_transform(), options.augment.clone(), options.decode);
    let checked_view = |bytes: &[u8], view_id| {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let image_ref = ImageRef::from(folder.write("photo.png", bytes));
        let rendered = renderer.render_view(&image_ref, &hash, view_id).unwrap();
        let image = decode(bytes, 10_000).unwrap();
        let expected = match view_id {
            ViewId::Numbered(0) => eval_transform().apply(&image),
            ViewId::Numbered(view) => {
                RenderSpec::augmented(&options.augment, &eval_transform(), image.dimensions(), view, &hash)
                    .render(&image)
            }
            ViewId::PerEpoch { epoch } => RenderSpec::augmented_in_epoch(
                &options.augment,
                &eval_transform(),
                image.dimensions(),
                epoch,
                &hash,
            )
            .render(&image),
        };
        assert!(rendered == expected.into_raw(), "{view_id:?}");
        rendered
    };
    let [eval, first, second] = [0, 1, 2].map(ViewId::Numbered);
    let [now, later] = [0, 1].map(|epoch| ViewId::PerEpoch { epoch });
    assert_eq!(checked_view(&first_file, eval), checked_view(&second_file, eval));
    for view_id in [first, second, now, later] {
        assert_ne!(checked_view(&first_file, view_id), checked_view(&second_file, view_id), "{view_id:?}");
    }
    for (a, b) in [(eval, first), (first, second), (second, now), (now, later)] {
        assert_ne!(checked_view(&first_file, a), checked_view(&first_file, b), "{a:?} {b:?}");
    }
    // An image that changed since it was hashed is rejected.
    let image_ref = ImageRef::from(folder.write("photo.png", &first_file));
    let error = renderer.render_view(&image_ref, &Sha256::digest(&second_file).into(), eval).unwrap_err();
    assert!(error.to_string().contains("the file changed while in use"), "{error}");
}

// effect: features.cache, features.views
#[test]
fn only_missing_features_are_computed() {
    // Two of the four have the same bytes.
    let mut project = Project::new(&[1, 2, 3, 2]);
    let augment = ["augment.invert=0.5"];
    assert_eq!(project.computed(&[], 0), 3);
    assert_eq!(project.computed(&[], 0), 0);
    assert_eq!(project.computed(&augment, 1), 3);
    assert_eq!(project.computed(&augment, 3), 6);
    assert_eq!(project.computed(&augment, 2), 0);
    assert_eq!(project.computed(&["augment.invert=0.4"], 1), 3);
    assert_eq!(project.computed(&["backbone.layer=layer1"], 0), 3);
    assert_eq!(project.computed(&["features.cache=elsewhere"], 0), 3);
    assert!(project.folder.path("elsewhere/features.redb").is_file());
    assert!(project.folder.path(".headstock/features.redb").is_file());
    // A renamed file hits the cache; another image under the old name does not.
    let moved = project.folder.path("photos/moved.png");
    fs::rename(project.images[0].file_path().unwrap(), &moved).unwrap();
    project.images[0] = moved.clone().into();
    assert_eq!(project.computed(&[], 0), 0);
    project.folder.write_image("photos/moved.png", 9);
    assert_eq!(project.computed(&[], 0), 1);
}

#[test]
fn the_number_of_views_is_set_per_image() {
    let project = Project::new(&[1, 2, 3]);
    let options = project.settings(&["augment.invert=0.5"]);
    let prepare = |n_augmented: &[u32]| {
        ExtractedFeatures::prepare_with(
            Some(small_backbone()),
            &pretrained(&options),
            options.extract_options(),
            &project.images,
            n_augmented,
            &(),
        )
    };
    assert_eq!(prepare(&[2, 0, 1]).unwrap().computed(), 6);
    let features = prepare(&[2, 0, 0]).unwrap();
    assert_eq!(features.computed(), 0);
    features.append(&[0, 2], 1, &mut Vec::new()).unwrap();
    let error = features.append(&[1], 1, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("were removed from the cache"), "{error}");
}

// effect: data.decode, data.decode x features.cache
#[test]
fn exact_and_scaled_decoding_are_never_mixed() {
    let mut project = Project::new(&[]);
    let jpeg = thumbnail(&synthetic_image(4, 400, 300), 400);
    project.images = vec![project.folder.write("photos/large.jpg", &jpeg).into()];
    let rendered = |mode: DecodeMode| {
        let image = LazyImage::open(&jpeg, 200_000).unwrap();
        let mut views = render_views(image, mode, &[eval_transform().render_spec()]).unwrap();
        expected_features(&views.swap_remove(0).into_raw(), FeatureLayer::Stem)
    };
    let (exact, scaled) = (rendered(DecodeMode::Exact), rendered(DecodeMode::Scaled));
    assert_ne!(exact, scaled);
    for (set, computed, expected) in [
        (&[][..], 1, &exact),
        (&["data.decode=scaled"], 1, &scaled),
        (&["data.decode=exact"], 0, &exact),
        (&["data.decode=scaled"], 0, &scaled),
    ] {
        let features = project.prepare(set, 0).unwrap();
        assert_eq!(features.computed(), computed, "{set:?}");
        let mut found = Vec::new();
        features.append(&[0], 0, &mut found).unwrap();
        assert_eq!(&found, expected, "{set:?}");
    }
    // Augmented views use the decode mode, too.
    let options = project.settings(&["data.decode=scaled", "augment.random_resized_crop={}"]);
    let augmented = Renderer::new(eval_transform(), options.augment.clone(), options.decode);
    let hash: [u8; 32] = Sha256::digest(&jpeg).into();
    let found = augmented.render_view(&project.images[0], &hash, ViewId::Numbered(1)).unwrap();
    let view = RenderSpec::augmented(&options.augment, &eval_transform(), (400, 300), 1, &hash);
    let image = LazyImage::open(&jpeg, 200_000).unwrap();
    let expected = render_views(image, DecodeMode::Scaled, &[view]).unwrap().swap_remove(0).into_raw();
    assert!(found == expected);
    let eval_view = eval_transform().render_file(&jpeg, options.decode).unwrap();
    assert_eq!(expected_features(eval_view.as_raw(), FeatureLayer::Stem), scaled);
}

// effect: data.color
#[test]
fn features_are_those_of_the_converted_colors() {
    let mut project = Project::new(&[1, 2]);
    let file = fs::read(headstock_testing::reference_path("color/files/p3.png")).unwrap();
    project.images[0] = project.folder.write("photos/p3.png", &file).into();
    let features_of = |set: &[&str]| {
        let features = project.prepare(set, 0).unwrap();
        let mut found = Vec::new();
        features.append(&[0], 0, &mut found).unwrap();
        (features.computed(), found)
    };
    let expected = |options: DecodeOptions| {
        let pixels = eval_transform().apply(&decode(&file, options).unwrap());
        expected_features(pixels.as_raw(), FeatureLayer::Stem)
    };
    let stored = expected(DecodeOptions::default());
    let converted = expected(DecodeOptions { color: ColorProfiles::Srgb, ..DecodeOptions::default() });
    assert_ne!(stored, converted);
    assert_eq!(features_of(&[]), (2, stored.clone()));
    // The image without a profile is not computed again.
    assert_eq!(features_of(&["data.color=srgb"]), (1, converted));
    assert_eq!(features_of(&["data.color=ignore"]), (0, stored));
}

// effect: backbone.layer
#[test]
fn features_are_taken_at_the_configured_layer() {
    let project = Project::new(&[1]);
    let pixels = eval_transform().apply(&decode(&project.bytes(0), 10_000).unwrap()).into_raw();
    for (name, layer, width) in [
        ("stem", FeatureLayer::Stem, 64),
        ("layer1", FeatureLayer::Layer1, 256),
        ("layer2", FeatureLayer::Layer2, 512),
        ("layer3", FeatureLayer::Layer3, 1024),
        ("layer4", FeatureLayer::Layer4, 2048),
        ("avgpool", FeatureLayer::Avgpool, 2048),
    ] {
        let features = project.prepare(&[&format!("backbone.layer={name}")], 0).unwrap();
        assert_eq!((features.width(), features.computed()), (width, 1), "{name}");
        let mut found = Vec::new();
        features.append(&[0], 0, &mut found).unwrap();
        assert!(found == expected_features(&pixels, layer), "{name}");
    }
}

// effect: backbone.device
#[test]
fn the_network_runs_on_the_configured_device() {
    let project = Project::new(&[1]);
    let with_device = |device: &str| project.settings(&[&format!("backbone.device={device}")]);
    let choices =
        ["cpu", "auto", "cuda", "cuda:2"].map(|device| pretrained(&with_device(device)).options.device);
    let [first, third] = [0, 2].map(DeviceChoice::Cuda);
    assert_eq!(choices, [DeviceChoice::Cpu, DeviceChoice::Auto, first, third]);
    if cfg!(not(feature = "cuda")) {
        let Err(error) = pretrained(&with_device("cuda:2")).load() else { panic!("there is no such device") };
        let error = error.to_string();
        let expected = "the device \"cuda:2\" needs a headstock that is built with CUDA";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn images_are_rendered_with_the_preprocessing_of_the_weights() {
    let options = Project::new(&[]).settings(&[]);
    for interpolation in Resampling::ALL {
        let preprocessing =
            Preprocessing { resize: 50.into(), crop: [33, 44], interpolation, ..small_preprocessing() };
        let checkpoint = Checkpoint::open_with(&bundled_weights(), Some(&preprocessing)).unwrap();
        let pretrained = PretrainedBackbone::from_checkpoint(checkpoint, options.backbone.clone().unwrap());
        let expected = EvalTransform { resize: 50.into(), crop: (33, 44), interpolation };
        assert_eq!(pretrained.transform(), expected);
    }
}
