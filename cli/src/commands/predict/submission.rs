//! `predict --like FILE`: a table of predictions with the ids, the columns and the row order of another, such
//! as the sample submission of a Kaggle competition.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use headstock_inference::Prediction;
use headstock_loader::source::{TableContents, read_table};
use headstock_split::words::{NameList, counted, first_names};
use headstock_train::TrainError;

use super::ListedImage;
use crate::output::{Output, StdoutError};

/// A table whose first column has the ids of images, and whose other columns are to get predictions.
pub(super) struct SampleSubmission {
    file: PathBuf,
    table: TableContents,
    layout: Layout,
}

/// What the columns after the first are to hold.
#[derive(Debug, PartialEq, Eq)]
enum Layout {
    /// The probabilities of classes: for each column, the number of its class.
    Probabilities(Vec<usize>),
    /// The predicted class, in one column.
    PredictedClass,
}

impl SampleSubmission {
    /// Reads the table `file` and finds out what its columns are to hold. `classes` are those of the model;
    /// `positive` is the one whose probability the only column gets, if that is known.
    pub(super) fn read(file: &Path, classes: &[String], positive: Option<&str>) -> Result<Self, TrainError> {
        let table = read_table(file)?;
        if !table.unreadable.is_empty() {
            return Err(data_error(
                file,
                &format!("not all rows can be read: {}", first_names(&table.unreadable)),
            ));
        }
        let layout = Layout::find(&table, classes, positive).map_err(|problem| data_error(file, &problem))?;
        if layout == Layout::PredictedClass && classes.len() == 2 {
            tracing::info!(
                "the column `{}` gets the predicted class, because its values in {} are classes: name a class with \
                 --positive for its probability",
                table.columns[1],
                file.display()
            );
        }
        Ok(Self { file: file.into(), table, layout })
    }

    /// The images of the rows, in the order of the rows. Every row must have exactly one of `images`, and no two
    /// rows the same; images without a row are left out, with a message.
    pub(super) fn find_images(&self, images: Vec<ListedImage>) -> Result<Vec<ListedImage>, TrainError> {
        let ids: Vec<&str> = self.table.rows.iter().map(|row| row[0].as_str()).collect();
        let index = PathIndex::new(&images, &ids);
        let (mut found, mut missing, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let mut used = BTreeSet::new();
        for id in &ids {
            match index.find(id) {
                [] => missing.push((*id).to_owned()),
                &[image] => {
                    found.push(image);
                    if !used.insert(image) {
                        repeated.push((*id).to_owned());
                    }
                }
                several => {
                    let paths: Vec<String> =
                        several.iter().map(|&image| images[image].path.clone()).collect();
                    let problem = format!(
                        "the id {id} may mean several photos: {}; give only the folder of the photos that the \
                         table lists",
                        first_names(&paths)
                    );
                    return Err(data_error(&self.file, &problem));
                }
            }
        }
        if !missing.is_empty() {
            let problem = format!(
                "{} without a photo among the {} given: {}; give the folder of the photos that the table lists",
                counted(missing.len(), "id is", "ids are"),
                images.len(),
                first_names(&missing)
            );
            return Err(data_error(&self.file, &problem));
        }
        if !repeated.is_empty() {
            let problem =
                format!("several rows mean the same photo: {}; remove all but one", first_names(&repeated));
            return Err(data_error(&self.file, &problem));
        }
        let mut images: BTreeMap<usize, ListedImage> = images.into_iter().enumerate().collect();
        let listed = found.iter().filter_map(|image| images.remove(image)).collect();
        if !images.is_empty() {
            let paths: Vec<String> = images.into_values().map(|image| image.path).collect();
            tracing::info!(
                "{} no row in {} and {} not predicted: {}",
                counted(paths.len(), "photo has", "photos have"),
                self.file.display(),
                if paths.len() == 1 { "is" } else { "are" },
                first_names(&paths)
            );
        }
        Ok(listed)
    }

    /// Prints the table with `predictions` `[N]`, one per row; the row of an image that cannot be read keeps the
    /// values of the sample. `classes` are the names of the classes.
    pub(super) fn print(
        &self,
        classes: &[String],
        predictions: &[Option<Prediction>],
        out: &mut Output,
    ) -> Result<(), StdoutError> {
        let TableContents { columns, rows, delimiter, .. } = &self.table;
        out.print_delimited(*delimiter, columns.iter().cloned())?;
        for (row, prediction) in rows.iter().zip(predictions) {
            let values: Vec<String> = match (&self.layout, prediction) {
                (_, None) => row[1..].to_vec(),
                (Layout::Probabilities(labels), Some(prediction)) => {
                    labels.iter().map(|&label| prediction.probabilities[label].to_string()).collect()
                }
                (Layout::PredictedClass, Some(prediction)) => {
                    vec![classes[prediction.predicted as usize].clone()]
                }
            };
            out.print_delimited(*delimiter, std::iter::once(row[0].clone()).chain(values))?;
        }
        Ok(())
    }
}

/// The error that the table `file` cannot be followed.
fn data_error(file: &Path, problem: &str) -> TrainError {
    TrainError::Data(format!("{}: {problem}", file.display()))
}

impl Layout {
    /// Finds out what the columns of `table` after the first are to hold: by their names, and for a single column
    /// also by its values. The error is what is not clear.
    fn find(table: &TableContents, classes: &[String], positive: Option<&str>) -> Result<Self, String> {
        let label = |name: &str| classes.iter().position(|class| class == name);
        let class_names = || NameList(classes.to_vec());
        let positive_label = match positive {
            Some(name) => Some(label(name).ok_or_else(|| {
                format!("the class {name}, given with --positive, is none of the run: {}", class_names())
            })?),
            None => None,
        };
        match &table.columns[1..] {
            [] => Err(
                "there is only one column: after the column of the ids, one for each class or one for the \
                       class is needed"
                    .into(),
            ),
            [column] => match positive_label.or_else(|| label(column)) {
                Some(label) if positive.is_some() || classes.len() == 2 => {
                    Ok(Self::Probabilities(vec![label]))
                }
                _ => Self::from_values(table, classes),
            },
            _ if positive.is_some() => Err(
                "--positive is for a table with one column after the ids, but this one has more: leave it \
                     out"
                .into(),
            ),
            columns => {
                let unknown: Vec<String> =
                    columns.iter().filter(|column| label(column).is_none()).cloned().collect();
                let missing: Vec<String> =
                    classes.iter().filter(|class| !columns.contains(class)).cloned().collect();
                let mut problems = Vec::new();
                if !unknown.is_empty() {
                    let noun = counted(unknown.len(), "column is no class", "columns are no class");
                    problems.push(format!("{noun} of the run: {}", first_names(&unknown)));
                }
                if !missing.is_empty() {
                    let noun = counted(missing.len(), "class of the run has", "classes of the run have");
                    problems.push(format!("{noun} no column: {}", first_names(&missing)));
                }
                if columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
                    problems.push("two columns have the same name".into());
                }
                if !problems.is_empty() {
                    return Err(format!(
                        "{}; the first column, `{}`, is that of the ids, and the classes of the run are {}",
                        problems.join("; "),
                        table.columns[0],
                        class_names()
                    ));
                }
                Ok(Self::Probabilities(columns.iter().filter_map(|column| label(column)).collect()))
            }
        }
    }

    /// What the only column after the ids is to hold, by its values in `table`: classes if they are classes, or if
    /// it is empty and there are more than two; the probability of class 1 if they are other numbers between 0 and
    /// 1 and the classes are 0 and 1. The error says why neither is certain.
    fn from_values(table: &TableContents, classes: &[String]) -> Result<Self, String> {
        let values: BTreeSet<&str> = table.rows.iter().map(|row| row[1].as_str()).collect();
        let no_class: Vec<String> = values
            .iter()
            .filter(|value| !classes.iter().any(|class| class == *value))
            .map(|value| (*value).to_owned())
            .collect();
        let is_empty = no_class == [""] && values.len() == 1;
        if no_class.is_empty() || is_empty && classes.len() > 2 {
            return Ok(Self::PredictedClass);
        }
        let is_probability =
            |value: &&str| value.parse().is_ok_and(|number: f64| (0.0..=1.0).contains(&number));
        if values.iter().all(is_probability)
            && let [first, second] = classes
            && let Some(one) = match (first.as_str(), second.as_str()) {
                ("0", "1") => Some(1),
                ("1", "0") => Some(0),
                _ => None,
            }
        {
            return Ok(Self::Probabilities(vec![one]));
        }
        let values =
            if is_empty { "it is empty".into() } else { format!("it has {}", first_names(&no_class)) };
        Err(format!(
            "it is not certain what the column `{}` is to hold: it is not named after a class, and {values} \
             instead of classes; the classes of the run are {}; --positive CLASS writes the probability of one",
            table.columns[1],
            NameList(classes.to_vec())
        ))
    }
}

/// Finds images by the last parts of their paths, with or without the extension.
struct PathIndex {
    /// The images by the last parts of their paths.
    by_name: HashMap<String, Vec<usize>>,
    /// The images by the last parts of their paths without the extension.
    by_stem: HashMap<String, Vec<usize>>,
}

impl PathIndex {
    /// An index of `images` in which each of `ids` can be found: by as many parts of the paths as ids have.
    fn new(images: &[ListedImage], ids: &[&str]) -> Self {
        let depths: BTreeSet<usize> = ids.iter().map(|id| 1 + normalized(id).matches('/').count()).collect();
        let mut index = Self { by_name: HashMap::new(), by_stem: HashMap::new() };
        for (number, image) in images.iter().enumerate() {
            // Where the last one, two and so on parts of the path begin.
            let path = normalized(&image.path);
            let mut starts: Vec<usize> = path.rmatch_indices('/').map(|(slash, _)| slash + 1).collect();
            starts.push(0);
            for name in depths.iter().filter_map(|depth| starts.get(depth - 1)).map(|&start| &path[start..]) {
                index.by_name.entry(name.to_owned()).or_default().push(number);
                if let Some((stem, extension)) = name.rsplit_once('.')
                    && !stem.is_empty()
                    && !stem.ends_with('/')
                    && !extension.contains('/')
                {
                    index.by_stem.entry(stem.to_owned()).or_default().push(number);
                }
            }
        }
        index
    }

    /// The images that `id` may mean: those whose path ends in it or, if there are none, those whose path without
    /// the extension does.
    fn find(&self, id: &str) -> &[usize] {
        let id = normalized(id);
        self.by_name.get(id).or_else(|| self.by_stem.get(id)).map_or(&[], Vec::as_slice)
    }
}

/// A path without `./` at its start.
fn normalized(path: &str) -> &str {
    path.trim_start_matches("./")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str], values: &[&str]) -> TableContents {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let width = columns.len() - 1;
        let rows = values.chunks(width.max(1)).map(|values| texts(&[&["x"], values].concat())).collect();
        TableContents { columns: texts(columns), rows, unreadable: Vec::new(), delimiter: b',' }
    }

    fn layout(
        columns: &[&str],
        values: &[&str],
        classes: &[&str],
        positive: Option<&str>,
    ) -> Result<Layout, String> {
        let classes: Vec<String> = classes.iter().map(|&class| class.to_owned()).collect();
        Layout::find(&table(columns, values), &classes, positive)
    }

    #[test]
    fn columns_named_after_classes_get_their_probabilities() {
        let animals = ["cat", "dog", "fox"];
        let found = layout(&["id", "fox", "cat", "dog"], &["0", "0", "1"], &animals, None);
        assert_eq!(found, Ok(Layout::Probabilities(vec![2, 0, 1])));
        assert_eq!(
            layout(&["id", "dog"], &["0.5"], &["cat", "dog"], None),
            Ok(Layout::Probabilities(vec![1]))
        );
    }

    #[test]
    fn a_single_column_is_decided_by_its_values() {
        let of_class = |label| Ok(Layout::Probabilities(vec![label]));
        for (values, classes, positive, expected) in [
            (&["dog", "dog"][..], &["cat", "dog"][..], None, Ok(Layout::PredictedClass)),
            (&["3", "0"], &["0", "1", "2", "3"], None, Ok(Layout::PredictedClass)),
            (&["", ""], &["cat", "dog", "fox"], None, Ok(Layout::PredictedClass)),
            (&["0", "0"], &["0", "1"], None, Ok(Layout::PredictedClass)),
            (&["0", "0"], &["0", "1"], Some("1"), of_class(1)),
            (&["0.5", "0"], &["0", "1"], None, of_class(1)),
            (&["0.5", "0"], &["1", "0"], None, of_class(0)),
            (&["0.5"], &["cat", "dog"], Some("dog"), of_class(1)),
            (&["dog"], &["cat", "dog"], Some("cat"), of_class(0)),
            (&["0.5"], &["cat", "dog", "fox"], Some("fox"), of_class(2)),
        ] {
            assert_eq!(
                layout(&["id", "label"], values, classes, positive),
                expected,
                "{values:?} {classes:?}"
            );
        }
        for (values, classes, parts) in [
            (&["0.5", "0.5"][..], &["cat", "dog"][..], ["it has 0.5 instead of classes", "are cat, dog"]),
            (&["", ""], &["cat", "dog"], ["it is empty", "are cat, dog"]),
            (&["1.5"], &["0", "1"], ["it has 1.5", "are 0, 1"]),
            (&["cat", "cow", "ape"], &["cat", "dog", "fox"], ["it has ape, cow", "are cat, dog, fox"]),
        ] {
            let problem = layout(&["id", "label"], values, classes, None).unwrap_err();
            assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
            assert!(problem.contains("column `label`") && problem.contains("--positive CLASS"), "{problem}");
        }
        let problem = layout(&["id", "label"], &["0.5"], &["cat", "dog"], Some("cow")).unwrap_err();
        assert!(
            problem.contains("the class cow, given with --positive, is none of the run: cat, dog"),
            "{problem}"
        );
    }

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let animals = ["ape", "bee", "cat", "dog", "eel"];
        let problem = layout(&["id", "ape", "x", "y"], &[], &animals, None).unwrap_err();
        let expected = "2 columns are no class of the run: x, y; 4 classes of the run have no column: bee, cat, dog \
                        and 1 more; the first column, `id`, is that of the ids, and the classes of the run are ape, \
                        bee, cat, dog, eel";
        assert_eq!(problem, expected);
        let problem = layout(&["id", "cat", "dog", "dog"], &[], &["cat", "dog"], None).unwrap_err();
        assert!(problem.starts_with("two columns have the same name; "), "{problem}");
        assert!(layout(&["id"], &[], &["cat", "dog"], None).unwrap_err().contains("only one column"));
        let two = layout(&["id", "cat", "dog"], &[], &["cat", "dog"], Some("cat")).unwrap_err();
        assert!(two.contains("--positive is for a table with one column"), "{two}");
    }

    #[test]
    fn an_id_is_the_end_of_a_path_with_or_without_extension() {
        let paths =
            ["./data/test/1.jpg", "data/test/2.jpg", "data/b/2.png", "3", "d.x/4", "data/1.jpg.png", ".jpg"];
        let images: Vec<ListedImage> = paths
            .iter()
            .map(|&path| ListedImage { path: path.into(), image: PathBuf::from(path).into() })
            .collect();
        for (id, expected) in [
            ("1", &[0][..]),
            // The whole name comes before the name without its extension.
            ("1.jpg", &[0]),
            ("test/1", &[0]),
            ("data/test/1.jpg", &[0]),
            ("./test/1.jpg", &[0]),
            ("est/1", &[]),
            ("2", &[1, 2]),
            ("2.png", &[2]),
            ("b/2", &[2]),
            ("3", &[3]),
            ("d", &[]),
            ("4", &[4]),
            ("", &[]),
            ("x/data/test/1", &[]),
        ] {
            assert_eq!(PathIndex::new(&images, &[id, "a/b/c"]).find(id), expected, "{id}");
        }
    }
}
