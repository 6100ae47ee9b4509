//! All that the places of the settings list, with what is wrong with it: what `doctor` looks at.

use std::collections::BTreeSet;

use headstock_loader::dataset::{join_groups, number_groups};
use headstock_loader::source::{RawDataset, RawSample};
use headstock_loader::{ClassMap, ClassOrder, DatasetError, ImageRef};

use super::parts::Drawn;
use super::places::{Opened, prefixes};
use super::{Part, given_parts};
use crate::config::{Place, Settings, SplitMethod};
use crate::error::TrainError;
use crate::progress::Progress;

/// What the places list: nothing is left out for a fault of another entry.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) classes: ClassMap,
    pub(crate) samples: Vec<CollectedSample>,
    /// The names of the data's groups, by number.
    names: Vec<String>,
    /// Whether the data says itself which part a sample is in.
    pub(crate) given: bool,
    /// What is wrong with entries that are not among the samples.
    pub(crate) faults: Vec<DatasetError>,
    /// Photos that have no class.
    pub(crate) unlabelled: Vec<String>,
}

/// A sample that was listed.
#[derive(Debug)]
pub(crate) struct CollectedSample {
    pub(crate) id: String,
    pub(crate) photo: ImageRef,
    pub(crate) label: u32,
    /// The number of its group, where the data has groups.
    pub(crate) group: Option<u32>,
    pub(crate) part: Part,
}

/// What one place lists; a place without anything is a fault, too.
struct Listed {
    opened: Opened,
    listing: RawDataset,
    unlabelled: Vec<String>,
}

impl Listed {
    fn read(place: &Place, progress: &dyn Progress) -> Result<Self, TrainError> {
        let opened = place.open(progress)?;
        let listing = match opened.source.list() {
            Ok(listing) => listing,
            Err(fault @ DatasetError::Empty { .. }) => {
                RawDataset { origin: opened.root.clone(), samples: Vec::new(), errors: vec![fault] }
            }
            Err(error) => return Err(error.into()),
        };
        let unlabelled = match opened.source.unlabeled() {
            Ok(unlabelled) => unlabelled,
            // The listing says so already.
            Err(DatasetError::Empty { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { opened, listing, unlabelled })
    }

    fn prefix(&mut self, prefix: &str) {
        if !prefix.is_empty() {
            let ids = self.listing.samples.iter_mut().map(|entry| &mut entry.id);
            for id in ids.chain(&mut self.unlabelled) {
                *id = format!("{prefix}/{id}");
            }
        }
    }
}

impl Collected {
    /// Lists `main` and `test`. No photo is opened.
    ///
    /// # Errors
    /// What leaves nothing to look at: a folder, table or column that is not there, the hub.
    pub(crate) fn read(
        settings: &Settings,
        main: &Place,
        test: Option<&Place>,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let mut listed = Listed::read(main, progress)?;
        let given = given_parts(&mut listed.listing, test.is_some());
        let tested = match test {
            Some(place) => {
                let mut tested = Listed::read(place, progress)?;
                // A class without test photos is no fault, as for training.
                tested.listing.errors.retain(|fault| !matches!(fault, DatasetError::EmptyClass { .. }));
                let (here, there) = prefixes(&listed.opened, &tested.opened, place)?;
                listed.prefix(&here);
                tested.prefix(&there);
                Some(tested)
            }
            None => None,
        };
        Ok(Self::new(settings, listed, given, tested))
    }

    fn new(settings: &Settings, listed: Listed, given: Option<Vec<Part>>, tested: Option<Listed>) -> Self {
        let names = |entries: &[RawSample], order| {
            ClassMap::new(entries.iter().map(|entry| entry.class.as_str()), order)
        };
        let Listed { mut listing, mut unlabelled, .. } = listed;
        let trained = names(&listing.samples, settings.options.data.class_order);
        let mut faults = std::mem::take(&mut listing.errors);
        let mut parts = given;
        let (mut classes, mut entries) = (trained.clone(), listing.samples);
        if let Some(tested) = tested {
            let own = names(&tested.listing.samples, ClassOrder::Sorted);
            let unknown: Vec<String> =
                own.names().iter().filter(|name| trained.label(name).is_none()).cloned().collect();
            let all = trained.names().iter().chain(&unknown).map(String::as_str);
            classes = ClassMap::new(all, ClassOrder::Appearance);
            if !unknown.is_empty() {
                let listed = headstock_loader::dataset::NameList;
                let (root, known) = (tested.listing.origin, listed(trained.names().to_vec()));
                faults.push(DatasetError::UnknownClass { root, classes: listed(unknown), known });
            }
            faults.extend(tested.listing.errors);
            unlabelled.extend(tested.unlabelled);
            let mut all = vec![Part::Train; entries.len()];
            entries.extend(tested.listing.samples);
            all.resize(entries.len(), Part::Test);
            parts = Some(all);
        }
        let labels: Vec<u32> = entries
            .iter()
            .map(|entry| classes.label(&entry.class).expect("the map is made of these"))
            .collect();
        let given = parts.is_some();
        let parts = parts.unwrap_or_else(|| vec![Part::Train; entries.len()]);
        let named: Option<Vec<&str>> = entries.iter().map(|entry| entry.group.as_deref()).collect();
        let groups = named.as_ref().map(|names| number_groups(names));
        let names: BTreeSet<&str> = named.into_iter().flatten().collect();
        let names = names.into_iter().map(str::to_owned).collect();
        let samples = (entries.into_iter().zip(labels).zip(parts).enumerate())
            .map(|(number, ((RawSample { id, image: photo, .. }, label), part))| {
                let group = groups.as_ref().map(|groups| groups[number]);
                CollectedSample { id, photo, label, group, part }
            })
            .collect();
        Self { classes, samples, names, given, faults, unlabelled }
    }

    /// Gives each sample its part as training draws it, where the data does not say it; `copies` names pairs of the same picture,
    /// for settings that keep them together.
    ///
    /// # Errors
    /// Why no sample can be in the test part, in a sentence; all stay in the training part.
    pub(crate) fn draw(&mut self, settings: &Settings, copies: &[(usize, usize)]) -> Result<(), String> {
        if self.given {
            return Ok(());
        }
        let options = &settings.options.split;
        if options.method == SplitMethod::Predefined {
            return Err("the data says of no sample that it is to be tested on".into());
        }
        let own: Vec<Option<u32>> = self.samples.iter().map(|sample| sample.group).collect();
        let labels: Vec<u32> = self.samples.iter().map(|sample| sample.label).collect();
        let joined = options.group_duplicates;
        let drawn = Drawn {
            classes: &self.classes,
            labels: &labels,
            ids: self.samples.iter().map(|sample| sample.id.as_str()).collect(),
            groups: if joined { Some(join_groups(&own, copies)) } else { own.into_iter().collect() },
            names: &self.names,
            joined,
        };
        let parts = drawn.parts(options).map_err(|error| error.to_string())?;
        for (sample, part) in self.samples.iter_mut().zip(parts) {
            sample.part = part;
        }
        Ok(())
    }
}
