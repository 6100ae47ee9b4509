//! Whether a blob of the cache is what its name says.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What a blob's name, which is the etag that the hub gave, says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Etag<'a> {
    /// 64 hexadecimal digits: the SHA-256 of the content (a large file).
    Sha256(&'a str),
    /// 40 hexadecimal digits: the SHA-1 that git gives the content (a small file).
    Git(&'a str),
    /// Something of another server's, which says nothing.
    Opaque,
}

impl<'a> Etag<'a> {
    pub(super) fn new(name: &'a str) -> Self {
        match name.len() {
            _ if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) => Self::Opaque,
            64 => Self::Sha256(name),
            40 => Self::Git(name),
            _ => Self::Opaque,
        }
    }
}

/// What a blob turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HashCheck {
    /// What its name says.
    Match,
    /// Its name says nothing that can be checked.
    Unknown,
    /// Something else; with the hash that it has instead.
    Mismatch(String),
}

/// Reads a blob and compares it with its name.
pub(super) fn check_hash(blob: &Path, name: &str) -> io::Result<HashCheck> {
    let (expected, found) = match Etag::new(name) {
        Etag::Opaque => return Ok(HashCheck::Unknown),
        Etag::Sha256(expected) => (expected, hash_file(Sha256::new(), File::open(blob)?)?),
        Etag::Git(expected) => {
            let file = File::open(blob)?;
            let header = format!("blob {}\0", file.metadata()?.len());
            (expected, hash_file(Sha1::new().chain_update(header), file)?)
        }
    };
    Ok(if found.eq_ignore_ascii_case(expected) { HashCheck::Match } else { HashCheck::Mismatch(found) })
}

fn hash_file<D: Digest>(mut hash: D, mut file: File) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
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
    fn a_blob_is_right_when_sha256sum_or_git_give_it_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, CONTENT).unwrap();
        for name in [SHA256, GIT, &SHA256.to_uppercase()] {
            assert_eq!(check_hash(&blob, name).unwrap(), HashCheck::Match);
        }
        for other in ["headstocks", "headstoc\n", ""] {
            fs::write(&blob, other).unwrap();
            for name in [SHA256, GIT] {
                assert!(matches!(check_hash(&blob, name).unwrap(), HashCheck::Mismatch(_)), "{other:?}");
            }
        }
    }

    #[test]
    fn the_hash_of_a_wrong_blob_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let blob = directory.path().join("blob");
        fs::write(&blob, CONTENT).unwrap();
        assert_eq!(check_hash(&blob, &"0".repeat(64)).unwrap(), HashCheck::Mismatch(SHA256.into()));
        assert_eq!(check_hash(&blob, &"0".repeat(40)).unwrap(), HashCheck::Mismatch(GIT.into()));
    }

    #[test]
    fn a_name_that_is_no_hash_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "5d41402abc4b2a76b9719d911017c592", &"g".repeat(40), &"0".repeat(63)] {
            assert_eq!(
                check_hash(&directory.path().join("none"), name).unwrap(),
                HashCheck::Unknown,
                "{name}"
            );
        }
    }
}
