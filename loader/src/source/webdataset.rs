//! WebDataset: tar archives in which the files of a sample are adjacent and share a name.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::csv::relative_path;
use super::folder::is_image_file;
use super::shard_contents::ShardContents;
use super::{DataSource, FieldNames, RawDataset, RawSample, Split};
use crate::dataset::{DatasetError, NameList};
use crate::image_ref::ImageRef;
use crate::shard::tar::{TarMember, TarShard, visit_members};

/// Maximum size of a label or JSON file in bytes.
const MAX_LABEL_BYTES: u64 = 1 << 20;

/// Tar archives, optionally gzipped. The files of a sample have the same path up to the first dot of the file
/// name: `cat/7.jpg` is the image; `cat/7.cls` the class (a number or a name), or `cat/7.json` an object with
/// the class in the field `label`, or `cat/7.txt` the class name. If there are several, the first in this
/// order is used.
///
/// The split of a sample is read from the field that `fields` names, otherwise from the shard's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebDatasetSource {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// Names of the fields of `json` files.
    pub fields: FieldNames,
}

impl DataSource for WebDatasetSource {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let class = format!("`cls`, `json` with `{}`, `txt`", self.fields.label);
        Ok(self.read_shards()?.into_raw_dataset(&self.shards, &class))
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read_shards()?.unlabeled)
    }
}

impl WebDatasetSource {
    fn read_shards(&self) -> Result<ShardContents, DatasetError> {
        ShardContents::read_all(&self.shards, |path, name| self.read_shard(path, name))
    }

    /// Reads the samples of the shard `path`; `name` is the prefix of their ids.
    fn read_shard(&self, path: &Path, name: &str) -> Result<ShardContents, DatasetError> {
        let shard_error = |problem| DatasetError::Shard { path: path.into(), problem };
        let (mut sample_files, mut errors) = (Vec::<SampleFiles>::new(), Vec::new());
        let mut image_members = Vec::new();
        let mut visit = |member: TarMember, bytes: &mut dyn Read| {
            let Some(relative) = relative_path(&member.path) else {
                let subject = format!("{}: the member `{}`", path.display(), member.path.escape_debug());
                errors.push(DatasetError::LeavesRoot { subject, root: path.into() });
                return Ok(());
            };
            let (key, extension) = split_key(&relative);
            if sample_files.last().is_none_or(|files| files.key != key) {
                sample_files.push(SampleFiles { key: key.to_owned(), ..SampleFiles::default() });
            }
            let files = sample_files.last_mut().expect("the sample was just pushed");
            if is_image_file(Path::new(&relative)) && !extension.contains('.') {
                files.images.push(relative);
                image_members.push(member);
            } else if let Some(kind) = AnnotationKind::from_extension(extension) {
                let text = read_annotation(&member, bytes)?;
                files.annotations.push((kind, text));
            } else {
                files.n_others += 1;
            }
            Ok(())
        };
        let n_links = visit_members(path, &mut visit).map_err(shard_error)?;
        let shard = TarShard::new(path, image_members)
            .map_err(|source| DatasetError::Io { path: path.into(), source })?;
        let shard = Arc::new(shard);
        let shard_split = Split::from_shard_path(name);
        let mut contents = ShardContents { errors, n_skipped: n_links, ..ShardContents::default() };
        let (mut next_record, mut positions) = (0, HashMap::new());
        for (position, files) in sample_files.iter().enumerate() {
            contents.n_skipped += files.n_others;
            let image = ImageRef::from_record(shard.clone(), next_record);
            next_record += files.images.len();
            let [member] = files.images.as_slice() else {
                if files.images.len() > 1 {
                    let images = NameList(files.images.clone()).to_string();
                    contents.errors.push(shard_error(format!(
                        "the sample `{}` has several photos: {images}",
                        files.key
                    )));
                }
                continue;
            };
            if let Some(first) = positions.insert(&files.key, position) {
                let problem = format!(
                    "the name of sample `{}` appears twice (samples {} and {}): each sample needs a unique name and adjacent files",
                    files.key,
                    first + 1,
                    position + 1
                );
                contents.errors.push(shard_error(problem));
                continue;
            }
            let id = format!("{name}/{member}");
            let annotations = files
                .parse_annotations(&self.fields)
                .map_err(|problem| shard_error(format!("`{}`: {problem}", files.key)))?;
            match annotations.class {
                None => contents.unlabeled.push(id),
                Some(class) => {
                    let split = if self.fields.split.is_some() { annotations.split } else { shard_split };
                    contents.samples.push(RawSample { id, image, class, group: annotations.group, split });
                }
            }
        }
        Ok(contents)
    }
}

/// Splits a path at the first dot of the file name into the sample's key and the extension.
fn split_key(path: &str) -> (&str, &str) {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name_start..].find('.') {
        Some(dot) => (&path[..name_start + dot], &path[name_start + dot + 1..]),
        None => (path, ""),
    }
}

/// Reads a label or JSON file.
fn read_annotation(member: &TarMember, bytes: &mut dyn Read) -> Result<String, String> {
    let name = member.path.escape_debug();
    if member.size > MAX_LABEL_BYTES {
        return Err(format!("`{name}` is too large for a label: it has {} bytes", member.size));
    }
    let mut text = String::new();
    bytes.read_to_string(&mut text).map_err(|error| format!("`{name}`: {error}"))?;
    Ok(text)
}

/// Kinds of annotation files in order of precedence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AnnotationKind {
    Cls,
    Json,
    Txt,
}

impl AnnotationKind {
    fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "cls" => Some(Self::Cls),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Txt),
            _ => None,
        }
    }
}

/// The files of a sample, before annotations are parsed.
#[derive(Default)]
struct SampleFiles {
    key: String,
    images: Vec<String>,
    annotations: Vec<(AnnotationKind, String)>,
    n_others: usize,
}

/// The parsed annotations of a sample.
#[derive(Default)]
struct Annotations {
    class: Option<String>,
    group: Option<String>,
    split: Option<Split>,
}

impl SampleFiles {
    /// Parses the annotation files; `cls` takes precedence over `json` over `txt`.
    fn parse_annotations(&self, fields: &FieldNames) -> Result<Annotations, String> {
        let mut annotations = Annotations::default();
        let mut order: Vec<&(AnnotationKind, String)> = self.annotations.iter().collect();
        order.sort_by_key(|(kind, _)| *kind);
        for (kind, text) in order {
            let class = if *kind == AnnotationKind::Json {
                let record: Value = serde_json::from_str(text).map_err(|error| format!("json: {error}"))?;
                if let Some(field) = &fields.group {
                    annotations.group = Some(
                        text_field(&record, field)?.ok_or_else(|| format!("json: there is no `{field}`"))?,
                    );
                }
                if let Some(field) = &fields.split {
                    annotations.split =
                        text_field(&record, field)?.map(|name| parse_split(field, &name)).transpose()?;
                }
                text_field(&record, &fields.label)?
            } else {
                let text = text.trim();
                (!text.is_empty()).then(|| text.to_owned())
            };
            annotations.class = annotations.class.or(class);
        }
        let missing_field =
            |field: &Option<String>, is_present: bool| field.as_ref().filter(|_| !is_present).cloned();
        let missing = missing_field(&fields.group, annotations.group.is_some())
            .or_else(|| missing_field(&fields.split, annotations.split.is_some()));
        match missing {
            Some(field) if annotations.class.is_some() => Err(format!("it has no `json` with `{field}`")),
            _ => Ok(annotations),
        }
    }
}

/// The text or whole number in a field; `None` if it is missing, empty or null.
fn text_field(record: &Value, field: &str) -> Result<Option<String>, String> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(other) => Err(format!("json: `{field}` is {other}: it must be text or a whole number")),
    }
}

/// Parses the split name `name` in the field or column `field`.
pub(super) fn parse_split(field: &str, name: &str) -> Result<Split, String> {
    Split::from_name(name).ok_or_else(|| {
        format!("`{field}` is `{}`: it must be train, validation or test", name.escape_debug())
    })
}
