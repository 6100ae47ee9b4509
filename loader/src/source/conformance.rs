//! The conformance suite for data sources, to be run in a test.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use image::{Rgb, RgbImage};
use schemars::SchemaGenerator;
use serde_json::Value;

use super::config::{ConfiguredSource, SourceConfig, SourceContext};
use super::paths::relative_path;
use super::registry::SourceRegistry;
use crate::dataset::{DatasetError, RawDataset, RawSample};
use crate::encode::png;

/// A sample that the suite asks a test to write in the format of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleSample {
    /// A file name that no other sample has, with its extension.
    pub name: String,
    /// The class; `None` for an image that is stored with the others and has no class.
    pub class: Option<String>,
    /// The bytes of the image file, a PNG.
    pub bytes: Vec<u8>,
}

/// Checks that a data source has the properties that `train` and the commands rely on.
///
/// `write` writes the given samples into the given empty folder, in the format of the source, and returns the
/// configuration that reads them. `folder` is an empty folder for the suite, such as a temporary one.
///
/// * Every key has a doc comment; a TOML round trip keeps the table; an unknown key is an error that names
///   it.
/// * Listing gives the same samples in the same order each time. Ids are unique, relative and separated by
///   `/`; classes are those that were written.
/// * An image is read twice and from several threads with the bytes that were written. If images are files of
///   [`SourceConfig::image_root`], ids are their paths.
/// * Images without a class are no samples; [`DataSource::unlabeled`](super::DataSource::unlabeled) lists
///   them.
/// * Damaged, truncated and missing files are errors or have no effect; an error of the listing names a file
///   or folder. Nothing panics.
///
/// # Panics
/// When a property does not hold; the message says which one and how.
pub fn check_source<C: SourceConfig>(folder: &Path, write: impl Fn(&Path, &[ExampleSample]) -> C) {
    let folder_for = |name: &str| {
        let folder = folder.join(name);
        expect("a folder of the test is created", fs::create_dir(&folder));
        folder
    };
    let configured = |folder: &Path, samples: &[ExampleSample]| {
        let mut config = write(folder, samples);
        expect("a valid configuration is accepted", SourceConfig::resolve(&mut config, folder));
        config
    };
    let samples = example_samples();
    let config = configured(&folder_for("complete"), &samples);
    check_configuration(&config);
    check_listing(&config, &samples);
    check_images(&config, &samples);
    check_unlabeled(&config, &samples);
    let damaged = folder_for("damaged");
    check_damaged_files(&configured(&damaged, &samples), &damaged);
    let empty = folder_for("empty");
    let config = configured(&empty, &[]);
    if let Ok(raw) = without_panic("no samples", || list(&config)) {
        assert!(raw.samples.is_empty(), "no samples are listed where there are none: {:?}", raw.samples);
    }
}

/// Samples of two classes, and images without a class.
fn example_samples() -> Vec<ExampleSample> {
    let sample = |number: u8, class: Option<&str>| {
        let image = RgbImage::from_fn(9, 7, |x, y| Rgb([number, x as u8, y as u8]));
        let name = format!("{number:02}.png");
        ExampleSample { name, class: class.map(str::to_owned), bytes: png(&image) }
    };
    let labeled = (0..14).map(|number| sample(number, Some(if number % 3 == 0 { "pug" } else { "akita" })));
    labeled.chain((14..17).map(|number| sample(number, None))).collect()
}

/// The value of `result`; fails the test that runs the suite if it is an error.
#[track_caller]
fn expect<T>(property: &str, result: Result<T, impl Display>) -> T {
    result.unwrap_or_else(|error| panic!("{property}: {error}"))
}

/// The result of `run`; fails if it panics. `input` says on what.
fn without_panic<T>(input: &str, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("nothing panics: {input}"))
}

fn list(config: &impl SourceConfig) -> Result<RawDataset, DatasetError> {
    SourceConfig::open(config, &SourceContext::default())?.source.list()
}

fn check_configuration<C: SourceConfig>(config: &C) {
    let schema = C::json_schema(&mut SchemaGenerator::default());
    for (key, key_schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let is_described = key_schema["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(is_described, "every key has a doc comment: {key}");
    }
    let registry = SourceRegistry::empty().with::<C>().expect("the registry is empty");
    let kind = registry.get(C::KIND).expect("the source was just added");
    let table = ConfiguredSource::table(config);
    let again = expect("a TOML round trip works", kind.configure(table.clone(), Path::new("/")));
    assert_eq!(again.table(), table, "a TOML round trip keeps the table");
    let mut unknown = table;
    unknown.insert("no_such_key".into(), 1.into());
    let Err(error) = kind.configure(unknown, Path::new("/")) else {
        panic!("an unknown key is an error: `no_such_key` is accepted")
    };
    assert!(error.to_string().contains("no_such_key"), "the error of an unknown key names it: {error}");
}

fn check_listing(config: &impl SourceConfig, written: &[ExampleSample]) {
    let raw = expect("valid data is listed", list(config));
    assert!(raw.errors.is_empty(), "valid data has no errors: {:?}", raw.errors);
    let again = expect("data is listed again", list(config));
    assert_eq!(raw.samples, again.samples, "each listing gives the same samples");
    let mut ids = BTreeSet::new();
    for RawSample { id, .. } in &raw.samples {
        let is_relative = !id.is_empty() && !id.contains('\\') && relative_path(id).as_ref() == Some(id);
        assert!(is_relative, "an id is a relative path with `/`: {id:?}");
        assert!(ids.insert(id), "an id is unique: {id}");
    }
    let mut listed: Vec<&String> = raw.samples.iter().map(|sample| &sample.class).collect();
    let mut expected: Vec<&String> = written.iter().filter_map(|sample| sample.class.as_ref()).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected, "the classes are those of the data");
}

fn check_images(config: &impl SourceConfig, written: &[ExampleSample]) {
    let samples = expect("valid data is listed", list(config)).samples;
    let read = |sample: &RawSample| expect("an image is read", sample.image.read());
    let mut read_once: Vec<(String, Vec<u8>)> =
        samples.iter().map(|sample| (sample.class.clone(), read(sample))).collect();
    // From several threads, half of them backwards.
    let is_same = |backwards: bool| {
        let mut pairs: Vec<_> = samples.iter().zip(&read_once).collect();
        if backwards {
            pairs.reverse();
        }
        pairs.into_iter().all(|(sample, (_, bytes))| read(sample) == *bytes)
    };
    let is_same = thread::scope(|scope| {
        let threads = [false, true, false, true].map(|backwards| scope.spawn(move || is_same(backwards)));
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    assert!(is_same, "an image is read with the same bytes each time, from several threads");
    if let Some(root) = SourceConfig::image_root(config) {
        for (sample, (_, bytes)) in samples.iter().zip(&read_once) {
            let is_file = fs::read(root.join(&sample.id)).is_ok_and(|file| file == *bytes);
            assert!(is_file, "an id is the path of the image from the image root: {}", sample.id);
        }
    }
    let mut expected: Vec<(String, Vec<u8>)> =
        (written.iter()).filter_map(|sample| Some((sample.class.clone()?, sample.bytes.clone()))).collect();
    expected.sort();
    read_once.sort();
    let n_equal = read_once.iter().zip(&expected).filter(|(read, written)| read == written).count();
    assert!(
        read_once == expected,
        "an image has the bytes and the class that were written: {n_equal} of {} are so",
        expected.len()
    );
}

fn check_unlabeled(config: &impl SourceConfig, written: &[ExampleSample]) {
    let opened = expect("the data is opened", SourceConfig::open(config, &SourceContext::default()));
    let unlabeled = expect("unlabeled images are listed", opened.source.unlabeled());
    let ids: BTreeSet<&String> = unlabeled.iter().collect();
    let n_written = written.iter().filter(|sample| sample.class.is_none()).count();
    assert!(
        ids.len() == unlabeled.len() && ids.len() == n_written,
        "the images without a class are listed: {n_written} were written, {unlabeled:?} are listed"
    );
}

/// Damages each file in `folder`, which `config` reads, in several ways, one at a time; then removes all.
fn check_damaged_files(config: &impl SourceConfig, folder: &Path) {
    for file in expect("the folder of the test is read", collect_files(folder)) {
        let bytes = expect("a file of the test is read", fs::read(&file));
        let mut damaged = [0, bytes.len() / 2, bytes.len().saturating_sub(1)]
            .map(|length| bytes[..length].to_vec())
            .to_vec();
        for part in 0..8 {
            let mut changed = bytes.clone();
            let Some(byte) = changed.get_mut(bytes.len() * part / 8) else { continue };
            *byte ^= 0xFF;
            damaged.push(changed);
        }
        for content in damaged {
            expect("a file of the test is written", fs::write(&file, content));
            without_panic(&format!("{} is damaged", file.display()), || use_all(config, folder));
        }
        expect("a file of the test is removed", fs::remove_file(&file));
        without_panic(&format!("{} is missing", file.display()), || use_all(config, folder));
        expect("a file of the test is written", fs::write(&file, bytes));
    }
    expect("the folder of the test is removed", fs::remove_dir_all(folder));
    let listed = without_panic("all files are missing", || list(config));
    assert!(listed.is_err(), "missing data is an error: {listed:?}");
}

/// Lists and reads all that `config` reads, some of which may be damaged. Fails if the listing fails with an
/// error that names nothing in `folder`.
fn use_all(config: &impl SourceConfig, folder: &Path) {
    let opened = SourceConfig::open(config, &SourceContext::default());
    let outcome = opened.and_then(|opened| Ok((opened.source.unlabeled()?, opened.source.list()?)));
    let (samples, errors) = match outcome {
        Ok((_, raw)) => (raw.samples, raw.errors),
        Err(error) => (Vec::new(), vec![error]),
    };
    for error in errors {
        let is_named = error.to_string().contains(&folder.display().to_string());
        assert!(is_named, "an error names a file or folder: {error}");
    }
    for RawSample { id, class, image, .. } in samples {
        assert!(!class.is_empty(), "a class has a name: {id}");
        if let Err(error) = image.read() {
            assert!(!error.to_string().is_empty(), "an error says what is wrong: {id}");
        }
    }
}

/// The files in `folder` and its subfolders, sorted.
fn collect_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.append(&mut collect_files(&path)?) } else { files.push(path) }
    }
    files.sort();
    Ok(files)
}
