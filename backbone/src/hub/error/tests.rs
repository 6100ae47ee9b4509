//! Each error in words.

use super::*;

fn cause() -> BoxError {
    "underneath".into()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Each error with its words, whether what was asked for must change, and whether a copy in the cache does meanwhile.
#[test]
fn each_error_says_what_failed_and_what_to_do() {
    let (endpoint, repo) = ("https://hub".to_owned(), "a/b".to_owned());
    let name = || "hf://a/b/c".to_owned();
    let repository = |repo: &str, token| HubError::RepositoryNotFound {
        repo: repo.into(),
        endpoint: endpoint.clone(),
        status: 401,
        token,
    };
    let gated =
        |token| HubError::Gated { repo: repo.clone(), endpoint: endpoint.clone(), status: 403, token };
    let file = |found: &[&str]| HubError::FileNotFound {
        name: "hf://a/b".into(),
        file: "c".into(),
        found: names(found),
    };
    let no_parquet =
        |name: &str, found: &[&str]| HubError::NoParquet { name: name.into(), found: names(found) };
    let io = |kind: io::ErrorKind| HubError::Cache { path: "/c".into(), source: kind.into() };
    let token = "the token that was sent (HF_TOKEN, or the one that `hf auth login` wrote) has expired or may not read it";
    let no_token = "for the latter two set HF_TOKEN to a token that may read it (https://huggingface.co/settings/tokens)";
    let many: Vec<String> = (0..12).map(|at| format!("{at}")).collect();
    for (error, text, is_config, is_outage) in [
        (
            HubError::InvalidName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` names no weights on the hub: the owner is missing (write hf://owner/name, hf://owner/name@revision or \
             hf://owner/name@revision/file.safetensors)"
                .to_owned(),
            true,
            false,
        ),
        (
            HubError::InvalidDatasetName { name: "x".into(), problem: "the owner is missing".into() },
            "`hf://x` names no data set on the hub: the owner is missing (write hf://datasets/owner/name, \
             hf://datasets/owner/name@revision or hf://datasets/owner/name@revision/FOLDER)"
                .into(),
            true,
            false,
        ),
        (
            repository("a/b", false),
            format!("https://hub shows no model a/b (status 401): it is misspelt, private or gated; {no_token}"),
            false,
            false,
        ),
        (
            repository("datasets/a/b", true),
            format!("https://hub shows no data set a/b (status 401): it is misspelt, private or gated; {token}"),
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
            "a/b is gated (status 403): accept its terms at https://hub/a/b, with the account whose token was sent \
             (HF_TOKEN, or the one that `hf auth login` wrote)"
                .into(),
            false,
            false,
        ),
        (
            HubError::RevisionNotFound { repo: repo.clone(), endpoint: endpoint.clone(), revision: "v9".into() },
            "a/b has no branch, tag or commit `v9`: https://hub/a/b/tree/main lists them".into(),
            false,
            false,
        ),
        (
            file(&[]),
            "there is no c in hf://a/b, though the hub may list it: look at its files there, and try again later".into(),
            false,
            false,
        ),
        (
            file(&["d.safetensors"]),
            "there is no c in hf://a/b: its weights are hf://a/b/d.safetensors".into(),
            false,
            false,
        ),
        (file(&["README.md"]), "there is no c in hf://a/b: there are README.md".into(), false, false),
        (file(&["d", "e"]), "there is no c in hf://a/b: there are d, e".into(), false, false),
        (
            HubError::Pickled { name: "hf://a/b".into(), pickled: "x.bin".into() },
            "hf://a/b holds no .safetensors file: convert x.bin in Python with \
             safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")"
                .into(),
            false,
            false,
        ),
        (
            no_parquet("hf://a/b@v1", &["x.csv"]),
            "hf://a/b@v1 holds no .parquet file: there are x.csv; the hub's own conversion may be at \
             hf://a/b@refs/convert/parquet"
                .into(),
            true,
            false,
        ),
        (
            no_parquet("hf://a/b", &[]),
            "hf://a/b holds no .parquet file: it is empty; the hub's own conversion may be at \
             hf://a/b@refs/convert/parquet"
                .into(),
            true,
            false,
        ),
        (
            no_parquet("hf://a/b@refs%2Fconvert%2Fparquet", &["x.csv"]),
            "hf://a/b@refs%2Fconvert%2Fparquet holds no .parquet file: there are x.csv".into(),
            true,
            false,
        ),
        (
            HubError::NoMatchingParquet { name: "hf://a/b".into(), part: "t".into(), found: many[..10].to_vec() },
            "there is no .parquet file at t in hf://a/b: there are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9".into(),
            true,
            false,
        ),
        (
            HubError::SeveralFolders { name: "hf://a/b".into(), parts: many.clone() },
            "hf://a/b has Parquet files in several places: write one of them, as in hf://a/b/0 (there are 0, 1, 2, 3, 4, \
             5, 6, 7, 8, 9 and 2 more)"
                .into(),
            true,
            false,
        ),
        (
            HubError::UnsafePath { name: "hf://a/b".into(), file: "../x".into() },
            "\"../x\" of hf://a/b is not fetched: it is no path inside a repository; ask for a part of the data set that \
             does without"
                .into(),
            false,
            false,
        ),
        (
            HubError::Refused { name: name(), host: "https://host".into(), status: 403 },
            "https://host refused hf://a/b/c (status 403): try again; if it stays so, look at HF_TOKEN, and whether a proxy \
             or a mirror (HF_ENDPOINT) stands in between"
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
            "cannot reach https://hub to fetch hf://a/b/c: check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; what \
             was fetched before stays usable without it"
                .into(),
            false,
            true,
        ),
        (
            HubError::TimedOut { name: name(), endpoint: endpoint.clone(), seconds: 60 },
            "nothing has come from https://hub for 60 s while fetching hf://a/b/c: check the network and try again".into(),
            false,
            true,
        ),
        (
            HubError::Interrupted { name: name(), source: cause() },
            "the transfer of hf://a/b/c broke off twice: check the network and try again".into(),
            false,
            false,
        ),
        (
            HubError::HashMismatch { name: name(), expected: "1".into(), found: "2".into() },
            "hf://a/b/c arrived damaged twice (its hash is 2, the hub says 1) and was removed: try again, and look whether a \
             proxy changes downloads"
                .into(),
            false,
            false,
        ),
        (
            HubError::UnexpectedAnswer { name: name(), endpoint: endpoint.clone(), source: cause() },
            "https://hub does not answer as a Hugging Face hub does while fetching hf://a/b/c: check HF_ENDPOINT and the proxy"
                .into(),
            false,
            false,
        ),
        (
            HubError::Offline { name: name(), cache: "/c".into() },
            "hf://a/b/c is not in the cache at /c and HF_HUB_OFFLINE is set: unset it once to fetch the weights, or point \
             HF_HUB_CACHE to where they are"
                .into(),
            false,
            false,
        ),
        (
            HubError::OfflineDataset { name: name(), cache: "/c".into() },
            "the cache at /c is not known to hold all of hf://a/b/c and HF_HUB_OFFLINE is set: unset it once to fetch the \
             data set, or point HF_HUB_CACHE to where it is"
                .into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::QuotaExceeded),
            "the cache failed at /c: the disk is full; free some space, or point HF_HUB_CACHE elsewhere".into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::ReadOnlyFilesystem),
            "the cache failed at /c: it may not be written; point HF_HUB_CACHE to a folder of yours".into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::PermissionDenied),
            "the cache failed at /c: it may not be written; point HF_HUB_CACHE to a folder of yours".into(),
            false,
            false,
        ),
        (
            io(io::ErrorKind::NotADirectory),
            "the cache failed at /c: point HF_HUB_CACHE to a folder that can be written".into(),
            false,
            false,
        ),
        (
            HubError::Locked { path: "/c.lock".into(), seconds: 60 },
            "another process holds /c.lock and has fetched nothing for 60 s: wait for it or end it, then try again".into(),
            false,
            false,
        ),
        (
            HubError::Client { endpoint, source: cause() },
            "no client for https://hub can be made: check HF_ENDPOINT and the system's certificates".into(),
            false,
            false,
        ),
    ] {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.kind(), if is_config { ErrorKind::Config } else { ErrorKind::Hub }, "{text}");
        assert_eq!(error.is_outage(), is_outage, "{text}");
    }
}
