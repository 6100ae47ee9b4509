//! Photos that cannot be read.

use super::*;

/// Four photos of which the second and the fourth are none: text, and a PNG that is damaged within.
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
    unreadable.0.iter().map(|(photo, _)| photo.file_path().unwrap().file_name().unwrap().into()).collect()
}

// effect: data.on_error
#[test]
fn photos_that_cannot_be_read_stop_the_work_with_all_of_them_or_are_left_out() {
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
    assert_eq!([0, 1, 2, 3].map(|photo| features.is_readable(photo)), [true, false, true, false]);
    assert_eq!(features.computed(), 2);
    assert_eq!(features.hashes().iter().filter(|hash| hash.is_some()).count(), 2);
}

#[test]
fn a_damaged_photo_under_two_names_is_told_twice() {
    let mut project = project_with_unreadable();
    project.images[1] = project.folder.write("photos/4.png", project.bytes(3)).into();
    match project.prepare(&[], 0) {
        Err(TrainError::Unreadable(unreadable)) => {
            assert_eq!(file_names(&unreadable), [PathBuf::from("4.png"), PathBuf::from("3.png")]);
        }
        other => panic!("{:?}", other.map(|features| features.computed())),
    }
    let features = project.prepare(&["data.on_error=skip"], 0).unwrap();
    assert_eq!([0, 1, 2, 3].map(|photo| features.is_readable(photo)), [true, false, true, false]);
}

// effect: data.max_pixels
#[test]
fn photos_of_more_pixels_than_that_are_not_decoded() {
    // 48 x 40.
    let project = Project::new(&[1]);
    let error = project.prepare(&["data.max_pixels=1919"], 0).err().expect("it is too large").to_string();
    assert!(error.contains("0.png"), "{error}");
    assert_eq!(project.computed(&["data.max_pixels=1920"], 0), 1);
    // What is kept needs no decoding.
    assert_eq!(project.computed(&["data.max_pixels=1919"], 0), 0);
    // Nor are they rendered, where nothing has looked at them before, as in prediction.
    let rendered = |most: &str| {
        let options = project.settings(&[most]).options;
        let bytes = project.bytes(0);
        let hash = Sha256::digest(&bytes).into();
        let renderer = Renderer::new(eval_transform(), options.augment, &options.data);
        [
            renderer.eval_view(&bytes).is_ok(),
            Renderer::eval_only(eval_transform(), &options.data).eval_view(&bytes).is_ok(),
            renderer.render_view(&project.images[0], &hash, ViewId::Numbered(1)).is_ok(),
        ]
    };
    assert_eq!(rendered("data.max_pixels=1919"), [false; 3]);
    assert_eq!(rendered("data.max_pixels=1920"), [true; 3]);
    // As large as is allowed by default, and no larger.
    assert_eq!(Project::new(&[]).settings(&[]).options.data.max_pixels, 200_000_000);
}
