//! What the hub, or the host that it sends to, may refuse; and what the error tells.

use headstock_backbone::hub::fetch_weights_with;
use headstock_backbone::{BackboneError, ErrorKind, HubError};

use super::fixture::{COMMIT, HubFixture, LATER, ProgressRecorder, REPO, large_file, small_file};
use super::server::Fault;

#[test]
fn a_refusal_by_the_second_host_is_told_as_such() {
    for status in [401, 403, 404, 503] {
        let bench = HubFixture::new();
        bench.hub.fault("GET", "/files/", usize::MAX, Fault::Status(status, None));
        let error = bench.fetch_error("");
        let (server, told) = match &error {
            HubError::Refused { host, status, .. } | HubError::Unavailable { host, status, .. } => {
                (host, *status)
            }
            other => panic!("{status}: {other:?}"),
        };
        assert_eq!(matches!(error, HubError::Unavailable { .. }), status == 503);
        assert!(server.starts_with("http://localhost:") && told == status, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("/model.safetensors") && text.contains("try again"), "{text}");
        assert!(!text.contains("secret"), "the link's signature is told: {text}");
    }
}

#[test]
fn a_refusal_that_passes_is_overcome_by_the_second_try() {
    for status in [401, 403, 404] {
        let bench = HubFixture::new();
        bench.hub.fault("GET", "/files/", 1, Fault::Status(status, None));
        bench.fetch("").unwrap();
        bench.assert_clean();
    }
}

#[test]
fn an_unknown_repository_may_be_private_and_a_token_may_help() {
    let mut bench = HubFixture::new();
    let source = "owner/misspelt".parse().unwrap();
    for (token, hint) in [(None, "set HF_TOKEN"), (Some("hf_old".to_owned()), "expired")] {
        bench.settings.token = token;
        let error = fetch_weights_with(&source, &bench.settings, &ProgressRecorder::default()).unwrap_err();
        assert!(matches!(error, HubError::RepositoryNotFound { status: 401, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("owner/misspelt") && text.contains("private") && text.contains(hint), "{text}");
        assert!(!text.contains("hf_old"), "{text}");
    }
    assert!(!bench.settings.cache.join("models--owner--misspelt").join("refs").exists());
}

#[test]
fn a_gated_repository_says_where_its_terms_are_accepted() {
    for (status, file) in [(401, "config.json"), (403, "config.json"), (403, "model.safetensors")] {
        let bench = HubFixture::new();
        bench.hub.fault("HEAD", file, usize::MAX, Fault::Status(status, Some("GatedRepo")));
        let error = bench.fetch_error("");
        assert!(matches!(error, HubError::Gated { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{}/{REPO}", bench.hub.endpoint())), "{error}");
    }
}

#[test]
fn an_unknown_revision_is_named() {
    for revision in ["v9", LATER] {
        let error = HubFixture::new().fetch_error(&format!("@{revision}"));
        assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("`{revision}`")), "{error}");
    }
}

#[test]
fn a_busy_hub_is_to_be_tried_later() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("HEAD", "model.safetensors")] {
        for status in [429, 500, 503] {
            let bench = HubFixture::new();
            bench.hub.fault(method, path, usize::MAX, Fault::Status(status, None));
            let error = bench.fetch_error("");
            assert!(
                matches!(error, HubError::Unavailable { status: told, .. } if told == status),
                "{error:?}"
            );
            assert!(error.to_string().contains("try again later"), "{error}");
        }
    }
}

/// A status that no retry is made for is told as it is, whichever it is.
#[test]
fn every_other_status_of_the_hub_is_a_refusal_or_an_outage() {
    for (status, is_outage) in
        [(400, false), (408, true), (409, false), (418, false), (451, false), (502, true)]
    {
        let bench = HubFixture::new();
        bench.hub.fault("GET", "/api/", usize::MAX, Fault::Status(status, None));
        let error = bench.fetch_error("");
        match &error {
            HubError::Unavailable { host, status: told, .. } if is_outage => {
                assert_eq!((host, *told), (&bench.hub.endpoint(), status));
            }
            HubError::Refused { host, status: told, .. } if !is_outage => {
                assert_eq!((host, *told), (&bench.hub.endpoint(), status));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[test]
fn a_hub_that_stumbles_once_is_asked_again() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("GET", "/files/")] {
        let bench = HubFixture::new();
        bench.hub.fault(method, path, 1, Fault::Status(503, None));
        bench.fetch("").unwrap();
        bench.assert_clean();
    }
}

#[test]
fn weights_that_are_not_there_are_told_with_what_is() {
    let bench = HubFixture::new();
    let files = |files: &[&str]| {
        let files: Vec<_> = files.iter().map(|file| (*file, small_file("x"))).collect();
        bench.hub.add_commit("main", COMMIT, &files);
    };
    files(&["README.md", "f16.safetensors", "f32.safetensors"]);
    for name in ["", "/model.safetensors"] {
        let text = bench.fetch_error(name).to_string();
        assert!(
            text.contains("model.safetensors") && text.ends_with("f16.safetensors, f32.safetensors"),
            "{text}"
        );
    }
    files(&["README.md", "resnet.safetensors"]);
    assert!(
        bench.fetch_error("@main").to_string().ends_with(&format!("hf://{REPO}@main/resnet.safetensors"))
    );
    files(&["README.md", "pytorch_model.bin"]);
    let text = bench.fetch_error("").to_string();
    assert!(text.contains("pytorch_model.bin") && text.contains("safetensors.torch"), "{text}");
    files(&["README.md"]);
    assert!(bench.fetch_error("").to_string().ends_with("README.md"));
    // Nothing was fetched to learn that.
    assert!(bench.hub.requests().iter().all(|request| request.path.starts_with("/api/")));
}

#[test]
fn a_file_that_the_hub_lists_and_does_not_give_is_an_error_and_not_remembered_as_missing() {
    for missing in ["config.json", "model.safetensors"] {
        let bench = HubFixture::new();
        bench.hub.fault("HEAD", missing, 1, Fault::Status(404, Some("EntryNotFound")));
        let error = bench.fetch_error("");
        assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == missing), "{error:?}");
        assert_eq!(bench.fetch("").unwrap().config, Some(bench.pointer(COMMIT, "config.json")));
    }
}

#[test]
fn a_file_that_was_wrongly_remembered_as_missing_is_asked_for() {
    let bench = HubFixture::new();
    let mark = bench.repo_cache_dir().join(".no_exist").join(COMMIT);
    std::fs::create_dir_all(&mark).unwrap();
    for file in ["model.safetensors", "config.json"] {
        std::fs::write(mark.join(file), "").unwrap();
    }
    assert_eq!(bench.fetch("").unwrap().config, Some(bench.pointer(COMMIT, "config.json")));
}

#[test]
fn what_is_no_hub_is_told() {
    let bench = HubFixture::new();
    bench.hub.fault("GET", "/api/", 1, Fault::Page);
    let error = bench.fetch_error("");
    assert!(matches!(error, HubError::UnexpectedAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");

    let mut bench = HubFixture::new();
    bench.settings.endpoint = "no address".into();
    let error = bench.fetch_error("");
    assert!(matches!(error, HubError::Client { .. }), "{error:?}");
}

#[test]
fn a_cache_that_cannot_be_written_is_told() {
    let mut bench = HubFixture::new();
    let file = bench.root().join("file");
    std::fs::write(&file, "").unwrap();
    bench.settings.cache = file.join("cache");
    let error = bench.fetch_error("");
    assert!(matches!(&error, HubError::Cache { path, .. } if path.starts_with(&file)), "{error:?}");
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let bench = HubFixture::new();
    let blobs = bench.repo_cache_dir().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // What hf-hub writes to lands on a device that is always full.
    let partial = blobs.join(format!("{}.incomplete", large_file(0).etag()));
    std::os::unix::fs::symlink("/dev/full", partial).unwrap();
    let error = bench.fetch("").unwrap_err();
    assert!(matches!(error, HubError::Cache { .. }), "{error:?}");
    assert!(error.to_string().contains("disk is full"), "{error}");
}

#[test]
fn all_but_a_malformed_name_is_of_the_hub_kind() {
    let kind = |error: HubError| BackboneError::from(error).kind();
    assert_eq!(kind(HubFixture::new().fetch_error("@v9")), ErrorKind::Hub);
    assert_eq!(kind(HubFixture::new().without_hub().fetch_error("")), ErrorKind::Hub);
    let malformed =
        headstock_backbone::WeightsSource::parse("hf://resnet50", std::path::Path::new("")).unwrap_err();
    assert_eq!(kind(malformed), ErrorKind::Config);
}
