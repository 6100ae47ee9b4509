//! Errors of the hub and of its file server, and their messages.

use headstock_hub::{HubError, HubSource, fetch_weights_with};

use super::fixture::{COMMIT, HubFixture, LATER, ProgressRecorder, REPO, large_file, small_file};
use super::server::Fault;

#[test]
fn a_refusal_of_the_file_server_names_that_server() {
    for status in [401, 403, 404, 503] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/files/", usize::MAX, Fault::Status(status, None));
        let error = fixture.fetch_error("");
        let (server, found) = match &error {
            HubError::Refused { host, status, .. } | HubError::Unavailable { host, status, .. } => {
                (host, *status)
            }
            other => panic!("{status}: {other:?}"),
        };
        assert_eq!(matches!(error, HubError::Unavailable { .. }), status == 503);
        assert!(server.starts_with("http://localhost:") && found == status, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("/model.safetensors") && text.contains("try again"), "{text}");
        assert!(!text.contains("secret"), "the message contains the signature of the link: {text}");
    }
}

#[test]
fn a_temporary_refusal_is_retried() {
    for status in [401, 403, 404] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/files/", 1, Fault::Status(status, None));
        fixture.fetch("").unwrap();
        fixture.assert_clean();
    }
}

#[test]
fn the_error_for_an_unknown_repository_has_a_hint_about_tokens() {
    let mut fixture = HubFixture::new();
    let source = "owner/misspelt".parse().unwrap();
    for (token, hint) in
        [(None, "set the environment variable HF_TOKEN"), (Some("hf_old".to_owned()), "expired")]
    {
        fixture.settings.token = token;
        let error = fetch_weights_with(&source, &fixture.settings, &ProgressRecorder::default()).unwrap_err();
        assert!(matches!(error, HubError::RepositoryNotFound { status: 401, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("owner/misspelt") && text.contains("private") && text.contains(hint), "{text}");
        assert!(!text.contains("hf_old"), "{text}");
    }
    assert!(!fixture.settings.cache.join("models--owner--misspelt").join("refs").exists());
}

#[test]
fn the_error_for_a_gated_repository_has_a_link_to_its_terms() {
    for (status, file) in [(401, "config.json"), (403, "config.json"), (403, "model.safetensors")] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("HEAD", file, usize::MAX, Fault::Status(status, Some("GatedRepo")));
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::Gated { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{}/{REPO}", fixture.hub.endpoint())), "{error}");
    }
}

#[test]
fn the_error_for_an_unknown_revision_names_it() {
    for revision in ["v9", LATER] {
        let error = HubFixture::new().fetch_error(&format!("@{revision}"));
        assert!(matches!(error, HubError::RevisionNotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("`{revision}`")), "{error}");
    }
}

#[test]
fn the_error_for_a_busy_hub_recommends_trying_later() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("HEAD", "model.safetensors")] {
        for status in [429, 500, 503] {
            let fixture = HubFixture::new();
            fixture.hub.inject_fault(method, path, usize::MAX, Fault::Status(status, None));
            let error = fixture.fetch_error("");
            assert!(
                matches!(error, HubError::Unavailable { status: found, .. } if found == status),
                "{error:?}"
            );
            assert!(error.to_string().contains("try again later"), "{error}");
        }
    }
}

#[test]
fn statuses_without_a_retry_are_refusals_or_outages() {
    for (status, is_outage) in
        [(400, false), (408, true), (409, false), (418, false), (451, false), (502, true)]
    {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/api/", usize::MAX, Fault::Status(status, None));
        let error = fixture.fetch_error("");
        match &error {
            HubError::Unavailable { host, status: found, .. } if is_outage => {
                assert_eq!((host, *found), (&fixture.hub.endpoint(), status));
            }
            HubError::Refused { host, status: found, .. } if !is_outage => {
                assert_eq!((host, *found), (&fixture.hub.endpoint(), status));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[test]
fn a_single_outage_is_retried() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("GET", "/files/")] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault(method, path, 1, Fault::Status(503, None));
        fixture.fetch("").unwrap();
        fixture.assert_clean();
    }
}

#[test]
fn the_error_for_missing_weights_lists_other_files() {
    let fixture = HubFixture::new();
    let files = |files: &[&str]| {
        let files: Vec<_> = files.iter().map(|file| (*file, small_file("x"))).collect();
        fixture.hub.add_commit("main", COMMIT, &files);
    };
    files(&["README.md", "f16.safetensors", "f32.safetensors"]);
    for name in ["", "/model.safetensors"] {
        let text = fixture.fetch_error(name).to_string();
        assert!(
            text.contains("model.safetensors") && text.ends_with("f16.safetensors, f32.safetensors"),
            "{text}"
        );
    }
    files(&["README.md", "resnet.safetensors"]);
    assert!(
        fixture.fetch_error("@main").to_string().ends_with(&format!("hf://{REPO}@main/resnet.safetensors"))
    );
    files(&["README.md", "pytorch_model.bin"]);
    let text = fixture.fetch_error("").to_string();
    assert!(text.contains("pytorch_model.bin") && text.contains("safetensors.torch"), "{text}");
    files(&["README.md"]);
    assert!(fixture.fetch_error("").to_string().ends_with("README.md"));
    // No file was downloaded.
    assert!(fixture.hub.take_requests().iter().all(|request| request.path.starts_with("/api/")));
}

#[test]
fn a_listed_file_that_the_hub_does_not_deliver_is_an_error_and_not_marked_as_absent() {
    for missing in ["config.json", "model.safetensors"] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("HEAD", missing, 1, Fault::Status(404, Some("EntryNotFound")));
        let error = fixture.fetch_error("");
        assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == missing), "{error:?}");
        assert_eq!(fixture.fetch("").unwrap().config, Some(fixture.link(COMMIT, "config.json")));
    }
}

#[test]
fn a_listed_file_that_is_marked_as_absent_is_requested() {
    let fixture = HubFixture::new();
    let markers = fixture.repo_cache_dir().join(".no_exist").join(COMMIT);
    std::fs::create_dir_all(&markers).unwrap();
    for file in ["model.safetensors", "config.json"] {
        std::fs::write(markers.join(file), "").unwrap();
    }
    assert_eq!(fixture.fetch("").unwrap().config, Some(fixture.link(COMMIT, "config.json")));
}

#[test]
fn a_server_that_is_not_a_hub_is_an_error() {
    let fixture = HubFixture::new();
    fixture.hub.inject_fault("GET", "/api/", 1, Fault::Page);
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::UnexpectedAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");

    let mut fixture = HubFixture::new();
    fixture.settings.endpoint = "no address".into();
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::Endpoint { .. }), "{error:?}");
}

#[test]
fn a_server_without_tls_at_an_https_address_is_unreachable_and_the_error_names_certificates() {
    let mut fixture = HubFixture::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fixture.settings.endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            drop(std::io::Write::write_all(&mut client.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let error = fixture.fetch_error("");
    assert!(matches!(&error, HubError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&fixture.settings.endpoint) && text.contains("certificate"), "{text}");
}

#[test]
fn the_error_for_a_cache_that_cannot_be_written_names_the_variable() {
    let mut fixture = HubFixture::new();
    let file = fixture.root().join("file");
    std::fs::write(&file, "").unwrap();
    fixture.settings.cache = file.join("cache");
    let error = fixture.fetch_error("");
    assert!(matches!(&error, HubError::NotStored { path, .. } if path.starts_with(&file)), "{error:?}");
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let fixture = HubFixture::new();
    let blobs = fixture.repo_cache_dir().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // The blob is written to a device that is always full.
    let partial = blobs.join(format!("{}.incomplete", large_file(0).etag()));
    std::os::unix::fs::symlink("/dev/full", partial).unwrap();
    let error = fixture.fetch("").unwrap_err();
    assert!(matches!(error, HubError::NotStored { .. }), "{error:?}");
    assert!(error.to_string().contains("disk is full"), "{error}");
}

#[test]
fn only_a_malformed_name_is_a_name_error() {
    assert!(!HubFixture::new().fetch_error("@v9").is_name_error());
    assert!(!HubFixture::new().without_hub().fetch_error("").is_name_error());
    assert!("resnet50".parse::<HubSource>().unwrap_err().is_name_error());
}
