//! The messages of all errors.

use super::*;

fn cause() -> BoxError {
    "cause".into()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Each error with its message, whether it is about the name, and whether it is an outage.
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
    let unavailable = |retry_after| HubError::Unavailable {
        name: name(),
        host: "https://host".into(),
        status: 503,
        retry_after,
    };
    let no_space = |bytes| HubError::NoSpace { name: name(), path: "/c".into(), bytes, available: 600_000 };
    let io = |kind: io::ErrorKind| HubError::Cache { path: "/c".into(), source: kind.into() };
    let access = "check the spelling of the name; if the model or data set is private or gated (its terms \
                  must be accepted first)";
    let token =
        "check that your access token (HF_TOKEN, or from `hf auth login`) has not expired and has access";
    let no_token = "set the environment variable HF_TOKEN to an access token of an account with access \
                    (https://huggingface.co/settings/tokens)";
    for (error, message, is_name_error, is_outage) in [
        (
            HubError::InvalidName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` is not a valid name of model weights on the Hugging Face hub: the owner is missing; \
             write hf://owner/name, with @revision (a branch, tag or commit) and /file.safetensors after it \
             if needed"
                .to_owned(),
            true,
            false,
        ),
        (
            HubError::InvalidDatasetName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` is not a valid name of a data set on the Hugging Face hub: the owner is missing; write \
             hf://datasets/owner/name, with @revision (a branch, tag or commit) and /path (a folder or file) \
             after it if needed"
                .into(),
            true,
            false,
        ),
        (
            repository("a/b", false),
            format!("https://hub has no model a/b that you can access (HTTP status 401): {access}, \
                     {no_token}"),
            false,
            false,
        ),
        (
            repository("datasets/a/b", true),
            format!("https://hub has no data set a/b that you can access (HTTP status 401): {access}, \
                     {token}"),
            false,
            false,
        ),
        (
            gated(false),
            "a/b on the Hugging Face hub is gated (its terms must be accepted first; HTTP status 403): \
             accept the terms at https://hub/a/b, and set the environment variable HF_TOKEN to an access \
             token of the same account (https://huggingface.co/settings/tokens)"
                .into(),
            false,
            false,
        ),
        (
            gated(true),
            "a/b on the Hugging Face hub is gated (its terms must be accepted first; HTTP status 403): \
             accept the terms at https://hub/a/b, with the account of your access token (HF_TOKEN, or from \
             `hf auth login`)"
                .into(),
            false,
            false,
        ),
        (
            HubError::RevisionNotFound { repo: repo.clone(), endpoint: endpoint.clone(), revision: "v9".into() },
            "a/b on the Hugging Face hub has no branch, tag or commit `v9`: choose one that is listed at \
             https://hub/a/b/tree/main"
                .into(),
            false,
            false,
        ),
        (
            file(&[]),
            "hf://a/b on the Hugging Face hub has no file c, although the hub may list that file: look at \
             the files of the model or data set on the web page of the hub, or try again later"
                .into(),
            false,
            false,
        ),
        (
            file(&["d.safetensors"]),
            "hf://a/b on the Hugging Face hub has no file c: use hf://a/b/d.safetensors".into(),
            false,
            false,
        ),
        (
            file(&["README.md"]),
            "hf://a/b on the Hugging Face hub has no file c: correct the name of the file; the hub \
             has README.md"
                .into(),
            false,
            false,
        ),
        (
            file(&["d", "e"]),
            "hf://a/b on the Hugging Face hub has no file c: correct the name of the file; the hub \
             has d, e"
                .into(),
            false,
            false,
        ),
        (
            HubError::Pickled { name: "hf://a/b".into(), pickled: "x.bin".into() },
            "hf://a/b on the Hugging Face hub has no .safetensors file: download x.bin and convert x.bin in \
             Python with `import torch, safetensors.torch; safetensors.torch.save_file(torch.load(\"x.bin\", \
             weights_only=True), \"model.safetensors\")`, and use model.safetensors instead"
                .into(),
            false,
            false,
        ),
        (
            HubError::NoSelection { name: "hf://a/b".into(), problem: "no file: choose another".into() },
            "the data set hf://a/b has no file: choose another".into(),
            true,
            false,
        ),
        (
            HubError::UnsafePath { name: "hf://a/b".into(), file: "../x".into() },
            "the file \"../x\" of the data set hf://a/b is not downloaded: its name leads out of the \
             download folder and could overwrite other files; choose a folder of the data set without this \
             file (hf://datasets/owner/name/FOLDER)"
                .into(),
            false,
            false,
        ),
        (
            HubError::Refused { name: name(), host: "https://host".into(), status: 403 },
            "https://host refused the request for hf://a/b/c (HTTP status 403): try again; if the error \
             persists, check, if you use them, the access token (HF_TOKEN), the mirror (HF_ENDPOINT) and the \
             proxy (HTTPS_PROXY)"
                .into(),
            false,
            false,
        ),
        (
            unavailable(None),
            "https://host cannot serve hf://a/b/c now (HTTP status 503): try again later".into(),
            false,
            true,
        ),
        (
            unavailable(Some(90)),
            "https://host cannot serve hf://a/b/c now (HTTP status 503): try again in 90 s".into(),
            false,
            true,
        ),
        (
            HubError::TooLong { name: name(), endpoint: endpoint.clone(), limit: 42 },
            "https://hub sends more than 42 bytes for hf://a/b/c, the most that is accepted (the size that \
             the hub states or, for a config file or a list of files, 16 MiB): try again; if the error \
             persists, check the address of the hub (HF_ENDPOINT) and the proxy (HTTPS_PROXY)"
                .into(),
            false,
            false,
        ),
        (
            no_space(12_345_678_901),
            "hf://a/b/c has 12.3 GB, but the disk of the download cache at /c has only 0.6 MB left: free \
             some space, or set HF_HUB_CACHE to a folder on a different disk"
                .into(),
            false,
            false,
        ),
        (
            HubError::Unreachable { name: name(), endpoint: endpoint.clone(), source: cause() },
            "cannot reach https://hub to download hf://a/b/c: check the network connection, the proxy \
             (HTTPS_PROXY), the address of the hub (HF_ENDPOINT) and that its certificate is one that the \
             system trusts (package ca-certificates); files that were downloaded before can be used without a \
             network"
                .into(),
            false,
            true,
        ),
        (
            HubError::TimedOut { name: name(), endpoint: endpoint.clone(), seconds: 60 },
            "https://hub has sent nothing for 60 s of the download of hf://a/b/c: check the network \
             connection and try again"
                .into(),
            false,
            true,
        ),
        (
            HubError::Interrupted { name: name(), source: cause() },
            "the download of hf://a/b/c was interrupted twice: check the network connection and try again".into(),
            false,
            false,
        ),
        (
            HubError::HashMismatch { name: name(), expected: "1".into(), found: "2".into() },
            "the download of hf://a/b/c was damaged twice (its hash is 2 instead of 1) and was removed: try \
             again; if the error persists, check whether a proxy modifies downloads"
                .into(),
            false,
            false,
        ),
        (
            HubError::UnexpectedAnswer { name: name(), endpoint: endpoint.clone(), source: cause() },
            "the answer of https://hub to the request for hf://a/b/c is not that of a Hugging Face hub: \
             check the address of the hub (HF_ENDPOINT) and the proxy (HTTPS_PROXY); in a public network \
             with a login page, log in there first"
                .into(),
            false,
            false,
        ),
        (
            HubError::Offline { name: name(), cache: "/c".into() },
            "the download cache at /c does not have hf://a/b/c, or not all files of it, and HF_HUB_OFFLINE \
             forbids downloads: unset HF_HUB_OFFLINE to download what is missing, or set HF_HUB_CACHE to a \
             cache that has all files"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::QuotaExceeded),
            "failed to read or write the download cache at /c: the disk is full; free some space, or set \
             HF_HUB_CACHE to a folder on a different disk"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::ReadOnlyFilesystem),
            "failed to read or write the download cache at /c: the cache is not writable; set HF_HUB_CACHE \
             to a writable folder"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::PermissionDenied),
            "failed to read or write the download cache at /c: the cache is not writable; set HF_HUB_CACHE \
             to a writable folder"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::NotADirectory),
            "failed to read or write the download cache at /c: set HF_HUB_CACHE to a writable folder".into(),
            false,
            false,
        ),
        (
            HubError::NotStored {
                name: name(),
                path: "/c".into(),
                source: io::ErrorKind::ReadOnlyFilesystem.into(),
            },
            "the download cache does not have hf://a/b/c and cannot store it at /c: the cache is not \
             writable; set HF_HUB_CACHE to a writable folder"
                .into(),
            false,
            false,
        ),
        (
            HubError::Endpoint { endpoint, source: cause() },
            "the address of the hub (HF_ENDPOINT) is https://hub: it must begin with https:// or http://"
                .into(),
            false,
            false,
        ),
    ] {
        assert_eq!(error.to_string(), message);
        assert_eq!(error.is_name_error(), is_name_error, "{message}");
        assert_eq!(error.is_outage(), is_outage, "{message}");
    }
}

#[test]
fn a_list_of_names_has_the_first_ten() {
    let names: Vec<String> = (0..12).map(|i| format!("{i}")).collect();
    assert_eq!(join_names(&names[..10]), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
    assert_eq!(join_names(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
}
