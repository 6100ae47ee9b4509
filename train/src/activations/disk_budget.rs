//! Size of the activation cache, and whether the configured limit and the disk allow it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use headstock_backbone::FeatureLayer;

use crate::config::CacheDtype;
use crate::error::TrainError;

/// The planned activation cache, to decide whether it fits. All sizes are in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskBudget<'a> {
    /// The layer of the activations.
    pub(super) layer: FeatureLayer,
    pub(super) dtype: CacheDtype,
    /// Folder of the cached activations.
    pub(super) folder: &'a Path,
    /// Number of views that training uses.
    pub(super) n_views: usize,
    /// Number of these views that are not cached yet.
    pub(super) n_missing: usize,
    /// Size of a record, which holds one view.
    pub(super) record_bytes: u64,
    /// Size of all activations in the folder now.
    pub(super) used_bytes: u64,
    /// Free space on the disk.
    pub(super) free_bytes: u64,
    /// Maximum size of all activations in the folder (`cache_gb`).
    pub(super) limit: Option<u64>,
}

impl DiskBudget<'_> {
    /// Decides whether the activations of the missing views, those not cached yet, may be written to the
    /// cache: they must fit within the limit and the free disk space. Logs the sizes, and a warning with
    /// advice if they do not fit.
    pub(super) fn fits(self) -> bool {
        let Self { layer, folder, n_views, n_missing, record_bytes, used_bytes, free_bytes, .. } = self;
        let needed = n_missing as u64 * record_bytes;
        tracing::info!(
            "cache of activations (outputs of {layer}): {n_views} views (photos without or with \
             augmentation) take {}, {} each in {}; already cached: {}; to be computed: {}; the folder {} \
             holds {} of activations, and its disk has {} free",
            HumanBytes(n_views as u64 * record_bytes),
            HumanBytes(record_bytes),
            self.dtype.as_str(),
            n_views - n_missing,
            HumanBytes(needed),
            folder.display(),
            HumanBytes(used_bytes),
            HumanBytes(free_bytes),
        );
        let exceeded_limit = self.limit.filter(|limit| n_missing > 0 && used_bytes + needed > *limit);
        let (reason, advice) = match exceeded_limit {
            Some(limit) => {
                // Half a unit of the third decimal is added, so that the value is rounded up.
                let needed_gb = (used_bytes + needed) as f64 / 1e9 + 5e-4;
                let raise = format!("raise `cache_gb` to at least {needed_gb:.3}");
                if needed > limit {
                    (format!("exceed the limit of {}", HumanBytes(limit)), raise)
                } else {
                    (
                        format!(
                            "and {} that are already cached exceed the limit of {}",
                            HumanBytes(used_bytes),
                            HumanBytes(limit)
                        ),
                        format!(
                            "{raise}, or delete activations that you no longer need in {}",
                            folder.display()
                        ),
                    )
                }
            }
            None if needed > free_bytes => (
                "exceed the free disk space".to_owned(),
                "free disk space, or move the cache to a different disk".to_owned(),
            ),
            None => return true,
        };
        tracing::warn!(
            "{} of new activations {reason}: they are not cached, and the layers up to {layer} run again for \
             each batch, which is slower but gives the same result; {advice}",
            HumanBytes(needed)
        );
        false
    }
}

/// Size in bytes of all records files in the folder of the records file `file`, except `file` itself. They
/// hold activations that runs with other settings cached; the limit of the cache is for all files together.
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

/// Free space on the disk of `folder`, in bytes.
pub(super) fn free_space(folder: &Path) -> Result<u64, TrainError> {
    fs4::available_space(folder).map_err(TrainError::io("find the free disk space of", folder))
}

/// A size in bytes that is displayed in decimal units for messages: `401 kB`, `1.2 GB`.
struct HumanBytes(u64);

impl fmt::Display for HumanBytes {
    /// Writes a number of bytes for people, as `401 kB` or `1.2 GB`: in the unit that gives a number of 1 to
    /// 999, with one decimal for numbers below 10.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut size = self.0 as f64;
        let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        for larger in units {
            // A value that would round to 1000 takes the next unit.
            if size < 999.5 {
                break;
            }
            (size, unit) = (size / 1000.0, larger);
        }
        // From 9.95 on, one decimal would be rounded to 10.0.
        let digits = usize::from(unit != "B" && size < 9.95);
        write!(f, "{size:.digits$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_units() {
        let text = |bytes| HumanBytes(bytes).to_string();
        assert_eq!(
            [0, 999, 1000, 9_949, 9_950, 401_408, 999_499, 999_500, 1_234_000_000, 5_000_000_000_000_000]
                .map(text),
            ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "401 kB", "999 kB", "1.0 MB", "1.2 GB", "5000 TB"]
        );
    }

    #[test]
    fn records_fit_the_limit_and_the_free_space() {
        let budget = |missing, free, limit| DiskBudget {
            layer: FeatureLayer::Layer3,
            dtype: CacheDtype::F16,
            folder: Path::new("cache"),
            n_views: 10,
            n_missing: missing,
            record_bytes: 100,
            used_bytes: 1000,
            free_bytes: free,
            limit,
        };
        assert!(budget(4, 400, None).fits());
        assert!(budget(4, 400, Some(1400)).fits());
        assert!(!budget(4, 400, Some(1399)).fits());
        assert!(!budget(4, 399, None).fits());
        // Cached records are used whatever the limit.
        assert!(budget(0, 0, Some(0)).fits());
    }
}
