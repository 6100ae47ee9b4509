//! WebDataset: tar archives in which the files of a sample are adjacent and share a name.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext};
use super::json_field::text_field;
use super::paths::{common_folder, is_image_file, relative_path};
use super::shard_contents::{ShardContents, refuse_several_configurations, resolve_shards};
use super::tree::other_file_kind;
use super::{DataSource, FieldNames, default_label};
use crate::dataset::{DatasetError, PassedOver, PassedOverReason, RawDataset, RawSample, Split};
use crate::image_ref::ImageRef;
use crate::shard::find_shards;
use crate::shard::tar::{TarMember, TarShard, visit_members};

/// Maximum size of a label or JSON file in bytes.
const MAX_LABEL_BYTES: u64 = 1 << 20;

/// The keys of `[data]` of a WebDataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebDatasetConfig {
    /// Tar archives in WebDataset format: a file, a folder, or a pattern such as
    /// `"shards/train-{000..146}.tar"`.
    pub webdataset: String,
    /// What follows the first dot in the names of the photos, if that is not just the extension of a photo:
    /// `"image.jpg"`, or `"input.png"` of photos with an input and a mask. Several are separated by `;`, as in
    /// `"image.jpg;image.png"`. Optional.
    pub image: Option<String>,
    /// The field of the `json` members with the class.
    #[serde(default = "default_label")]
    pub label: String,
    /// The field of the `json` members with the group of a photo, as for `csv`. Optional.
    pub group: Option<String>,
    /// Photos for testing only, in tar archives.
    pub test_webdataset: Option<String>,
}

impl SourceConfig for WebDatasetConfig {
    const KIND: &'static str = "webdataset";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_shards("webdataset", &mut self.webdataset, base, false)?;
        let test = self.test_webdataset.as_mut();
        test.map_or(Ok(()), |shards| resolve_shards("test_webdataset", shards, base, false))
    }

    fn test_data(&self) -> Option<Self> {
        Some(Self { webdataset: self.test_webdataset.clone()?, test_webdataset: None, ..self.clone() })
    }

    fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let shards = find_shards(Path::new(&self.webdataset), &["tar", "tar.gz", "tgz"])?;
        refuse_several_configurations(Path::new(&self.webdataset), &shards)?;
        let root = common_folder(&shards);
        let fields = context.fields(&self.label, self.group.as_ref());
        let source = WebDatasetSource { shards, image: self.image.clone(), fields };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

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
    /// What follows the first dot in the names of the images, separated by `;`; `None` for any extension of an
    /// image.
    pub image: Option<String>,
    /// Names of the fields of `json` files.
    pub fields: FieldNames,
}

impl DataSource for WebDatasetSource {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let class = format!(
            "a file with the name of the photo and the extension .cls, .json (field `{}`) or .txt",
            self.fields.label
        );
        let contents = self.read_shards()?;
        contents.refuse_class_folders(&self.shards)?;
        Ok(contents.into_raw_dataset(&self.shards, &class))
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read_shards()?.unlabeled)
    }
}

impl WebDatasetSource {
    /// Whether the file `path` in an archive is the image of a sample; `extension` is what follows the first dot
    /// of its name.
    fn is_image(&self, path: &str, extension: &str) -> bool {
        match &self.image {
            Some(names) => names.split(';').any(|name| name.trim().eq_ignore_ascii_case(extension)),
            None => is_image_file(Path::new(path)) && !extension.contains('.'),
        }
    }

    /// Reads the samples of all shards, in parallel.
    fn read_shards(&self) -> Result<ShardContents, DatasetError> {
        ShardContents::read_all(&self.shards, |path, name| self.read_shard(path, name))
    }

    /// Reads the samples of the tar archive `path`, but not the images; `name` is the prefix of their ids.
    /// First it collects the files of each sample in one pass over the archive, then it checks them and
    /// parses the annotations. Errors of single samples are in the result; a shard or an annotation that
    /// cannot be read is an error of the whole shard.
    fn read_shard(&self, path: &Path, name: &str) -> Result<ShardContents, DatasetError> {
        let shard_error = |problem| DatasetError::invalid(path, problem);
        let (mut sample_files, mut errors) = (Vec::<SampleFiles>::new(), Vec::new());
        let mut image_members = Vec::new();
        // Adds a file of the archive to its sample.
        let mut visit = |member: TarMember, bytes: &mut dyn Read| {
            let Some(relative) = relative_path(&member.path) else {
                errors.push(DatasetError::entry(
                    path,
                    format!("the path `{}` in the archive", member.path.escape_debug()),
                    "it points outside the archive: create the archive again without this file",
                    PassedOverReason::OutsideFolder,
                ));
                return Ok(());
            };
            let (key, extension) = split_key(&relative);
            if sample_files.last().is_none_or(|files| files.key != key) {
                sample_files.push(SampleFiles { key: key.to_owned(), ..SampleFiles::default() });
            }
            let files = sample_files.last_mut().expect("the sample was just pushed");
            if self.is_image(&relative, extension) {
                files.images.push(relative);
                image_members.push(member);
            } else if self.image.is_none() && is_image_file(Path::new(&relative)) {
                files.other_images.push(relative);
            } else if let Some(kind) =
                ANNOTATIONS.iter().position(|kind| kind.eq_ignore_ascii_case(extension))
            {
                files.annotations.push((kind, read_annotation(&member, bytes)?));
            } else {
                files.others.push(relative);
            }
            Ok(())
        };
        let n_links = visit_members(path, &mut visit).map_err(shard_error)?;
        let shard = Arc::new(TarShard::new(path, image_members).map_err(DatasetError::io(path))?);
        let shard_split = Split::from_shard_path(name);
        let mut contents = ShardContents { errors, ..ShardContents::default() };
        let passed_over = &mut contents.passed_over;
        (0..n_links).for_each(|_| passed_over.add_kind(PassedOverReason::Link, name));
        let misplaced = misplaced_labels(&sample_files);
        // The record of an image is its index among all images of the archive.
        let (mut next_record, mut positions) = (0, HashMap::new());
        for (position, files) in sample_files.iter().enumerate() {
            files.others.iter().for_each(|file| pass_over_file(file, &mut contents.passed_over));
            // With a photo of its own, a sample may have other pictures, such as a mask.
            for file in &files.other_images {
                if files.images.is_empty() {
                    let reason = PassedOverReason::BadEntry;
                    let problem = files.unclear_image_problem(file);
                    contents.errors.push(DatasetError::entry(path, format!("`{file}`"), problem, reason));
                } else {
                    pass_over_file(file, &mut contents.passed_over);
                }
            }
            let image = ImageRef::from_record(shard.clone(), next_record);
            next_record += files.images.len();
            let [member] = files.images.as_slice() else {
                if files.images.is_empty() && files.other_images.is_empty() && !misplaced.contains(&files.key)
                {
                    for _ in &files.annotations {
                        contents
                            .passed_over
                            .add(PassedOverReason::MissingImage, format!("{name}/{}", files.key));
                    }
                }
                for image in &files.images {
                    let place = format!("`{image}`");
                    let problem =
                        "several photos have the same name up to the first dot: give each photo its own name";
                    contents.errors.push(DatasetError::entry(
                        path,
                        place,
                        problem,
                        PassedOverReason::BadEntry,
                    ));
                }
                continue;
            };
            if let Some(first) = positions.insert(&files.key, position) {
                let place = format!(
                    "the name `{}` (up to the first dot) appears twice, as sample {} and as sample {}",
                    files.key,
                    first + 1,
                    position + 1
                );
                let problem = "give each photo its own name, and create the archive with the files sorted by name, \
                               so that the label of a photo is next to it";
                contents.errors.push(DatasetError::entry(path, place, problem, PassedOverReason::Repeated));
                continue;
            }
            if misplaced.contains(&files.key) {
                let problem = "its label is elsewhere in the archive, but the files of a photo must follow each \
                               other: create the archive again with its files sorted by name";
                let reason = PassedOverReason::BadEntry;
                contents.errors.push(DatasetError::entry(path, format!("`{member}`"), problem, reason));
                continue;
            }
            let id = format!("{name}/{member}");
            let annotations = match files.parse_annotations(&self.fields) {
                Ok(annotations) => annotations,
                Err(problem) => {
                    let place = format!("sample `{}`", files.key);
                    contents.errors.push(DatasetError::entry(
                        path,
                        place,
                        problem,
                        PassedOverReason::BadEntry,
                    ));
                    continue;
                }
            };
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

/// The keys of the samples that have a photo without a label in one place of the archive and a label without a
/// photo in another.
fn misplaced_labels(samples: &[SampleFiles]) -> HashSet<String> {
    let has_image = |files: &&SampleFiles| !files.images.is_empty();
    let keys_of = |is_wanted: &dyn Fn(&&SampleFiles) -> bool| -> HashSet<String> {
        samples.iter().filter(is_wanted).map(|files| files.key.clone()).collect()
    };
    let unlabeled = keys_of(&|files| has_image(files) && files.annotations.is_empty());
    let labels = keys_of(&|files| !has_image(files) && !files.annotations.is_empty());
    unlabeled.intersection(&labels).cloned().collect()
}

/// Splits the path of a file in an archive at the first dot of the file name into (key, extension):
/// `cat/7.seg.png` into `cat/7` and `seg.png`. In a WebDataset, the files of a sample have the same key.
fn split_key(path: &str) -> (&str, &str) {
    let name_start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[name_start..].find('.') {
        Some(dot) => (&path[..name_start + dot], &path[name_start + dot + 1..]),
        None => (path, ""),
    }
}

/// Reads the text of the annotation file `member` from `bytes`, its data; an error message if it is too large
/// or not UTF-8.
fn read_annotation(member: &TarMember, bytes: &mut dyn Read) -> Result<String, String> {
    let name = member.path.escape_debug();
    if member.size > MAX_LABEL_BYTES {
        let size = member.size;
        return Err(format!(
            "the file `{name}` is too large for a label: {size} bytes, but at most {MAX_LABEL_BYTES} are \
             allowed; write only the label into the file"
        ));
    }
    let mut text = String::new();
    let not_text =
        |error| format!("the file `{name}` cannot be read as UTF-8 text: {error}; save the labels as UTF-8");
    bytes.read_to_string(&mut text).map_err(not_text)?;
    Ok(text)
}

/// The extensions of annotation files, those that say the class of an image, in order of precedence: the class
/// (a number or a name), an object with the class and other fields, the class name.
const ANNOTATIONS: [&str; 3] = ["cls", "json", "txt"];

/// The files of a sample, before annotations are parsed.
#[derive(Default)]
struct SampleFiles {
    /// Their common path up to the first dot of the file name.
    key: String,
    /// Paths of the image files.
    images: Vec<String>,
    /// Kinds, as indices in [`ANNOTATIONS`], and texts of the annotation files.
    annotations: Vec<(usize, String)>,
    /// Paths of image files with another dot in the name, such as `7.mask.png`.
    other_images: Vec<String>,
    /// Paths of the other files.
    others: Vec<String>,
}

/// Counts a file that is neither a photo nor an annotation.
fn pass_over_file(path: &str, passed_over: &mut PassedOver) {
    let (reason, kind) = other_file_kind(path);
    passed_over.add_kind(reason, &kind);
}

/// What the annotation files of a sample say; `None` for what they leave out.
#[derive(Default)]
struct Annotations {
    class: Option<String>,
    group: Option<String>,
    split: Option<Split>,
}

impl SampleFiles {
    /// Why `file`, an image file with several dots in its name, is not the photo of this sample, which has none.
    fn unclear_image_problem(&self, file: &str) -> String {
        let (key, extension) = split_key(file);
        if self.annotations.is_empty() {
            return format!(
                "the name of a sample ends at the first dot, so this is a file of the sample `{key}`, which has no \
                 label: name the files without other dots"
            );
        }
        format!(
            "the name of a photo has one dot, before its extension: set `image` to \"{extension}\" if that is what \
             follows the first dot in the names of all photos"
        )
    }

    /// Reads class, group and split of the sample from the texts of its annotation files; `fields` names the
    /// fields of `.json` files. For the class, `.cls` takes precedence over `.json`, and `.json` over `.txt`.
    /// A sample with a class must have the group and the split, if `fields` names them.
    fn parse_annotations(&self, fields: &FieldNames) -> Result<Annotations, String> {
        let mut annotations = Annotations::default();
        let mut in_order: Vec<&(usize, String)> = self.annotations.iter().collect();
        in_order.sort_by_key(|(kind, _)| *kind);
        for (kind, text) in in_order {
            let class = if ANNOTATIONS[*kind] == "json" {
                let record: Value = serde_json::from_str(text).map_err(|error| {
                    format!("the .json file is not valid JSON: {error}; correct the file")
                })?;
                if let Some(field) = &fields.group {
                    let group = text_field(&record, field)?;
                    annotations.group = Some(group.ok_or_else(|| {
                        format!("the .json file of the photo has no field `{field}`: add this field")
                    })?);
                }
                if let Some(field) = &fields.split {
                    annotations.split =
                        text_field(&record, field)?.map(|name| Split::parse(field, &name)).transpose()?;
                }
                text_field(&record, &fields.label)?
            } else {
                let text = text.trim();
                (!text.is_empty()).then(|| text.to_owned())
            };
            annotations.class = annotations.class.or(class);
        }
        let has_fields =
            [(&fields.group, annotations.group.is_some()), (&fields.split, annotations.split.is_some())];
        let missing = has_fields.into_iter().find_map(|(field, has)| field.as_ref().filter(|_| !has));
        match missing {
            Some(field) if annotations.class.is_some() => Err(format!(
                "the photo has no .json file with the field `{field}`: each photo needs a .json file with \
                 this field"
            )),
            _ => Ok(annotations),
        }
    }
}
