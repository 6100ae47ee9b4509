//! Images that cannot be read.

use super::*;
use crate::compare::log_capture;

/// Four images, of which the second (text) and the fourth (a PNG with corrupt data) cannot be read.
fn project_with_unreadable() -> Project {
    let mut project = Project::new(&[1, 2, 3, 4]);
    project.images[1] = project.folder.write("photos/1.png", "no photo").into();
    let mut damaged = project.bytes(3);
    let middle = damaged.len() / 2;
    damaged[middle..middle + 20].fill(0);
    project.images[3] = project.folder.write("photos/3.png", damaged).into();
    project
}

fn file_names(unreadable: &UnreadableImages) -> Vec<PathBuf> {
    unreadable.0.iter().map(|(image, _)| image.file_path().unwrap().file_name().unwrap().into()).collect()
}

// effect: data.on_error
#[test]
fn unreadable_images_stop_the_work_with_a_list_or_are_skipped() {
    let project = project_with_unreadable();
    for set in [&[][..], &["data.on_error=stop"]] {
        match project.prepare(set, 0) {
            Err(TrainError::Unreadable(unreadable)) => {
                assert_eq!(file_names(&unreadable), [PathBuf::from("1.png"), PathBuf::from("3.png")]);
            }
            other => panic!("{:?}", other.map(|features| features.computed())),
        }
    }
    let features = project.prepare(&["data.on_error=skip"], 0).unwrap();
    assert_eq!([0, 1, 2, 3].map(|image| features.is_readable(image)), [true, false, true, false]);
    assert_eq!(features.computed(), 2);
    assert_eq!(features.hashes.iter().filter(|hash| hash.is_some()).count(), 2);
}

#[test]
fn a_damaged_image_under_two_names_is_reported_twice() {
    let mut project = project_with_unreadable();
    project.images[1] = project.folder.write("photos/4.png", project.bytes(3)).into();
    match project.prepare(&[], 0) {
        Err(TrainError::Unreadable(unreadable)) => {
            assert_eq!(file_names(&unreadable), [PathBuf::from("4.png"), PathBuf::from("3.png")]);
        }
        other => panic!("{:?}", other.map(|features| features.computed())),
    }
    let features = project.prepare(&["data.on_error=skip"], 0).unwrap();
    assert_eq!([0, 1, 2, 3].map(|image| features.is_readable(image)), [true, false, true, false]);
}

// effect: data.max_pixels
#[test]
fn images_above_max_pixels_are_not_decoded() {
    // 48 x 40.
    let project = Project::new(&[1]);
    let error = project.prepare(&["data.max_pixels=1919"], 0).err().expect("it is too large").to_string();
    assert!(error.contains("0.png"), "{error}");
    assert_eq!(project.computed(&["data.max_pixels=1920"], 0), 1);
    // Cached features need no decoding.
    assert_eq!(project.computed(&["data.max_pixels=1919"], 0), 0);
    // The limit also holds where no probe came before, as in prediction.
    let rendered = |limit: &str| {
        let options = project.settings(&[limit]);
        let bytes = project.bytes(0);
        let hash = Sha256::digest(&bytes).into();
        let decode = options.decode;
        let renderer = Renderer::new(eval_transform(), options.augment, decode);
        [
            eval_transform().render_file(&bytes, decode).is_ok(),
            renderer.render_view(&project.images[0], &hash, ViewId::Numbered(1)).is_ok(),
        ]
    };
    assert_eq!(rendered("data.max_pixels=1919"), [false; 2]);
    assert_eq!(rendered("data.max_pixels=1920"), [true; 2]);
    // The default limit.
    assert_eq!(Project::new(&[]).settings(&[]).decode.max_pixels, 200_000_000);
}

// effect: data.truncated
#[test]
fn truncated_images_are_used_if_they_are_accepted() {
    let mut project = Project::new(&[1, 2]);
    let whole = project.bytes(0);
    project.images[0] = project.folder.write("photos/cut.png", &whole[..whole.len() - 12]).into();
    let is_refused = |set: &[&str]| match project.prepare(set, 0) {
        Err(TrainError::Unreadable(unreadable)) => file_names(&unreadable) == [PathBuf::from("cut.png")],
        _ => false,
    };
    assert!(is_refused(&[]) && is_refused(&["data.truncated=error"]));
    assert_eq!(project.computed(&["data.on_error=skip"], 0), 1);
    // The other image is not computed again.
    let (features, messages) = log_capture::capture_events(tracing::Level::INFO, || {
        project.prepare(&["data.truncated=accept"], 0).unwrap()
    });
    assert_eq!(features.computed(), 1);
    assert_eq!(messages, ["1 photo ends too early: what is there of it is used"]);
    let mut found = Vec::new();
    features.append(&[0], 0, &mut found).unwrap();
    let pixels = eval_transform().apply(&decode(&whole, 10_000).unwrap());
    assert_eq!(found, expected_features(pixels.as_raw(), FeatureLayer::Stem));
    // What is cached for an accepted image is not used where it is refused.
    assert!(is_refused(&[]));
    assert_eq!(project.computed(&["data.truncated=accept"], 0), 0);
    let renders = |set: &[&str]| {
        let options = project.settings(set);
        let bytes = project.bytes(0);
        let renderer = Renderer::new(eval_transform(), options.augment, options.decode);
        let hash = Sha256::digest(&bytes).into();
        renderer.render_view(&project.images[0], &hash, ViewId::Numbered(0)).is_ok()
    };
    assert!(renders(&["data.truncated=accept"]) && !renders(&[]));
}
