use super::*;
use crate::dataset::ClassMap;
use headstock_testing::capture_log;

fn error_message_for(files: &[&str]) -> String {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), files);
    error_message(read_folder(root.path()), root.path())
}

// effect: data.folder
#[test]
fn folders_are_classes_with_images_at_any_depth() {
    let root = tempfile::tempdir().unwrap();
    create_files(
        root.path(),
        &["pug/b.jpg", "pug/a.JPEG", "akita/2019/z.png", "akita/2018/x/y.webp", "akita/q.TIF"],
    );
    for order in [ClassOrder::Sorted, ClassOrder::Appearance] {
        let dataset =
            Dataset::from_raw(FolderSource::new(root.path().into()).list().unwrap(), order).unwrap();
        assert_eq!(dataset.classes.names(), ["akita", "pug"]);
        assert_eq!(
            ids(&dataset),
            ["akita/2018/x/y.webp", "akita/2019/z.png", "akita/q.TIF", "pug/a.JPEG", "pug/b.jpg"]
        );
        assert_eq!(dataset.labels(), [0, 0, 0, 1, 1]);
        assert_eq!(dataset.class_counts(), [3, 2]);
        assert!(
            dataset
                .samples
                .iter()
                .all(|sample| sample.image.file_path() == Some(&root.path().join(&sample.id)))
        );
    }
}

#[test]
fn the_order_is_bytewise_whatever_the_file_system_lists_first() {
    let files = [
        "b/Z.jpg",
        "b/a.jpg",
        "b/ä.jpg",
        "b/10.jpg",
        "b/9.jpg",
        "B/x.jpg",
        "a/x.jpg",
        "b/a/1.jpg",
        "b/a!.jpg",
    ];
    let sorted = [
        "B/x.jpg",
        "a/x.jpg",
        "b/10.jpg",
        "b/9.jpg",
        "b/Z.jpg",
        "b/a!.jpg",
        "b/a.jpg",
        "b/a/1.jpg",
        "b/ä.jpg",
    ];
    for turn in 0..files.len() {
        let root = tempfile::tempdir().unwrap();
        let mut files = files;
        files.rotate_left(turn);
        create_files(root.path(), &files);
        assert_eq!(ids(&read_folder(root.path()).unwrap()), sorted);
    }
}

#[test]
fn hidden_files_are_skipped() {
    let root = tempfile::tempdir().unwrap();
    create_files(
        root.path(),
        &["a/1.jpg", "a/.2.jpg", "a/.cache/3.jpg", "b/1.jpg", ".git/x.jpg", ".DS_Store"],
    );
    assert_eq!(ids(&read_folder(root.path()).unwrap()), ["a/1.jpg", "b/1.jpg"]);
}

/// The ids of the images that are found in `root`.
fn found_ids(root: &Path) -> Vec<String> {
    find_image_files(root, false).unwrap().images.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn images_without_classes_are_found_by_the_same_rules() {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["b/2.jpg", "b/10.png", "a.gif", "b.txt", "._a.gif", ".cache/3.jpg"]);
    assert_eq!(found_ids(root.path()), ["a.gif", "b/10.png", "b/2.jpg"]);
    assert!(matches!(find_image_files(&root.path().join("c"), false), Err(DatasetError::NoFolder(_))));
}

#[cfg(unix)]
#[test]
fn a_linked_folder_is_read_or_an_error_but_never_ignored() {
    let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    create_files(root.path(), &["in/.shelf/1.jpg", "in/2.jpg"]);
    std::os::unix::fs::symlink("in/.shelf", root.path().join("link")).unwrap();
    assert_eq!(found_ids(root.path()), ["in/2.jpg", "link/1.jpg"]);
    let first_error = || find_image_files(root.path(), false).unwrap().errors.swap_remove(0);
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("out")).unwrap();
    assert!(matches!(first_error(), DatasetError::LeavesRoot { .. }));
    fs::remove_file(root.path().join("out")).unwrap();
    std::os::unix::fs::symlink("..", root.path().join("in/loop")).unwrap();
    assert!(matches!(first_error(), DatasetError::SameFile { .. }));
}

#[test]
fn other_files_are_skipped_with_a_log_line() {
    let root = tempfile::tempdir().unwrap();
    create_files(
        root.path(),
        &["a/1.jpg", "a/notes.txt", "a/Thumbs.DB", "b/1.jpg", "b/README", "LICENSE.txt", "c.jpg"],
    );
    let raw = FolderSource::new(root.path().into()).list().unwrap();
    assert_eq!(raw.samples.len(), 2);
    let lines = capture_log(|| raw.passed_over.log(Path::new("ROOT")));
    for line in [
        "skipped 3 files in ROOT because of the file type: .txt (2), no extension (1)",
        "skipped 1 file in ROOT of the system or of another program (a/Thumbs.DB)",
        "skipped 1 photo in ROOT outside the class folders: move the photos into the folders of their \
         classes (c.jpg)",
    ] {
        assert!(lines.contains(line), "{lines}");
    }
}

#[test]
fn a_missing_folder_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["file"]);
    for missing in ["none", "file"] {
        let result = read_folder(&root.path().join(missing));
        let expected = format!("there is no folder ROOT/{missing}: check the spelling of the path");
        assert_eq!(error_message(result, root.path()), expected);
    }
}

#[test]
fn a_folder_without_classes_is_an_error() {
    let expected =
        "ROOT has no class folders: put the photos of each class into a folder that is named after the class";
    assert_eq!(error_message_for(&[]), expected);
    assert_eq!(error_message_for(&["a.jpg", ".hidden/b.jpg"]), expected);
}

#[test]
fn classes_without_images_are_reported_with_other_extensions() {
    assert_eq!(
        error_message_for(&["a/1.jpg", "b/1.jxl", "c/1.CR2", "a/x.txt"]),
        "ROOT has class folders without photos: b, c; add photos to these folders, or remove the folders \
         (file types found there: JPEG XL, camera RAW (CR2); convert photos to JPEG or PNG)"
    );
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["a/1.jpg"]);
    fs::create_dir(root.path().join("b")).unwrap();
    assert_eq!(
        error_message(read_folder(root.path()), root.path()),
        "ROOT has class folders without photos: b; add photos to these folders, or remove the folders"
    );
}

#[test]
fn a_single_class_is_an_error() {
    assert_eq!(
        error_message_for(&["a/1.jpg", "a/2.jpg"]),
        "ROOT has only one class, `a`: training needs at least two; add photos of a second class"
    );
}

#[test]
fn a_test_folder_uses_the_labels_of_the_training_classes() {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["b/1.jpg", "c/1.jpg"]);
    let classes = ClassMap::new(["c", "a", "b"], ClassOrder::Appearance);
    let dataset = read_folder_with_classes(root.path(), &classes).unwrap();
    assert_eq!(ids(&dataset), ["b/1.jpg", "c/1.jpg"]);
    assert_eq!(dataset.labels(), [2, 0]);
    assert_eq!(dataset.class_counts(), [1, 0, 1]);

    let known = ClassMap::new(["a", "b"], ClassOrder::Sorted);
    assert_eq!(
        error_message(read_folder_with_classes(root.path(), &known), root.path()),
        "ROOT has test photos of classes that have no training photos: c; rename these classes or remove \
         their photos; the training classes are a, b"
    );
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["a/notes.txt"]);
    assert!(
        error_message(read_folder_with_classes(root.path(), &known), root.path())
            .starts_with("ROOT has no photos: ")
    );
}

#[test]
fn folders_named_like_splits_are_splits_and_otherwise_classes() {
    let splits = |files: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), files);
        let dataset = read_folder(root.path()).unwrap();
        let splits: Vec<Option<Split>> = dataset.samples.iter().map(|sample| sample.split).collect();
        (dataset.classes.names().to_vec(), splits)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        splits(&["Train/a/1.jpg", "Train/b/x/1.jpg", "val/a/2.jpg", "test/b/3.jpg", "empty/notes.txt"]),
        (
            names(&["a", "b"]),
            [Split::Train, Split::Train, Split::Test, Split::Validation]
                .into_iter()
                .map(Some)
                .collect::<Vec<_>>()
        )
    );
    for files in [
        ["train/a/1.jpg", "bus/a/1.jpg"],
        ["val/a/1.jpg", "test/a/1.jpg"],
        ["train/1.jpg", "bus/1.jpg"],
        ["test/1.jpg", "prod/1.jpg"],
    ] {
        let (classes, splits) = splits(&files);
        assert!(classes.len() == 2 && splits == [None, None], "{files:?}");
    }
}

#[test]
fn ids_can_be_prefixed() {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["a/1.jpg", "b/1.jpg"]);
    let mut dataset = read_folder(root.path()).unwrap();
    dataset.prefix_ids("");
    assert_eq!(ids(&dataset), ["a/1.jpg", "b/1.jpg"]);
    dataset.prefix_ids("train");
    assert_eq!(ids(&dataset), ["train/a/1.jpg", "train/b/1.jpg"]);
}

#[cfg(unix)]
mod links {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Reads a data set of two classes with a link in it; there is also a folder outside the data set.
    fn read_with_link(target: &str, link: &str) -> String {
        let temporary = tempfile::tempdir().unwrap();
        create_files(
            temporary.path(),
            &["data/a/1.jpg", "data/b/1.jpg", "data/b/deep/2.jpg", "elsewhere/x.jpg", "data/kept/x"],
        );
        fs::remove_dir_all(temporary.path().join("data/kept")).unwrap();
        let root = temporary.path().join("data");
        symlink(target, root.join(link)).unwrap();
        match read_folder(&root) {
            Ok(dataset) => ids(&dataset).join(" "),
            Err(error) => format!("{error}").replace(root.to_str().unwrap(), "ROOT"),
        }
    }

    #[test]
    fn a_link_out_of_the_root_is_an_error() {
        let leaves = |link: &str| {
            format!(
                "the link ROOT/{link} points outside the folder ROOT: photos must be inside that folder; \
                 replace a link with a copy of what it points to (in a table of photos, write the file \
                 name of the copy), or allow links"
            )
        };
        assert_eq!(read_with_link("../elsewhere", "c"), leaves("c"));
        assert_eq!(read_with_link("../../elsewhere", "a/deep"), leaves("a/deep"));
        assert_eq!(read_with_link("../../elsewhere/x.jpg", "a/x.jpg"), leaves("a/x.jpg"));
        assert_eq!(read_with_link("/", "c"), leaves("c"));
    }

    #[test]
    fn links_are_followed_out_of_the_root_if_that_is_allowed() {
        let temporary = tempfile::tempdir().unwrap();
        create_files(temporary.path(), &["data/a/1.jpg", "elsewhere/x.jpg", "elsewhere/y.jpg", "one.jpg"]);
        let root = temporary.path().join("data");
        symlink("../elsewhere", root.join("b")).unwrap();
        symlink("../../one.jpg", root.join("a/2.jpg")).unwrap();
        let source = FolderSource { follow_links: true, ..FolderSource::new(root.clone()) };
        assert_eq!(ids(&read_sorted(&source).unwrap()), ["a/1.jpg", "a/2.jpg", "b/x.jpg", "b/y.jpg"]);
        // A loop still is an error.
        symlink("..", root.join("a/up")).unwrap();
        assert!(matches!(source.list().unwrap().errors[0], DatasetError::SameFile { .. }));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        assert_eq!(
            read_with_link("..", "a/up"),
            "ROOT and ROOT/a/up are the same file or folder, reached through a link: each photo may be in \
             the data only once; remove the link, not the photo"
        );
        assert!(
            read_with_link(".", "a/self")
                .starts_with("ROOT/a and ROOT/a/self are the same file or folder, reached through a link")
        );
        assert!(
            read_with_link("itself", "a/itself")
                .starts_with("ROOT: the link ROOT/a/itself: the link leads to a file or folder that does")
        );
    }

    #[test]
    fn an_image_that_appears_twice_is_an_error() {
        assert!(read_with_link("1.jpg", "a/2.jpg").starts_with(
            "ROOT/a/1.jpg and ROOT/a/2.jpg are the same file or folder, reached through a link"
        ));
        assert!(
            read_with_link("../a/1.jpg", "b/0.jpg").starts_with("ROOT/a/1.jpg and ROOT/b/0.jpg are the same")
        );
        assert!(read_with_link("b/deep", "c").starts_with("ROOT/b/deep and ROOT/c are the same"));
    }

    #[test]
    fn a_broken_link_is_an_error() {
        assert_eq!(
            read_with_link("gone.jpg", "a/2.jpg"),
            "ROOT: the link ROOT/a/2.jpg: the link leads to a file or folder that does not exist: remove the \
             link, or put back what it points to"
        );
    }

    #[test]
    fn a_link_to_a_hidden_file_below_the_root_is_followed() {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &[".store/1.jpg", ".store/more/2.jpg", "b/1.jpg"]);
        fs::create_dir(root.path().join("a")).unwrap();
        symlink("../.store/1.jpg", root.path().join("a/one.jpg")).unwrap();
        symlink("../.store/more", root.path().join("a/more")).unwrap();
        let dataset = read_folder(root.path()).unwrap();
        assert_eq!(ids(&dataset), ["a/more/2.jpg", "a/one.jpg", "b/1.jpg"]);
    }

    #[test]
    fn the_root_may_be_a_link_itself() {
        let temporary = tempfile::tempdir().unwrap();
        create_files(temporary.path(), &["data/a/1.jpg", "data/b/1.jpg"]);
        symlink("data", temporary.path().join("link")).unwrap();
        let dataset = read_folder(&temporary.path().join("link")).unwrap();
        assert_eq!(ids(&dataset), ["a/1.jpg", "b/1.jpg"]);
        assert_eq!(
            dataset.samples[0].image.to_string(),
            temporary.path().join("link/a/1.jpg").display().to_string()
        );
    }

    #[test]
    fn an_image_or_folder_whose_name_is_not_utf8_is_an_error() {
        let name = OsStr::from_bytes(b"caf\xE9.jpg");
        for folder in ["a", ""] {
            let root = tempfile::tempdir().unwrap();
            create_files(root.path(), &["a/1.jpg", "b/1.jpg"]);
            let path = root.path().join(folder).join(name);
            if folder.is_empty() {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("1.jpg"), []).unwrap();
            } else {
                fs::write(path, []).unwrap();
            }
            let message = error_message(read_folder(root.path()), root.path());
            assert!(message.ends_with("is not valid UTF-8 text: rename the file or folder"), "{message}");
            assert!(message.contains("caf\u{FFFD}.jpg"), "{message}");
        }
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &["a/1.jpg", "b/1.jpg"]);
        fs::write(root.path().join("a").join(OsStr::from_bytes(b"caf\xE9.txt")), []).unwrap();
        assert_eq!(ids(&read_folder(root.path()).unwrap()), ["a/1.jpg", "b/1.jpg"]);
    }
}
