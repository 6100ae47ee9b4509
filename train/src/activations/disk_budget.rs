//! How much room activations take, and whether it is there.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use headstock_backbone::FeatureLayer;

use super::half_precision::HalfPrecision;
use crate::error::TrainError;

/// What is told before activations are computed. All sizes are in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskBudget<'a> {
    /// Where they are taken.
    pub(super) layer: FeatureLayer,
    pub(super) dtype: HalfPrecision,
    /// The folder that they are kept in.
    pub(super) folder: &'a Path,
    /// How many renderings are wanted.
    pub(super) n_views: usize,
    /// How many of them are not there.
    pub(super) n_missing: usize,
    /// Of one rendering.
    pub(super) record_bytes: u64,
    /// What all activations of the folder take now.
    pub(super) used_bytes: u64,
    /// What the disk has free.
    pub(super) free_bytes: u64,
    /// What all activations of the folder may take.
    pub(super) limit: Option<u64>,
}

impl DiskBudget<'_> {
    /// Tells what is going to be kept; whether there is room for it.
    pub(super) fn fits(self) -> bool {
        let Self {
            layer,
            folder,
            n_views: renderings,
            n_missing: missing,
            record_bytes: each,
            used_bytes: taken,
            free_bytes: free,
            ..
        } = self;
        let needed = missing as u64 * each;
        tracing::info!(
            "activations at {layer}: {renderings} renderings of {} in {} are {} in {}, where {} lie already; {} of them are \
             there, and {} are to be computed; the disk has {} free",
            HumanBytes(each),
            self.dtype.as_str(),
            HumanBytes(renderings as u64 * each),
            folder.display(),
            HumanBytes(taken),
            renderings - missing,
            HumanBytes(needed),
            HumanBytes(free),
        );
        let limited = self.limit.filter(|limit| missing > 0 && taken + needed > *limit);
        let (why, advice) = match limited {
            Some(limit) => (
                format!("more than the limit of {} allows", HumanBytes(limit)),
                format!(
                    "raise `tune.space` to {:.3} at least, or remove what {} holds of others",
                    (taken + needed) as f64 / 1e9 + 5e-4,
                    folder.display()
                ),
            ),
            None if needed > free => (
                "more than the disk has free".to_owned(),
                "make room, or keep them elsewhere (`features.cache`)".to_owned(),
            ),
            None => return true,
        };
        tracing::warn!(
            "{} of activations are {why}: none are kept, and the layers up to {layer} run again for each batch, which is slower; \
             {advice}",
            HumanBytes(needed)
        );
        false
    }
}

/// What the records in a folder take, but for those of one file.
pub(super) fn bytes_of_other_records(file: &Path) -> Result<u64, TrainError> {
    let folder = file.parent().unwrap_or(file);
    let read = || -> io::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path != file && path.extension() == file.extension() {
                sum += fs::metadata(path)?.len();
            }
        }
        Ok(sum)
    };
    read().map_err(TrainError::io("read", folder))
}

/// What the disk of `folder` has free.
pub(super) fn free_space(folder: &Path) -> Result<u64, TrainError> {
    fs4::available_space(folder).map_err(TrainError::io("find the free space of", folder))
}

/// A size to be read: `401 kB`, `1.2 GB`.
struct HumanBytes(u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut size = self.0 as f64;
        let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        for larger in units {
            // What would be rounded to 1000 has the next unit.
            if size < 999.5 {
                break;
            }
            (size, unit) = (size / 1000.0, larger);
        }
        let digits = usize::from(unit != "B" && size < 9.95);
        write!(f, "{size:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_units() {
        let told = |bytes| HumanBytes(bytes).to_string();
        assert_eq!(
            [0, 999, 1000, 9_949, 9_950, 401_408, 999_499, 999_500, 1_234_000_000, 5_000_000_000_000_000]
                .map(told),
            ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "401 kB", "999 kB", "1.0 MB", "1.2 GB", "5000 TB"]
        );
    }

    #[test]
    fn records_fit_the_limit_and_the_free_space() {
        let room = |missing, free, limit| DiskBudget {
            layer: FeatureLayer::Layer3,
            dtype: HalfPrecision::F16,
            folder: Path::new("cache"),
            n_views: 10,
            n_missing: missing,
            record_bytes: 100,
            used_bytes: 1000,
            free_bytes: free,
            limit,
        };
        assert!(room(4, 400, None).fits());
        assert!(room(4, 400, Some(1400)).fits());
        assert!(!room(4, 400, Some(1399)).fits());
        assert!(!room(4, 399, None).fits());
        // What is there is used whatever the limit is now.
        assert!(room(0, 0, Some(0)).fits());
    }
}
