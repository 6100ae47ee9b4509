//! An external data source, added to those of `headstock`: a file of JSON lines with a photo on each.
//!
//! A line is `{"id": "7.png", "label": "pug", "image": "iVBORw0KG..."}`, with the photo's file in base64. A line
//! without a label is a photo without a class.
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use headstock_cli::App;
use headstock_loader::dataset::PassedOverReason;
use headstock_loader::source::{
    OpenDataSource, SourceConfigError, SourceContext, relative_path, resolve_path,
};
use headstock_loader::{
    DataSource, DatasetError, ImageRef, RawDataset, RawSample, ReadError, RecordReader, SourceConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The keys of `[data]` beside `kind = "json-lines"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JsonLines {
    /// The file of JSON lines.
    file: PathBuf,
}

impl SourceConfig for JsonLines {
    const KIND: &'static str = "json-lines";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("file", &mut self.file, base)
    }

    fn open(&self, _: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.file.parent().unwrap_or(Path::new("")).into();
        Ok(OpenDataSource { source: Box::new(self.clone()), root })
    }
}

#[derive(Deserialize)]
struct Line {
    id: String,
    label: Option<String>,
    image: String,
}

/// The file, with the position and the length of each line in bytes: only the line of a photo is read.
#[derive(Debug)]
struct LineReader {
    file: PathBuf,
    lines: Vec<(u64, usize)>,
}

impl RecordReader for LineReader {
    fn path(&self) -> &Path {
        &self.file
    }

    fn name(&self, index: usize) -> String {
        format!("line {}", index + 1)
    }

    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        let (position, length) = self.lines[index];
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(position))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        let line: Line = serde_json::from_slice(&bytes).map_err(|e| ReadError::Record(e.to_string()))?;
        BASE64_STANDARD.decode(line.image).map_err(|e| ReadError::Record(e.to_string()))
    }
}

impl JsonLines {
    /// The samples, and the ids of the lines without a label.
    fn read(&self) -> Result<(RawDataset, Vec<String>), DatasetError> {
        let path = || self.file.clone();
        let bytes = fs::read(&self.file).map_err(|source| DatasetError::Io { path: path(), source })?;
        let mut position = 0;
        let lines = bytes.split(|&byte| byte == b'\n').map(|line| {
            let start = position;
            position += line.len() as u64 + 1;
            (start, line.len())
        });
        let reader = Arc::new(LineReader { file: path(), lines: lines.collect() });
        let mut raw = RawDataset::new(path());
        let (mut unlabeled, mut seen) = (Vec::new(), HashSet::new());
        for (index, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if text.is_empty() {
                raw.passed_over.add(PassedOverReason::EmptyRow, format!("line {}", index + 1));
                continue;
            }
            let mut refuse = |problem: String| {
                let place = format!("line {}", index + 1);
                let reason = PassedOverReason::BadEntry;
                raw.errors.push(DatasetError::entry(&self.file, place, problem, reason));
            };
            match serde_json::from_slice::<Line>(text) {
                Err(error) => refuse(error.to_string()),
                Ok(Line { id, .. })
                    if relative_path(&id).is_none_or(|path| path != id || path.is_empty()) =>
                {
                    refuse(format!("`{}` is not a relative path: change the id", id.escape_debug()));
                }
                Ok(Line { id, .. }) if !seen.insert(id.clone()) => {
                    refuse(format!("the id `{id}` is there twice: give each photo its own id"));
                }
                Ok(Line { id, label, .. }) => match label.filter(|label| !label.is_empty()) {
                    None => {
                        raw.passed_over.add(PassedOverReason::Unlabeled, id.clone());
                        unlabeled.push(id);
                    }
                    Some(class) => {
                        let image = ImageRef::from_record(reader.clone(), index);
                        raw.samples.push(RawSample { id, image, class, group: None, split: None });
                    }
                },
            }
        }
        Ok((raw, unlabeled))
    }
}

impl DataSource for JsonLines {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        Ok(self.read()?.0)
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read()?.1)
    }
}

fn main() -> ExitCode {
    App::new().with_source::<JsonLines>().run()
}

#[test]
fn passes_the_conformance_suite() {
    let folder = tempfile::tempdir().unwrap();
    headstock_loader::check_source(folder.path(), |folder, samples| {
        let line = |sample: &headstock_loader::source::ExampleSample| {
            let image = BASE64_STANDARD.encode(&sample.bytes);
            serde_json::json!({ "id": sample.name, "label": sample.class, "image": image }).to_string()
        };
        let text = samples.iter().map(line).collect::<Vec<_>>().join("\n");
        fs::write(folder.join("photos.jsonl"), text).unwrap();
        JsonLines { file: "photos.jsonl".into() }
    });
}
