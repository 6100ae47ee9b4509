//! Verification of blobs, the downloaded files in the cache: each is named after the hash of its contents.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Whether `name` is a hash by which the hub names contents: 64 hexadecimal digits, the SHA-256 of a large
/// file, or 40, the git SHA-1 of a small one.
pub(crate) fn is_hash(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Compares the contents of the file `blob` with the hash that its name on the hub, `name`, is, to detect
/// damaged downloads. Returns the hash of the contents if it is another one; `None` if it is the same, or if
/// the name is no hash, so that the contents cannot be checked.
pub(crate) fn find_mismatch(blob: &Path, name: &str) -> io::Result<Option<String>> {
    if !is_hash(name) {
        return Ok(None);
    }
    let found = if name.len() == 64 {
        hash_sha256(blob)?
    } else {
        let file = File::open(blob)?;
        // The hash of a file in git includes this header before the contents.
        let header = format!("blob {}\0", file.metadata()?.len());
        hash_file(Sha1::new().chain_update(header), file)?
    };
    Ok((!found.eq_ignore_ascii_case(name)).then_some(found))
}

/// The SHA-256 of the contents of a file, in hexadecimal.
///
/// # Errors
/// If the file cannot be read.
pub fn hash_sha256(path: &Path) -> io::Result<String> {
    hash_file(Sha256::new(), File::open(path)?)
}

/// The SHA-256 of `text`, in hexadecimal.
pub(crate) fn hash_text(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Adds the contents of `file` to `hasher`, which may already contain a header, and returns the hash in
/// hexadecimal.
fn hash_file<D: Digest>(mut hasher: D, mut file: File) -> io::Result<String> {
    // 256 KiB.
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// `printf 'headstock\n' | sha256sum`, and `git hash-object --stdin`.
    const CONTENT: &str = "headstock\n";
    const SHA256: &str = "5d54800e723e663fb283a7041bf4bdb359dfdcc94ddc4a4088dc3f36b8ec8112";
    const GIT: &str = "0386dd300c0465beb6211bd9d9c92fe0d7956916";

    #[test]
    fn hashes_match_sha256sum_and_git() {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, CONTENT).unwrap();
        for name in [SHA256, GIT, &SHA256.to_uppercase()] {
            assert_eq!(find_mismatch(&blob, name).unwrap(), None);
        }
        for other in ["headstocks", "headstoc\n", ""] {
            fs::write(&blob, other).unwrap();
            for name in [SHA256, GIT] {
                assert!(find_mismatch(&blob, name).unwrap().is_some(), "{other:?}");
            }
        }
    }

    #[test]
    fn a_mismatch_reports_the_actual_hash() {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, CONTENT).unwrap();
        assert_eq!(find_mismatch(&blob, &"0".repeat(64)).unwrap().as_deref(), Some(SHA256));
        assert_eq!(find_mismatch(&blob, &"0".repeat(40)).unwrap().as_deref(), Some(GIT));
    }

    #[test]
    fn names_that_are_not_hashes_are_not_checked() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "5d41402abc4b2a76b9719d911017c592", &"g".repeat(40), &"0".repeat(63)] {
            assert_eq!(find_mismatch(&directory.path().join("none"), name).unwrap(), None, "{name}");
        }
    }
}
