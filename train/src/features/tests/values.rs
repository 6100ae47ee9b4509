//! What is kept of a photo is what the network gives for it.

use std::fs;

use headstock_loader::encode::thumbnail;
use headstock_loader::{DecodeMode, LazyImage};
use sha2::{Digest, Sha256};

use super::*;

/// Draws of every kind: where, how far, whether.
const AUGMENTED: [&str; 3] =
    ["augment.random_resized_crop={}", "augment.horizontal_flip=0.5", "augment.rotation=40"];

// effect: features.views, augment.seed
#[test]
fn each_vector_is_that_of_its_photo_and_view() {
    let project = Project::new(&[1, 2, 3]);
    let features = project.prepare(&AUGMENTED, 2).unwrap();
    assert_eq!((features.width(), features.computed()), (64, 9));
    let augment = project.settings(&AUGMENTED).options.augment;
    let of = |photo: usize, view: ViewIndex| {
        let bytes = project.bytes(photo);
        let (decoded, hash) = (decode(&bytes, 10_000).unwrap(), Sha256::digest(&bytes).into());
        let rendered = if view == 0 {
            eval_transform().apply(&decoded)
        } else {
            augment.view(&decoded, &eval_transform(), view, &hash)
        };
        expected_features(rendered.as_raw(), FeatureLayer::Stem)
    };
    for view in [0, 1, 2] {
        let mut found = vec![7.0];
        features.append(&[2, 0, 1, 0], view, &mut found).unwrap();
        let expected = [vec![7.0], of(2, view), of(0, view), of(1, view), of(0, view)].concat();
        assert!(found == expected, "view {view}");
    }
    assert!(of(0, 0) != of(0, 1) && of(0, 1) != of(0, 2));
    // The draws of another seed are others, and the plain view stays.
    let seeded = [&AUGMENTED[..], &["augment.seed=5"]].concat();
    assert_eq!(project.computed(&seeded, 2), 6);
}

#[test]
fn the_draws_of_a_view_are_the_photos_own() {
    // One picture in files of other bytes: what differs are the draws alone.
    let folder = TestFolder::new();
    let image = synthetic_image(1, 48, 40);
    let one = headstock_loader::encode::png(&image);
    let mut other = one.clone();
    // A chunk that says nothing, before the end.
    let end = other.len() - 12;
    other.splice(end..end, *b"\0\0\0\0teSt\x37\xfb\xbd\x1d");
    assert_eq!(decode(&one, 10_000).unwrap(), decode(&other, 10_000).unwrap());
    let options = folder.settings(STEM, &AUGMENTED).options;
    let renderer = Renderer::new(eval_transform(), options.augment.clone(), &options.data);
    let of = |bytes: &[u8], rendering| {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let photo = ImageRef::from(folder.write("photo.png", bytes));
        let rendered = renderer.render_view(&photo, &hash, rendering).unwrap();
        let image = decode(bytes, 10_000).unwrap();
        let expected = match rendering {
            ViewId::Numbered(0) => eval_transform().apply(&image),
            ViewId::Numbered(view) => options.augment.view(&image, &eval_transform(), view, &hash),
            ViewId::PerEpoch { epoch } => options.augment.epoch_view(&image, &eval_transform(), epoch, &hash),
        };
        assert!(rendered == expected.into_raw(), "{rendering:?}");
        rendered
    };
    let [plain, first, second] = [0, 1, 2].map(ViewId::Numbered);
    let [now, later] = [0, 1].map(|epoch| ViewId::PerEpoch { epoch });
    assert_eq!(of(&one, plain), of(&other, plain));
    for rendering in [first, second, now, later] {
        assert_ne!(of(&one, rendering), of(&other, rendering), "{rendering:?}");
    }
    for (a, b) in [(plain, first), (first, second), (second, now), (now, later)] {
        assert_ne!(of(&one, a), of(&one, b), "{a:?} {b:?}");
    }
    // A photo that changed since it was hashed is not taken for the one that it was.
    let photo = ImageRef::from(folder.write("photo.png", &one));
    let error = renderer.render_view(&photo, &Sha256::digest(&other).into(), plain).unwrap_err();
    assert!(error.to_string().contains("changed while it was in use"), "{error}");
}

// effect: features.cache, features.views
#[test]
fn only_what_is_lacking_is_computed() {
    // Two of the four have the same bytes.
    let mut project = Project::new(&[1, 2, 3, 2]);
    let views = ["augment.invert=0.5"];
    assert_eq!(project.computed(&[], 0), 3);
    assert_eq!(project.computed(&[], 0), 0);
    assert_eq!(project.computed(&views, 1), 3);
    assert_eq!(project.computed(&views, 3), 6);
    assert_eq!(project.computed(&views, 2), 0);
    assert_eq!(project.computed(&["augment.invert=0.4"], 1), 3);
    assert_eq!(project.computed(&["backbone.layer=layer1"], 0), 3);
    assert_eq!(project.computed(&["features.cache=elsewhere"], 0), 3);
    assert!(project.folder.path("elsewhere/features.redb").is_file());
    assert!(project.folder.path(".headstock/features.redb").is_file());
    // A photo under another name is the same, and another photo under its name is not.
    let moved = project.folder.path("photos/moved.png");
    fs::rename(project.images[0].file_path().unwrap(), &moved).unwrap();
    project.images[0] = moved.clone().into();
    assert_eq!(project.computed(&[], 0), 0);
    project.folder.write_image("photos/moved.png", 9);
    assert_eq!(project.computed(&[], 0), 1);
}

#[test]
fn photos_have_as_many_views_as_is_asked_of_each() {
    let project = Project::new(&[1, 2, 3]);
    let options = project.settings(&["augment.invert=0.5"]).options;
    let prepare = |views: &[ViewIndex]| {
        ExtractedFeatures::prepare_with(
            Some(small_backbone()),
            &pretrained(&options),
            &options,
            &project.images,
            views,
            &(),
        )
    };
    assert_eq!(prepare(&[2, 0, 1]).unwrap().computed(), 6);
    let features = prepare(&[2, 0, 0]).unwrap();
    assert_eq!(features.computed(), 0);
    features.append(&[0, 2], 1, &mut Vec::new()).unwrap();
    let error = features.append(&[1], 1, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("have left the cache"), "{error}");
}

// effect: data.decode, data.decode x features.cache
#[test]
fn exact_and_scaled_decoding_are_never_mixed() {
    let mut project = Project::new(&[]);
    let jpeg = thumbnail(&synthetic_image(4, 400, 300), 400);
    project.images = vec![project.folder.write("photos/large.jpg", &jpeg).into()];
    let rendered = |mode: DecodeMode| {
        let photo = LazyImage::open(&jpeg, 200_000).unwrap();
        let pixels = photo.render(mode, &[eval_transform().render_spec()]).unwrap().swap_remove(0).into_raw();
        expected_features(&pixels, FeatureLayer::Stem)
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
    // The views of a mode are of that mode as well.
    let options = project.settings(&["data.decode=scaled", "augment.random_resized_crop={}"]).options;
    let augmented = Renderer::new(eval_transform(), options.augment.clone(), &options.data);
    let hash: [u8; 32] = Sha256::digest(&jpeg).into();
    let found = augmented.render_view(&project.images[0], &hash, ViewId::Numbered(1)).unwrap();
    let view = options.augment.render_spec((400, 300), &eval_transform(), 1, &hash);
    let decoder = LazyImage::open(&jpeg, 200_000).unwrap();
    let expected = decoder.render(DecodeMode::Scaled, &[view]).unwrap().swap_remove(0).into_raw();
    assert!(found == expected);
    assert_eq!(
        expected_features(
            &Renderer::eval_only(eval_transform(), &options.data).eval_view(&jpeg).unwrap(),
            FeatureLayer::Stem
        ),
        scaled
    );
}

// effect: backbone.layer
#[test]
fn features_are_taken_at_the_layer_that_is_named() {
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
fn the_network_runs_on_the_device_that_is_named() {
    let project = Project::new(&[1]);
    let named = |device: &str| project.settings(&[&format!("backbone.device={device}")]).options;
    let choices = ["cpu", "auto", "cuda", "cuda:2"].map(|device| pretrained(&named(device)).options().device);
    let [first, third] = [0, 2].map(DeviceChoice::Cuda);
    assert_eq!(choices, [DeviceChoice::Cpu, DeviceChoice::Auto, first, third]);
    if cfg!(not(feature = "cuda")) {
        let Err(error) = pretrained(&named("cuda:2")).load() else { panic!("there is none") };
        let error = error.to_string();
        assert!(error.contains("`backbone.device = \"cuda:2\"` needs a binary built with CUDA"), "{error}");
    }
}

#[test]
fn photos_are_rendered_as_the_record_of_the_weights_says() {
    use headstock_loader::Resampling as Filter;
    let options = Project::new(&[]).settings(&[]).options;
    for (interpolation, filter) in [
        (Interpolation::Nearest, Filter::Nearest),
        (Interpolation::Bilinear, Filter::Bilinear),
        (Interpolation::Bicubic, Filter::Bicubic),
        (Interpolation::Lanczos, Filter::Lanczos),
    ] {
        let record = Preprocessing { resize: 50, crop: [33, 44], interpolation, ..small_preprocessing() };
        let checkpoint = Checkpoint::open_with(&bundled_weights(), &record).unwrap();
        let stock = PretrainedBackbone { checkpoint, options: options.backbone.clone().unwrap() };
        let expected = EvalTransform { resize: 50, crop: (33, 44), interpolation: filter };
        assert_eq!(stock.transform(), expected);
    }
}
