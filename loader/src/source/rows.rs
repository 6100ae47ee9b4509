//! The rows of a table of photos: finds the photo of each row by its name.

mod missing_cause;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use headstock_split::words::NameList;

pub(super) use self::missing_cause::missing_cause;
use super::paths::relative_path;
use super::seen_paths::SeenPaths;
use super::tree::{ImageRoot, Located, find_image_files};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, RawSample, Split};

/// A row of a table of photos.
pub(super) struct ListedRow {
    /// What messages call the row, such as `line 3`.
    pub(super) place: String,
    /// The path of the photo, relative to the folder of the photos or absolute.
    pub(super) id: String,
    pub(super) class: String,
    pub(super) group: Option<String>,
    pub(super) split: Option<Split>,
}

/// A table of photos and the folder that their names are relative to.
pub(super) struct ImageTable<'a> {
    pub(super) table: &'a Path,
    pub(super) images: &'a Path,
    /// Whether links may lead out of the folder.
    pub(super) follow_links: bool,
}

impl ImageTable<'_> {
    /// Adds the samples of `rows` whose photo exists to `raw`, and an error for each of the others: a photo
    /// that is listed twice, an id that leads out of the folder, a photo that does not exist. Of rows that
    /// give a photo two classes, none is used; of rows that repeat the class of a photo, the first is used.
    ///
    /// # Errors
    /// [`DatasetError`] if the folder of the photos does not exist or cannot be read.
    pub(super) fn locate(&self, rows: &[ListedRow], raw: &mut RawDataset) -> Result<(), DatasetError> {
        let root = ImageRoot::open(self.images, self.follow_links)?;
        let ids: Vec<Option<String>> = rows.iter().map(|row| root.relative_id(&row.id)).collect();
        let mut by_id: HashMap<&str, Vec<usize>> = HashMap::with_capacity(rows.len());
        for (index, id) in ids.iter().enumerate() {
            if let Some(id) = id {
                by_id.entry(id).or_default().push(index);
            }
        }
        let (mut seen, mut missing) = (SeenPaths::default(), Vec::new());
        for (index, row) in rows.iter().enumerate() {
            let subject =
                || format!("{}, {}: the id `{}`", self.table.display(), row.place, row.id.escape_debug());
            let outside = || DatasetError::LeavesRoot { subjects: vec![subject()], root: self.images.into() };
            let Some(id) = &ids[index] else {
                raw.errors.push(outside());
                continue;
            };
            if let Some(error) = self.repetition(id, index, &by_id[id.as_str()], rows) {
                raw.errors.push(error);
                continue;
            }
            match root.find(id)? {
                Located::OutsideRoot => raw.errors.push(outside()),
                Located::Missing => missing.push(id.clone()),
                Located::Image(image, path) => {
                    let name = format!("{}, {}: `{id}`", self.table.display(), row.place);
                    match seen.insert(path, name) {
                        Some(error) => raw.errors.push(error),
                        None => raw.samples.push(RawSample {
                            id: id.clone(),
                            image,
                            class: row.class.clone(),
                            group: row.group.clone(),
                            split: row.split,
                        }),
                    }
                }
            }
        }
        if !missing.is_empty() {
            let cause = missing_cause(&missing, self.images, self.follow_links);
            let (table, images) = (self.table.into(), self.images.into());
            raw.errors.push(DatasetError::MissingImages { table, images, missing: NameList(missing), cause });
        }
        Ok(())
    }

    /// The error of row `index`, if other rows have the same `id`, which makes it unusable; `same` are the
    /// indices of all rows with this id.
    fn repetition(&self, id: &str, index: usize, same: &[usize], rows: &[ListedRow]) -> Option<DatasetError> {
        let first = same[0];
        let row = &rows[index];
        if let Some(&other) = same.iter().find(|&&other| rows[other].class != rows[first].class) {
            let (a, b) = (&rows[first], &rows[other]);
            let place = format!(
                "`{id}` is on {} as `{}` and on {} as `{}`",
                a.place,
                a.class.escape_debug(),
                b.place,
                b.class.escape_debug()
            );
            // Each of the rows is an entry of its own.
            let place = if index == first { place } else { format!("`{id}` on {}", row.place) };
            let problem = "a photo can have only one class: remove the lines with the wrong class";
            return Some(DatasetError::entry(self.table, place, problem, PassedOverReason::BadEntry));
        }
        (index != first).then(|| {
            let place = format!("`{id}` is on {} and on {}", rows[first].place, row.place);
            let problem = "each photo may be listed only once; remove one of the two lines";
            DatasetError::entry(self.table, place, problem, PassedOverReason::Repeated)
        })
    }
}

/// Ids of the images in the folder `images` that none of the `rows` lists.
///
/// # Errors
/// [`DatasetError`] if the folder does not exist or cannot be read.
pub(super) fn unlisted_images(
    rows: &[ListedRow],
    images: &Path,
    follow_links: bool,
) -> Result<Vec<String>, DatasetError> {
    let root = ImageRoot::open(images, follow_links)?;
    let listed: HashSet<String> = rows.iter().filter_map(|row| root.relative_id(&row.id)).collect();
    let found = find_image_files(images, follow_links)?;
    Ok(found.images.into_iter().map(|(id, _)| id).filter(|id| !listed.contains(id)).collect())
}

impl ImageRoot {
    /// The path of the photo `id` relative to this root; `id` may be absolute if it is inside the root. `None`
    /// if it leads out of the root.
    pub(super) fn relative_id(&self, id: &str) -> Option<String> {
        if let (Self::Disk { root, canonical, .. }, path) = (self, Path::new(id))
            && path.is_absolute()
        {
            let inside = path.strip_prefix(root).or_else(|_| path.strip_prefix(canonical)).ok()?;
            return relative_path(inside.to_str()?);
        }
        relative_path(id)
    }
}
