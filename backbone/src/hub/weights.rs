//! Weights, and the records beside them.

use std::path::Path;

use super::error::HubError;
use super::files::{self, Wanted, Wish};
use super::name::{HubSource, Place};
use super::settings::HubSettings;
use crate::source::{DownloadProgress, WeightFiles, is_pickled};

/// What tells the architecture and timm's preprocessing.
const CONFIG: &str = "config.json";

/// What tells transformers' preprocessing.
const PREPROCESSOR: &str = "preprocessor_config.json";

/// Fetches the weights and the two records beside them, `config.json` and `preprocessor_config.json` where there are any,
/// with the settings of huggingface_hub's environment variables.
///
/// # Errors
/// [`HubError`]. Whatever was found wrong is gone from the cache by then.
pub fn fetch(source: &HubSource, progress: &dyn DownloadProgress) -> Result<WeightFiles, HubError> {
    fetch_with(source, &HubSettings::from_environment(), progress)
}

/// As [`fetch`], with settings of one's own.
///
/// # Errors
/// [`HubError`].
pub fn fetch_with(
    source: &HubSource,
    settings: &HubSettings,
    progress: &dyn DownloadProgress,
) -> Result<WeightFiles, HubError> {
    let offline = || HubError::Offline {
        name: source.place().naming(Some(source.weights())),
        cache: settings.cache.clone(),
    };
    let found = files::fetch(source, settings, progress)?.ok_or_else(offline)?;
    let mut files = found.files.into_iter();
    let [config, preprocessor, weights] = [(); 3].map(|()| files.next().flatten());
    Ok(WeightFiles { weights: weights.ok_or_else(offline)?, config, preprocessor, origin: found.origin })
}

impl Wanted for HubSource {
    fn place(&self) -> &Place {
        self.place()
    }

    fn is_by_list(&self) -> bool {
        false
    }

    /// The small ones first: what is amiss shows before the large one is fetched.
    fn files(&self, listed: Option<&[String]>) -> Result<Vec<Wish>, HubError> {
        if let Some(listed) = listed
            && !listed.iter().any(|file| file == self.weights())
        {
            return Err(missing(self, listed));
        }
        let record = |file| Wish { file: self.beside(file), is_optional: true };
        let weights = Wish { file: self.weights().into(), is_optional: false };
        Ok(vec![record(CONFIG), record(PREPROCESSOR), weights])
    }
}

/// The weights are not among `listed`.
fn missing(source: &HubSource, listed: &[String]) -> HubError {
    let name = source.place().repository();
    let mut found = listed.to_vec();
    if found.iter().any(|file| file.ends_with(".safetensors")) {
        found.retain(|file| file.ends_with(".safetensors"));
    } else if let Some(pickled) = found.iter().find(|file| is_pickled(Path::new(file))) {
        return HubError::Pickled { name, pickled: pickled.clone() };
    }
    HubError::File { name, file: source.weights().into(), found }
}
