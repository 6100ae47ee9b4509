//! Class names and their labels.

use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Order in which classes are numbered from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassOrder {
    /// By name, in byte order.
    #[default]
    Sorted,
    /// By first appearance among the samples, such as the rows of a CSV. For a folder this is the same as
    /// `sorted`, because its samples are listed in sorted order.
    Appearance,
}

/// Bijection between class names and labels `0..C`.
///
/// ```
/// use headstock_loader::{ClassMap, ClassOrder};
///
/// let classes = ClassMap::new(["pug", "akita", "pug"], ClassOrder::Sorted);
/// assert_eq!(classes.names(), ["akita", "pug"]);
/// assert_eq!(classes.label("pug"), Some(1));
/// assert_eq!(classes.name(0), "akita");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// The name of each label, `[C]`.
    names: Vec<String>,
    /// The label of each name.
    labels: HashMap<String, u32>,
}

impl ClassMap {
    /// Numbers the classes from 0 in `order`. `names` are the class names of the samples, with duplicates.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, order: ClassOrder) -> Self {
        let mut seen = HashSet::new();
        let mut names: Vec<String> =
            names.into_iter().filter(|name| seen.insert(*name)).map(str::to_owned).collect();
        if order == ClassOrder::Sorted {
            names.sort_unstable();
        }
        let labels = names.iter().cloned().zip(0..).collect();
        Self { names, labels }
    }

    /// Class names by label, `[C]`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of classes, `C`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no classes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of class `label`.
    ///
    /// # Panics
    /// If `label` is not below [`ClassMap::len`].
    #[must_use]
    pub fn name(&self, label: u32) -> &str {
        &self.names[label as usize]
    }

    /// The label of class `name`; `None` if there is no such class.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<u32> {
        self.labels.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duplicate_names_are_one_class() {
        assert!(ClassMap::new([], ClassOrder::Sorted).is_empty());
        let one = ClassMap::new(["a", "a"], ClassOrder::Appearance);
        assert_eq!((one.is_empty(), one.len(), one.label("b")), (false, 1, None));
        assert_eq!(ClassOrder::default(), ClassOrder::Sorted);
    }

    // effect: data.class_order
    #[test]
    fn classes_are_ordered_by_name_or_by_appearance() {
        let names = ["pug", "akita", "pug", "boxer"];
        assert_eq!(ClassMap::new(names, ClassOrder::Sorted).names(), ["akita", "boxer", "pug"]);
        assert_eq!(ClassMap::new(names, ClassOrder::Appearance).names(), ["pug", "akita", "boxer"]);
    }

    proptest! {
        #[test]
        fn names_and_labels_are_a_bijection(names in prop::collection::vec("[a-d]{1,2}", 0..30), sorted: bool) {
            let order = if sorted { ClassOrder::Sorted } else { ClassOrder::Appearance };
            let classes = ClassMap::new(names.iter().map(String::as_str), order);
            for name in &names {
                prop_assert_eq!(classes.name(classes.label(name).unwrap()), name);
            }
            for label in 0..classes.len() as u32 {
                prop_assert_eq!(classes.label(classes.name(label)), Some(label));
            }
        }
    }
}
