//! The built-in sources pass the conformance suite, and sources with a fault do not.

use std::collections::BTreeSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

/// Runs the suite in a temporary folder.
fn check<C: SourceConfig>(write: impl Fn(&Path, &[ExampleSample]) -> C) {
    check_source(tempfile::tempdir().unwrap().path(), write);
}

/// A relative path, as in a config.
fn config<C: SourceConfig>(text: &str) -> C {
    toml::from_str(text).unwrap()
}

fn write_file(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn folders_pass_the_conformance_suite() {
    check(|folder, samples| {
        for sample in samples {
            let class = sample.class.as_deref().unwrap_or(".");
            write_file(folder.join(class).join(&sample.name), &sample.bytes);
        }
        config::<FolderConfig>("folder = '.'")
    });
}

#[test]
fn csv_tables_pass_the_conformance_suite() {
    check(|folder, samples| {
        let mut table = String::from("id,label\n");
        for sample in samples {
            write_file(folder.join("photos").join(&sample.name), &sample.bytes);
            if let Some(class) = &sample.class {
                table += &format!("{},{class}\n", sample.name);
            }
        }
        fs::create_dir_all(folder.join("photos")).unwrap();
        fs::write(folder.join("labels.csv"), table).unwrap();
        config::<CsvConfig>("csv = 'labels.csv'\nimages = 'photos'")
    });
}

#[test]
fn metadata_pass_the_conformance_suite() {
    check(|folder, samples| {
        let mut lines = String::new();
        for sample in samples {
            write_file(folder.join("photos").join(&sample.name), &sample.bytes);
            if let Some(class) = &sample.class {
                lines += &format!("{}\n", serde_json::json!({ "file_name": sample.name, "label": class }));
            }
        }
        write_file(folder.join("photos/metadata.jsonl"), lines.as_bytes());
        config::<MetadataConfig>("metadata = 'photos'")
    });
}

#[test]
fn coco_files_pass_the_conformance_suite() {
    check(|folder, samples| {
        let classes: BTreeSet<&String> = samples.iter().filter_map(|sample| sample.class.as_ref()).collect();
        let number = |class: &String| classes.iter().position(|&other| other == class).unwrap();
        let (mut images, mut annotations) = (Vec::new(), Vec::new());
        for (id, sample) in samples.iter().enumerate() {
            write_file(folder.join("photos").join(&sample.name), &sample.bytes);
            images.push(serde_json::json!({ "id": id, "file_name": sample.name }));
            if let Some(class) = &sample.class {
                annotations.push(serde_json::json!({ "image_id": id, "category_id": number(class) }));
            }
        }
        let categories: Vec<_> =
            classes.iter().map(|class| serde_json::json!({ "id": number(class), "name": class })).collect();
        let json =
            serde_json::json!({ "images": images, "annotations": annotations, "categories": categories });
        fs::create_dir_all(folder.join("photos")).unwrap();
        fs::write(folder.join("x.json"), json.to_string()).unwrap();
        config::<CocoConfig>("coco = 'x.json'\nimages = 'photos'")
    });
}

#[test]
fn tar_archives_pass_the_conformance_suite() {
    check(|folder, samples| {
        let mut archive = tar::Builder::new(File::create(folder.join("a.tar")).unwrap());
        let mut append = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        for sample in samples {
            append(&sample.name, &sample.bytes);
            if let Some(class) = &sample.class {
                append(&sample.name.replace(".png", ".cls"), class.as_bytes());
            }
        }
        archive.finish().unwrap();
        config::<WebDatasetConfig>("webdataset = 'a.tar'")
    });
}

#[test]
fn parquet_files_pass_the_conformance_suite() {
    check(|folder, samples| {
        let schema = "message m { required binary image; optional binary label (UTF8); }";
        let schema = parse_message_type(schema).unwrap().into();
        let file = File::create(folder.join("a.parquet")).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<ByteArray> = samples.iter().map(|sample| sample.bytes.clone().into()).collect();
        let classes: Vec<ByteArray> =
            samples.iter().filter_map(|sample| Some(sample.class.as_deref()?.into())).collect();
        let levels: Vec<i16> = samples.iter().map(|sample| i16::from(sample.class.is_some())).collect();
        for (values, levels) in [(&images, None), (&classes, Some(&levels[..]))] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(values, levels, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        config::<ParquetConfig>("parquet = 'a.parquet'")
    });
}

/// The keys of a source of files `CLASS-NAME` in one folder, with a fault.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FaultyConfig {
    /// The folder.
    faulty: PathBuf,
    /// What is wrong with the source.
    fault: String,
}

#[derive(Debug)]
struct FaultySource(FaultyConfig);

impl SourceConfig for FaultyConfig {
    const KIND: &'static str = "faulty";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("faulty", &mut self.faulty, base)
    }

    fn open(&self, _: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        Ok(OpenDataSource { source: Box::new(FaultySource(self.clone())), root: self.faulty.clone() })
    }
}

impl FaultySource {
    /// The samples, those without a class too.
    fn read(&self) -> Result<Vec<RawSample>, DatasetError> {
        let FaultyConfig { faulty, fault } = &self.0;
        let files = find_image_files(faulty, false)?.images;
        let sample = |(id, image): (String, ImageRef)| {
            let file = faulty.join(id);
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let class = name.split_once('-').unwrap().0.to_owned();
            let id = match fault.as_str() {
                "same ids" => "a.png".into(),
                "absolute ids" => file.display().to_string(),
                _ => name,
            };
            let class = if fault == "other classes" { format!("{class}s") } else { class };
            RawSample { id, image, class, group: None, split: None }
        };
        Ok(files.into_iter().map(sample).collect())
    }
}

impl DataSource for FaultySource {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let fault = self.0.fault.as_str();
        let mut samples = match self.read() {
            Err(_) if fault == "missing data" => Vec::new(),
            read => read?,
        };
        samples.retain(|sample| !sample.class.is_empty() || fault == "unlabeled samples");
        match fault {
            "swapped images" => {
                let last = samples.len().saturating_sub(1);
                if last > 0 {
                    let image = samples[0].image.clone();
                    samples[0].image = std::mem::replace(&mut samples[last].image, image);
                }
            }
            "panic" => assert!(samples.iter().all(|sample| !sample.image.read().unwrap().is_empty())),
            _ => {}
        }
        Ok(RawDataset { samples, ..RawDataset::new(self.0.faulty.clone()) })
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let samples = self.read()?;
        let unlabeled =
            samples.into_iter().filter(|sample| sample.class.is_empty() && self.0.fault != "forgets");
        Ok(unlabeled.map(|sample| sample.id).collect())
    }
}

/// The message with which the suite refuses the source with this fault.
fn refusal(fault: &str) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        check(|folder, samples| {
            for sample in samples {
                let class = sample.class.as_deref().unwrap_or_default();
                write_file(folder.join(format!("{class}-{}", sample.name)), &sample.bytes);
            }
            FaultyConfig { faulty: ".".into(), fault: fault.into() }
        });
    }));
    outcome.err().map(|panic| *panic.downcast::<String>().unwrap())
}

#[test]
fn the_suite_refuses_every_fault() {
    assert_eq!(refusal("none"), None);
    for (fault, message) in [
        ("same ids", "an id is unique"),
        ("absolute ids", "an id is a relative path"),
        ("other classes", "the classes are those of the data"),
        ("unlabeled samples", "the classes are those of the data"),
        ("swapped images", "an image has the bytes and the class that were written"),
        ("forgets", "the images without a class are listed"),
        ("panic", "nothing panics"),
        ("missing data", "missing data is an error"),
    ] {
        let found = refusal(fault).unwrap_or_else(|| panic!("{fault} is not noticed"));
        assert!(found.contains(message), "{fault}: {found}");
    }
}
