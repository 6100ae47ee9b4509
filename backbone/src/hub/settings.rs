//! Where the hub and its cache are, and who asks.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the hub and its cache are, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The hub's address, `https://huggingface.co`.
    pub endpoint: String,
    /// The cache, shared with Python's huggingface_hub.
    pub cache: PathBuf,
    /// Who asks, where that matters: for private and gated repositories.
    pub token: Option<String>,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// How long the hub, or another process that fetches the same, may be silent before it is given up.
    pub idle_timeout: Duration,
    /// The pause before a request that failed is made again; the next ones are longer.
    pub retry_delay: Duration,
}

impl HubSettings {
    /// The settings of huggingface_hub's environment variables, and its defaults: `HF_ENDPOINT`; `HF_HUB_CACHE`, or `hub`
    /// in `HF_HOME`, or that in `XDG_CACHE_HOME` or `~/.cache`; `HF_TOKEN`, or the file that `HF_TOKEN_PATH` names, or
    /// `token` in `HF_HOME`, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE`.
    ///
    /// The one place where this crate reads the environment.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the hub's variables are shared with Python's huggingface_hub"
    )]
    pub fn from_environment() -> Self {
        Self::from_variables(|name| env::var_os(name), env::home_dir())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Self {
        let user_home = user.unwrap_or_default();
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let text = |name| set(name).and_then(|value| value.into_string().ok());
        let path = |name| set(name).map(|value| expand_tilde(Path::new(&value), &user_home));
        let is_on = |name| {
            text(name)
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };

        let hf_home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| user_home.join(".cache")).join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token = if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            text("HF_TOKEN").or_else(|| {
                fs::read_to_string(path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"))).ok()
            })
        };
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: is_on("HF_HUB_OFFLINE"),
            idle_timeout: Duration::from_secs(60),
            retry_delay: Duration::from_millis(250),
        }
    }

    /// The hub's address without a slash at its end.
    pub(super) fn base_url(&self) -> &str {
        self.endpoint.trim_end_matches('/')
    }
}

/// A path with `~` resolved, as Python does.
fn expand_tilde(path: &Path, user: &Path) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| user.join(rest))
}

impl fmt::Debug for HubSettings {
    /// Without the token.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .field("patience", &self.idle_timeout)
            .field("pause", &self.retry_delay)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        HubSettings::from_variables(variable, Some("/home/ann".into()))
    }

    #[test]
    fn without_variables_the_defaults_are_those_of_huggingface_hub() {
        let HubSettings { endpoint, cache, token, offline, idle_timeout: patience, retry_delay: pause } =
            settings(&[]);
        assert_eq!((patience, pause), (Duration::from_secs(60), Duration::from_millis(250)));
        assert_eq!(endpoint, "https://huggingface.co");
        assert_eq!(cache, Path::new("/home/ann/.cache/huggingface/hub"));
        assert_eq!((token, offline), (None, false));
    }

    #[test]
    fn the_nearest_variable_says_where_the_cache_is() {
        let mut variables = vec![("XDG_CACHE_HOME", "/xdg")];
        for (name, value, cache) in [
            ("", "", "/xdg/huggingface/hub"),
            ("HF_HOME", "~/hf", "/home/ann/hf/hub"),
            ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
            ("HF_HUB_CACHE", "/new", "/new"),
        ] {
            variables.push((name, value));
            assert_eq!(settings(&variables).cache, Path::new(cache), "{name}");
        }
        assert_eq!(settings(&[("HF_HUB_CACHE", "")]).cache, settings(&[]).cache);
    }

    #[test]
    fn the_token_is_the_variable_or_the_file_it_names_or_the_one_in_the_home() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("other");
        fs::write(home.path().join("token"), "of-the-home\n").unwrap();
        fs::write(&other, "of-the-file\n").unwrap();
        let mut variables = vec![("HF_HOME", home.path().to_str().unwrap())];
        for (name, value, token) in [
            ("", "", Some("of-the-home")),
            ("HF_TOKEN_PATH", other.to_str().unwrap(), Some("of-the-file")),
            ("HF_TOKEN", "of-the-variable", Some("of-the-variable")),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", None),
        ] {
            variables.push((name, value));
            assert_eq!(settings(&variables).token.as_deref(), token, "{name}");
        }
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        for (value, offline) in
            [("1", true), ("True", true), ("YES", true), ("on", true), ("0", false), ("", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn the_endpoint_is_the_variables_and_its_address_ends_without_a_slash() {
        for (value, address) in [
            ("", "https://huggingface.co"),
            ("https://mirror.example", "https://mirror.example"),
            ("https://mirror.example/hub//", "https://mirror.example/hub"),
        ] {
            assert_eq!(settings(&[("HF_ENDPOINT", value)]).base_url(), address);
        }
    }

    #[test]
    fn a_path_of_the_users_folder_may_be_written_with_a_tilde_and_no_other() {
        for (value, cache) in [
            ("~", "/home/ann"),
            ("~/x/y", "/home/ann/x/y"),
            ("~bob/x", "~bob/x"),
            ("/a/~/b", "/a/~/b"),
            ("a", "a"),
        ] {
            assert_eq!(settings(&[("HF_HUB_CACHE", value)]).cache, Path::new(cache), "{value}");
        }
    }

    #[test]
    fn a_token_is_trimmed_and_a_blank_one_is_none() {
        for (value, token) in [(" hf_x\n", Some("hf_x")), (" \n", None)] {
            assert_eq!(settings(&[("HF_TOKEN", value)]).token.as_deref(), token);
        }
        // A file that is not there is none either.
        assert_eq!(settings(&[("HF_TOKEN_PATH", "/nowhere/token")]).token, None);
        let variables = [("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")];
        assert_eq!(settings(&variables).token.as_deref(), Some("hf_x"));
    }

    #[test]
    fn all_but_the_token_is_printed() {
        let printed = format!(
            "{:?}",
            settings(&[("HF_TOKEN", "hf_x"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "1")])
        );
        let expected = r#"HubSettings { endpoint: "https://huggingface.co", cache: "/c", token: Some("..."), offline: true, patience: 60s, pause: 250ms }"#;
        assert_eq!(printed, expected);
        assert!(format!("{:?}", settings(&[])).contains("token: None"));
    }

    #[test]
    fn the_token_is_never_printed() {
        let printed = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!printed.contains("secret"), "{printed}");
    }
}
