//! JSON files in the format of COCO with one class for each photo, such as those of iNaturalist.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use headstock_split::words::{NameList, counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::json_field::text_field;
use super::rows::{ImageTable, ListedRow, unlisted_images};
use super::{DataSource, FieldNames};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, Split};

/// The fields of annotations that tell where something is in a photo.
const LOCATIONS: [&str; 3] = ["bbox", "segmentation", "keypoints"];

/// The keys of `[data]` of a JSON file in COCO's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CocoConfig {
    /// A JSON file in the format of COCO with one class for each photo, such as iNaturalist's
    /// `train2019.json`: lists of `images`, `annotations` and `categories`. Needs `images`.
    pub coco: PathBuf,
    /// The folder that the file names in the JSON file are relative to, or a zip archive of photos.
    pub images: Option<PathBuf>,
    /// The field of a category with the name of the class.
    #[serde(default = "default_category_name")]
    pub label: String,
    /// The field of an image with its group, such as `location`, as for `csv`. Optional.
    pub group: Option<String>,
    /// A JSON file of photos for testing only, in the same folder `images`.
    pub test_coco: Option<PathBuf>,
}

fn default_category_name() -> String {
    "name".into()
}

impl SourceConfig for CocoConfig {
    const KIND: &'static str = "coco";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("coco", &mut self.coco, base)?;
        let missing = "is missing: give the folder that the file names in `coco` are relative to";
        let images = self.images.as_mut().ok_or_else(|| SourceConfigError::key("images", missing))?;
        resolve_path("images", images, base)?;
        self.test_coco.as_mut().map_or(Ok(()), |file| resolve_path("test_coco", file, base))
    }

    fn test_data(&self) -> Option<Self> {
        Some(Self { coco: self.test_coco.clone()?, test_coco: None, ..self.clone() })
    }

    fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    fn image_root(&self) -> Option<&Path> {
        self.images.as_deref().filter(|images| images.is_dir())
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.images.clone().unwrap_or_default();
        let source = CocoSource {
            file: self.coco.clone(),
            images: root.clone(),
            fields: context.fields(&self.label, self.group.as_ref()),
            follow_links: context.follow_links,
        };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// A JSON file in the format of COCO. Samples are in the order of the list `images`. The class of an image is
/// the category of its annotations. Group and split are fields of the image.
///
/// ```
/// use headstock_loader::source::{CocoSource, DataSource, FieldNames};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("train"))?;
/// # std::fs::write(folder.join("train/1.jpg"), [])?;
/// let json = r#"{
///     "images": [{"id": 7, "file_name": "train/1.jpg"}],
///     "annotations": [{"image_id": 7, "category_id": 3}],
///     "categories": [{"id": 3, "name": "Bufo bufo"}]
/// }"#;
/// std::fs::write(folder.join("train.json"), json)?;
/// let source = CocoSource {
///     file: folder.join("train.json"),
///     images: folder.into(),
///     fields: FieldNames { label: "name".into(), group: None, split: None },
///     follow_links: false,
/// };
/// let samples = source.list()?.samples;
/// assert_eq!((samples[0].id.as_str(), samples[0].class.as_str()), ("train/1.jpg", "Bufo bufo"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CocoSource {
    /// The JSON file.
    pub file: PathBuf,
    /// The folder that file names are relative to, or a zip archive.
    pub images: PathBuf,
    /// The field of a category with the class, and the fields of an image with the group and the split.
    pub fields: FieldNames,
    /// Whether links may lead out of the folder of the images.
    pub follow_links: bool,
}

impl DataSource for CocoSource {
    /// Lists the images that have a category and exist in the image folder.
    ///
    /// # Errors
    /// [`DatasetError`] for a file that cannot be read or is not in this format, and for annotations that are
    /// boxes, several for one photo. Errors of single images are in [`RawDataset::errors`].
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let mut raw = RawDataset::new(self.file.clone());
        let rows = self.read_rows(&mut raw)?;
        let table = ImageTable { table: &self.file, images: &self.images, follow_links: self.follow_links };
        table.locate(&rows, &mut raw)?;
        Ok(raw)
    }

    /// Ids of the images in the image folder that have no category.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let rows = self.read_rows(&mut RawDataset::new(self.file.clone()))?;
        unlisted_images(&rows, &self.images, self.follow_links)
    }
}

/// The lists of the file. Their elements are parsed one at a time, because the files of large data sets have
/// gigabytes.
#[derive(Deserialize)]
struct CocoFile<'a> {
    #[serde(borrow)]
    images: Vec<&'a RawValue>,
    /// Absent for photos whose class is to be predicted.
    #[serde(borrow, default)]
    annotations: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    categories: Vec<&'a RawValue>,
}

/// The first `n` names of photos in the JSON file `path`; `None` if it is not in COCO's format, or has no
/// annotations.
#[must_use]
pub fn read_coco_file_names(path: &Path, n: usize) -> Option<Vec<String>> {
    let bytes = fs::read(path).ok()?;
    let file: CocoFile<'_> = serde_json::from_slice(&bytes).ok()?;
    let name_of = |image: &&RawValue| text_field(&parse_element(image).ok()?, "file_name").ok()?;
    let is_labeled = !file.annotations.is_empty() && !file.categories.is_empty();
    is_labeled.then(|| file.images.iter().filter_map(name_of).take(n).collect())
}

/// An element of the list `images`.
enum CocoImage {
    Labeled(ListedRow),
    /// The file name of an image without annotation.
    Unlabeled(String),
}

impl CocoSource {
    /// The images with a category. Adds the images that are errors, those without a category, and annotations
    /// without an image, to `raw`.
    fn read_rows(&self, raw: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        let invalid = |problem: String| DatasetError::invalid(&self.file, problem);
        let bytes = fs::read(&self.file).map_err(DatasetError::io(&self.file))?;
        let file: CocoFile<'_> = serde_json::from_slice(&bytes).map_err(|error| {
            invalid(format!(
                "this is not a JSON file with the lists `images`, `annotations` and `categories`: {error}"
            ))
        })?;
        let names = self.read_categories(&file).map_err(invalid)?;
        let categories = read_annotations(&file).map_err(invalid)?;
        let mut listed = HashSet::new();
        let mut rows = Vec::with_capacity(file.images.len());
        for (index, image) in file.images.iter().enumerate() {
            let place = format!("image {index} (counted from 0)");
            match self.parse_image(image, &place, &categories, &names, &mut listed) {
                Ok(CocoImage::Labeled(row)) => rows.push(row),
                Ok(CocoImage::Unlabeled(id)) => raw.passed_over.add(PassedOverReason::Unlabeled, id),
                Err(problem) => {
                    let reason = PassedOverReason::BadEntry;
                    raw.errors.push(DatasetError::entry(&self.file, place, problem, reason));
                }
            }
        }
        let explanation = ": no annotation gives their class";
        raw.passed_over.explain(PassedOverReason::Unlabeled, explanation);
        let mut orphans: Vec<&String> = categories.keys().filter(|id| !listed.contains(*id)).collect();
        orphans.sort_unstable();
        orphans
            .iter()
            .for_each(|id| raw.passed_over.add(PassedOverReason::MissingImage, format!("image {id}")));
        Ok(rows)
    }

    /// Parses an element of the list `images`, with the `categories` of each image and the `names` of the
    /// categories, and adds its id to `listed`.
    fn parse_image(
        &self,
        image: &RawValue,
        place: &str,
        categories: &HashMap<String, BTreeSet<String>>,
        names: &HashMap<String, String>,
        listed: &mut HashSet<String>,
    ) -> Result<CocoImage, String> {
        let image = parse_element(image)?;
        let required = |field: &str| {
            text_field(&image, field)?
                .ok_or_else(|| format!("`{field}` is missing: add the field, or remove the image"))
        };
        let image_id = required("id")?;
        let of_image = categories.get(&image_id);
        listed.insert(image_id);
        let id = required("file_name")?;
        let Some(of_image) = of_image else { return Ok(CocoImage::Unlabeled(id)) };
        let name = id.escape_debug();
        let class = match of_image.iter().collect::<Vec<_>>().as_slice() {
            [category] => names
                .get(*category)
                .cloned()
                .ok_or_else(|| format!("`{name}`: there is no category with the number {category}"))?,
            several => {
                let n_categories = counted(several.len(), "category", "categories");
                return Err(format!("`{name}` has {n_categories}: a photo can have only one class"));
            }
        };
        let group = self.fields.group.as_deref().map(required).transpose()?;
        let split = self.fields.split.as_deref();
        let split = split.map(|field| Split::parse(field, &required(field)?)).transpose()?;
        Ok(CocoImage::Labeled(ListedRow { place: place.to_owned(), id, class, group, split }))
    }

    /// The class names by the id of the category.
    fn read_categories(&self, file: &CocoFile<'_>) -> Result<HashMap<String, String>, String> {
        let mut names = HashMap::new();
        let mut fields = BTreeSet::new();
        for category in &file.categories {
            let category = parse_element(category)?;
            fields.extend(category.as_object().into_iter().flat_map(|fields| fields.keys().cloned()));
            if let (Some(id), Some(name)) =
                (text_field(&category, "id")?, text_field(&category, &self.fields.label)?)
            {
                names.insert(id, name);
            }
        }
        if names.is_empty() && !fields.is_empty() {
            return Err(format!(
                "no category has the field `{}`: set `label` to the field with the name of the class, one of {}",
                self.fields.label,
                NameList(fields.into_iter().collect())
            ));
        }
        Ok(names)
    }
}

/// The ids of the categories of each image, by the id of the image.
///
/// # Errors
/// A message for annotations that are boxes or masks, several for one image.
fn read_annotations(file: &CocoFile<'_>) -> Result<HashMap<String, BTreeSet<String>>, String> {
    let mut categories: HashMap<String, BTreeSet<String>> = HashMap::with_capacity(file.annotations.len());
    let (mut n_located, mut n_annotations) = (0, 0);
    for (index, annotation) in file.annotations.iter().enumerate() {
        let annotation = parse_element(annotation)?;
        let required = |field: &str| {
            text_field(&annotation, field)?
                .ok_or_else(|| format!("annotation {index} (counted from 0) has no field `{field}`"))
        };
        n_annotations += 1;
        n_located += usize::from(LOCATIONS.iter().any(|field| annotation.get(field).is_some()));
        categories.entry(required("image_id")?).or_default().insert(required("category_id")?);
    }
    let has_several = categories.values().any(|categories| categories.len() > 1);
    if n_located > 0 && has_several {
        return Err(format!(
            "this is data for object detection: its {n_annotations} annotations are boxes or outlines of what is in \
             the photos, but a classifier needs one class for each photo. Crop the boxes, and put the crops into \
             a folder for each class"
        ));
    }
    Ok(categories)
}

fn parse_element(element: &RawValue) -> Result<Value, String> {
    serde_json::from_str(element.get()).map_err(|error| error.to_string())
}
