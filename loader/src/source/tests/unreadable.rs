use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::dataset::find_unreadable;
use crate::golden::synthetic_image;

#[test]
fn every_unreadable_image_is_found_with_its_error() {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["a/0.png", "a/1.png", "a/2.png", "a/empty.png", "b/large.png", "b/text.jpg"]);
    for name in ["a/0.png", "a/1.png", "a/2.png"] {
        synthetic_image(9, 7).save(root.path().join(name)).unwrap();
    }
    synthetic_image(100, 101).save(root.path().join("b/large.png")).unwrap();
    fs::write(root.path().join("b/text.jpg"), "not a photo").unwrap();
    let bytes = fs::read(root.path().join("a/1.png")).unwrap();
    fs::write(root.path().join("a/1.png"), &bytes[..bytes.len() / 2]).unwrap();
    let mut dataset = read_folder(root.path()).unwrap();
    dataset.samples[2].image = root.path().join("gone.png").into();
    let images: Vec<&ImageRef> = dataset.samples.iter().map(|sample| &sample.image).collect();

    let done = AtomicUsize::new(0);
    let unreadable = find_unreadable(&images, 10_000, || {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), dataset.samples.len());
    let messages: Vec<String> =
        unreadable.iter().map(|(index, error)| format!("{}: {error}", dataset.samples[*index].id)).collect();
    assert!(messages[0].starts_with("a/1.png: damaged or unsupported PNG file: "), "{messages:?}");
    assert!(messages[1].starts_with("a/2.png: ") && messages[1].contains("os error 2"), "{messages:?}");
    assert_eq!(
        messages[2..],
        [
            "a/empty.png: the file is empty: copy or download the photo again",
            "b/large.png: the photo has 100 x 101 pixels, more than `max_pixels` = 10000 allows: make the photo \
             smaller or raise `max_pixels`",
            "b/text.jpg: not a photo in a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF or PNM): convert the file \
             or leave it out",
        ]
    );
}

#[test]
fn the_order_does_not_depend_on_threads() {
    let images: Vec<ImageRef> =
        (0..200).map(|i| PathBuf::from(format!("no-such-photo-{i}.jpg")).into()).collect();
    let images: Vec<&ImageRef> = images.iter().collect();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let unreadable = pool.install(|| find_unreadable(&images, 1, || ()));
        assert!(unreadable.iter().map(|(index, _)| *index).eq(0..200));
    }
}
