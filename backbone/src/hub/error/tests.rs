//! The messages of all errors.

use super::*;

fn cause() -> BoxError {
    "cause".into()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Each error with its message, whether it is a config error, and whether it is an outage.
#[test]
fn each_error_says_what_failed_and_what_to_do() {
    let (endpoint, repo) = ("https://hub".to_owned(), "a/b".to_owned());
    let name = || "hf://a/b/c".to_owned();
    let repository = |repo: &str, has_token| HubError::RepositoryNotFound {
        repo: repo.into(),
        endpoint: endpoint.clone(),
        status: 401,
        has_token,
    };
    let gated = |has_token| HubError::Gated {
        repo: repo.clone(),
        endpoint: endpoint.clone(),
        status: 403,
        has_token,
    };
    let file = |found: &[&str]| HubError::FileNotFound {
        name: "hf://a/b".into(),
        file: "c".into(),
        found: names(found),
    };
    let no_parquet =
        |name: &str, found: &[&str]| HubError::NoParquet { name: name.into(), found: names(found) };
    let io = |kind: io::ErrorKind| HubError::Cache { path: "/c".into(), source: kind.into() };
    let token = "the token (HF_TOKEN, or from `hf auth login`) may have expired or lack access";
    let no_token = "for a private or gated one set HF_TOKEN to a token with access (https://huggingface.co/settings/tokens)";
    let many: Vec<String> = (0..12).map(|i| format!("{i}")).collect();
    for (error, message, is_config, is_outage) in [
        (
            HubError::InvalidName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` is not a valid name of weights on the hub: the owner is missing (write hf://owner/name, \
             hf://owner/name@revision or hf://owner/name@revision/file.safetensors)"
                .to_owned(),
            true,
            false,
        ),
        (
            HubError::InvalidDatasetName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` is not a valid name of a data set on the hub: the owner is missing (write \
             hf://datasets/owner/name, hf://datasets/owner/name@revision or hf://datasets/owner/name@revision/FOLDER)"
                .into(),
            true,
            false,
        ),
        (
            repository("a/b", false),
            format!(
                "https://hub has no accessible model a/b (status 401): it may be misspelled, private or gated; {no_token}"
            ),
            false,
            false,
        ),
        (
            repository("datasets/a/b", true),
            format!(
                "https://hub has no accessible data set a/b (status 401): it may be misspelled, private or gated; {token}"
            ),
            false,
            false,
        ),
        (
            gated(false),
            "a/b is gated (status 403): accept its terms at https://hub/a/b, and set HF_TOKEN to a token of that account \
             (https://huggingface.co/settings/tokens)"
                .into(),
            false,
            false,
        ),
        (
            gated(true),
            "a/b is gated (status 403): accept its terms at https://hub/a/b, with the account of the token \
             (HF_TOKEN, or from `hf auth login`)"
                .into(),
            false,
            false,
        ),
        (
            HubError::RevisionNotFound { repo: repo.clone(), endpoint: endpoint.clone(), revision: "v9".into() },
            "a/b has no branch, tag or commit `v9`: see https://hub/a/b/tree/main".into(),
            false,
            false,
        ),
        (
            file(&[]),
            "hf://a/b has no file c, although the hub may list it: check the files on the hub, and try again later".into(),
            false,
            false,
        ),
        (
            file(&["d.safetensors"]),
            "hf://a/b has no file c: its weights are hf://a/b/d.safetensors".into(),
            false,
            false,
        ),
        (file(&["README.md"]), "hf://a/b has no file c: it has README.md".into(), false, false),
        (file(&["d", "e"]), "hf://a/b has no file c: it has d, e".into(), false, false),
        (
            HubError::Pickled { name: "hf://a/b".into(), pickled: "x.bin".into() },
            "hf://a/b has no .safetensors file: convert x.bin in Python with \
             safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")"
                .into(),
            false,
            false,
        ),
        (
            no_parquet("hf://a/b@v1", &["x.csv"]),
            "hf://a/b@v1 has no .parquet file: it has x.csv; the hub may have a converted copy at \
             hf://a/b@refs/convert/parquet"
                .into(),
            true,
            false,
        ),
        (
            no_parquet("hf://a/b", &[]),
            "hf://a/b has no .parquet file: it is empty; the hub may have a converted copy at \
             hf://a/b@refs/convert/parquet"
                .into(),
            true,
            false,
        ),
        (
            no_parquet("hf://a/b@refs%2Fconvert%2Fparquet", &["x.csv"]),
            "hf://a/b@refs%2Fconvert%2Fparquet has no .parquet file: it has x.csv".into(),
            true,
            false,
        ),
        (
            HubError::NoMatchingParquet { name: "hf://a/b".into(), path: "t".into(), found: many[..10].to_vec() },
            "hf://a/b has no .parquet file at t: it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9".into(),
            true,
            false,
        ),
        (
            HubError::SeveralFolders { name: "hf://a/b".into(), folders: many.clone() },
            "hf://a/b has Parquet files in several folders: select one, for example hf://a/b/0 (available: 0, 1, 2, 3, \
             4, 5, 6, 7, 8, 9 and 2 more)"
                .into(),
            true,
            false,
        ),
        (
            HubError::UnsafePath { name: "hf://a/b".into(), file: "../x".into() },
            "\"../x\" of hf://a/b is not downloaded: it is not a path inside the repository; select a path of the data \
             set without it"
                .into(),
            false,
            false,
        ),
        (
            HubError::Refused { name: name(), host: "https://host".into(), status: 403 },
            "https://host refused hf://a/b/c (status 403): try again; if it persists, check HF_TOKEN and, if you use one, \
             the proxy or mirror (HF_ENDPOINT)"
                .into(),
            false,
            false,
        ),
        (
            HubError::Unavailable { name: name(), host: "https://host".into(), status: 503 },
            "https://host cannot serve hf://a/b/c now (status 503): try again later".into(),
            false,
            true,
        ),
        (
            HubError::Unreachable { name: name(), endpoint: endpoint.clone(), source: cause() },
            "cannot reach https://hub to fetch hf://a/b/c: check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; \
             files that were downloaded before can be used without a network"
                .into(),
            false,
            true,
        ),
        (
            HubError::TimedOut { name: name(), endpoint: endpoint.clone(), seconds: 60 },
            "https://hub has sent nothing for 60 s while fetching hf://a/b/c: check the network and try again".into(),
            false,
            true,
        ),
        (
            HubError::Interrupted { name: name(), source: cause() },
            "the download of hf://a/b/c was interrupted twice: check the network and try again".into(),
            false,
            false,
        ),
        (
            HubError::HashMismatch { name: name(), expected: "1".into(), found: "2".into() },
            "hf://a/b/c arrived damaged twice (its hash is 2, the hub says 1) and was removed: try again, and check \
             whether a proxy modifies downloads"
                .into(),
            false,
            false,
        ),
        (
            HubError::UnexpectedAnswer { name: name(), endpoint: endpoint.clone(), source: cause() },
            "https://hub did not answer like a Hugging Face hub while fetching hf://a/b/c: check HF_ENDPOINT and the proxy"
                .into(),
            false,
            false,
        ),
        (
            HubError::Offline { name: name(), cache: "/c".into() },
            "hf://a/b/c is not in the cache at /c and HF_HUB_OFFLINE is set: unset it to download the weights, or set \
             HF_HUB_CACHE to a cache that has them"
                .into(),
            false,
            false,
        ),
        (
            HubError::OfflineDataset { name: name(), cache: "/c".into() },
            "the cache at /c may not have all files of hf://a/b/c and HF_HUB_OFFLINE is set: unset it to download the \
             data set, or set HF_HUB_CACHE to a cache that has it"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::QuotaExceeded),
            "failed to read or write the cache at /c: the disk is full; free some space, or set HF_HUB_CACHE to another \
             disk"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::ReadOnlyFilesystem),
            "failed to read or write the cache at /c: it is not writable; set HF_HUB_CACHE to a writable folder".into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::PermissionDenied),
            "failed to read or write the cache at /c: it is not writable; set HF_HUB_CACHE to a writable folder".into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::NotADirectory),
            "failed to read or write the cache at /c: set HF_HUB_CACHE to a writable folder".into(),
            false,
            false,
        ),
        (
            HubError::Locked { path: "/c.lock".into(), seconds: 60 },
            "another process holds the lock /c.lock and has downloaded nothing for 60 s: wait for it or stop it, then \
             try again"
                .into(),
            false,
            false,
        ),
        (
            HubError::Client { endpoint, source: cause() },
            "failed to create an HTTP client for https://hub: check HF_ENDPOINT and the system's certificates".into(),
            false,
            false,
        ),
    ] {
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), if is_config { ErrorKind::Config } else { ErrorKind::Hub }, "{message}");
        assert_eq!(error.is_outage(), is_outage, "{message}");
    }
}
