//! Features of a whole data set, into a file.

use std::path::Path;

use crate::config::Settings;
use crate::error::TrainError;
use crate::feature_file::{Described, Target};
use crate::features::{Features, Stock};
use crate::progress::Progress;
use crate::run::Run;
use crate::samples::{Inputs, Samples};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Rows, `N`.
    pub rows: usize,
    /// Features a row, `F`.
    pub width: usize,
    /// How many rows were computed now, rather than found in the cache.
    pub computed: usize,
    /// Photos left out because they cannot be read.
    pub skipped: usize,
}

/// Writes the features of every photo, plain view, in the order of the paths, sorted; with a run by its backbone, tuned where it
/// was.
///
/// # Errors
/// [`TrainError`]; `out` is written whole or not at all.
pub fn extract(
    settings: &Settings,
    run: Option<&Run>,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Extracted, TrainError> {
    let target = Target::open(out)?;
    let (samples, inputs) = Samples::unsplit(settings, progress)?;
    let (Inputs::Photos(photos), Some(options)) = (inputs, &settings.options.backbone) else {
        return Err(TrainError::Usage(
            "features are extracted from photos, and `data.features` has none".into(),
        ));
    };
    let of_run = run.map(|run| run.model.weights(settings, progress)).transpose()?.flatten();
    let stock = match of_run {
        Some(stock) => stock,
        None => Stock::open(options, progress)?,
    };
    let features = Features::prepare(&stock, &settings.options, &photos, &vec![0; photos.len()], progress)?;
    let mut order: Vec<usize> = (0..photos.len()).filter(|&photo| features.has(photo)).collect();
    if order.is_empty() {
        return Err(TrainError::Data("no photo can be read".into()));
    }
    order.sort_unstable_by(|&a, &b| samples.rows[a].id.cmp(&samples.rows[b].id));
    let described: Vec<Described> = order
        .iter()
        .map(|&i| &samples.rows[i])
        .map(|row| Described {
            path: row.id.clone(),
            class: samples.classes.name(row.label).into(),
            label: row.label,
        })
        .collect();
    target.write(&described, features.width(), &mut |range| {
        let mut values = Vec::new();
        features.append(&order[range], 0, &mut values)?;
        Ok(values)
    })?;
    Ok(Extracted {
        rows: order.len(),
        width: features.width(),
        computed: features.computed(),
        skipped: photos.len() - order.len(),
    })
}
