//! `trained_on.csv` and `tested_on.csv`: content hashes of the samples that a run was trained and tested on,
//! independent of their paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use headstock_inference::Progress;
use headstock_loader::ImageRef;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::{DataSourceConfig, Settings};
use crate::csv_table;
use crate::error::TrainError;
use crate::feature_file::read_features;
use crate::samples::{SplitRow, Subset, find_feature_rows, find_images};

/// The SHA-256 of an image's bytes, or of a row of precomputed features as little-endian `f32`.
pub(crate) type ContentHash = [u8; 32];

/// The only column of these files.
const HEADER: &str = "sha256";

/// The advice for a damaged `trained_on.csv`.
const DAMAGED: &str = "delete the file: the hashes are then computed from the photos listed in split.csv";

/// The content hash of a sample with precomputed features, whose `row` `[F]` takes the place of an image's
/// bytes.
pub(crate) fn hash_features(row: &[f32]) -> ContentHash {
    let mut hash = Sha256::new();
    row.iter().for_each(|value| hash.update(value.to_le_bytes()));
    hash.finalize().into()
}

/// The contents of such a file for the content hashes of a run's training or test samples, by which a later
/// evaluation recognizes them: one hash per line, in hexadecimal and in ascending order.
pub(crate) fn to_csv(hashes: &BTreeSet<ContentHash>) -> Vec<u8> {
    csv_table::to_csv(&[HEADER], hashes.iter().map(|hash| [hex::encode(hash)]))
}

/// Reads such a file of a run at `path`: the content hashes of the samples that the run was trained or tested on.
/// `None` if the file does not exist, as in runs of earlier versions.
pub(crate) fn read(path: &Path) -> Result<Option<BTreeSet<ContentHash>>, TrainError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(TrainError::io("read", path))?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(TrainError::format(path)(format!("the first line is not `{HEADER}`; {DAMAGED}")));
    }
    let parse = |line: &str| {
        let mut hash = ContentHash::default();
        hex::decode_to_slice(line, &mut hash).map(|()| hash)
    };
    let hashes: Result<BTreeSet<ContentHash>, _> = lines.map(parse).collect();
    let invalid = |_| TrainError::format(path)(format!("a line is not a SHA-256 in hexadecimal; {DAMAGED}"));
    hashes.map(Some).map_err(invalid)
}

/// The content hashes of the training samples in `split`, computed from the data as it is now, for a run that
/// has no `trained_on.csv`. `run_settings` are the settings of that run. Samples that no longer exist are
/// left out, with a warning; `None` if none exists.
///
/// # Errors
/// Those of listing the run's data.
pub(crate) fn hashes_of_split(
    run_settings: &Settings,
    split: &[SplitRow],
    progress: &dyn Progress,
) -> Result<Option<BTreeSet<ContentHash>>, TrainError> {
    let train_ids: Vec<&str> =
        split.iter().filter(|row| row.split == Subset::Train.as_str()).map(|row| row.path.as_str()).collect();
    let hashes: Vec<Option<ContentHash>> = match &run_settings.source {
        DataSourceConfig::Features(path) => {
            let archive = read_features(path)?;
            let rows: Vec<&[f32]> = archive.table.values.chunks_exact(archive.table.width).collect();
            let found = find_feature_rows(&archive, train_ids.iter().copied());
            found.into_iter().map(|row| Some(hash_features(rows[row?]))).collect()
        }
        DataSourceConfig::Images(_) => {
            let images = find_images(run_settings, train_ids.iter().copied(), progress)?;
            let hash_image =
                |image: &Option<ImageRef>| Some(Sha256::digest(image.as_ref()?.read().ok()?).into());
            images.par_iter().map(hash_image).collect()
        }
    };
    let n_missing = hashes.iter().filter(|hash| hash.is_none()).count();
    if n_missing > 0 {
        tracing::warn!(
            "{n_missing} of the {} photos that the run was trained on are missing: copies of the missing \
             photos among the test photos are not recognized, so the accuracy may look too good; put the \
             photos back and evaluate again",
            hashes.len()
        );
    }
    Ok((n_missing < hashes.len()).then(|| hashes.into_iter().flatten().collect()))
}

#[cfg(test)]
mod run_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: `hashlib.sha256(struct.pack("<2f", 1.5, -2)).hexdigest()`.
    #[test]
    fn the_content_of_features_is_the_hash_of_their_bytes() {
        let hashes = BTreeSet::from([hash_features(&[1.5, -2.0])]);
        assert_eq!(
            String::from_utf8(to_csv(&hashes)).unwrap(),
            "sha256\n252b3318179cc24998f3670913d52d39085cf65b0dfa98fa523ffeab4b6683fe\n"
        );
    }

    #[test]
    fn a_table_comes_back_as_it_was_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trained_on.csv");
        assert_eq!(read(&path).unwrap(), None);
        let hashes: BTreeSet<ContentHash> = (0..20).map(|i| hash_features(&[i as f32])).collect();
        let bytes = to_csv(&hashes);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap(), Some(hashes));
        let text = String::from_utf8(bytes).unwrap();
        for (damaged, reason) in [
            (text.replacen("sha256", "md5", 1), "the first line is not `sha256`"),
            (text[..text.len() - 2].to_owned(), "not a SHA-256"),
            (format!("{text}{}\n", "g".repeat(64)), "not a SHA-256"),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("trained_on.csv: ") && error.contains(reason), "{error}");
        }
    }
}
