//! Settings of the hub and its cache.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of the hub and its cache.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The URL of the hub, `https://huggingface.co`.
    pub endpoint: String,
    /// The cache folder, shared with Python's huggingface_hub.
    pub cache: PathBuf,
    /// The access token, for private and gated repositories.
    pub token: Option<String>,
    /// Whether to use only the cache.
    pub offline: bool,
    /// How long to wait for an answer of the hub, and for each part of it.
    pub idle_timeout: Duration,
    /// The delay before the first retry of a failed request; further delays are longer.
    pub retry_delay: Duration,
    /// The longest time to wait because a busy hub asks for it; if it asks for more, that is an error.
    pub max_retry_wait: Duration,
}

impl HubSettings {
    /// The settings from the environment variables of huggingface_hub, with its defaults:
    ///
    /// - `endpoint`: `HF_ENDPOINT`.
    /// - `cache`: `HF_HUB_CACHE` (or its old name `HUGGINGFACE_HUB_CACHE`), or `HF_HOME/hub`, where `HF_HOME`
    ///   is `XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` by default.
    /// - `token`: `HF_TOKEN`, or the file `HF_TOKEN_PATH`, or the file `HF_HOME/token`; none if
    ///   `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set.
    /// - `offline`: `HF_HUB_OFFLINE`.
    ///
    /// No other function of this crate reads the environment.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the hub's variables are shared with Python's huggingface_hub"
    )]
    pub fn from_environment() -> Self {
        Self::from_variables(|name| env::var_os(name), env::home_dir())
    }

    /// The settings from environment variables, with the defaults and the precedence of huggingface_hub.
    /// `variable` reads a variable; tests pass a function of their own instead of setting variables.
    /// `user_home` is the folder that `~` means.
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, user_home: Option<PathBuf>) -> Self {
        let user_home = user_home.unwrap_or_default();
        let non_empty = |name| variable(name).filter(|value| !value.is_empty());
        let string = |name| non_empty(name).and_then(|value| value.into_string().ok());
        let path = |name| non_empty(name).map(|value| expand_tilde(Path::new(&value), &user_home));
        let is_true = |name| {
            string(name)
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()))
        };

        let hf_home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| user_home.join(".cache")).join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            string("HF_TOKEN").or_else(|| {
                fs::read_to_string(path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"))).ok()
            })
        };
        Self {
            endpoint: string("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: cache.unwrap_or_else(|| hf_home.join("hub")),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: is_true("HF_HUB_OFFLINE"),
            idle_timeout: Duration::from_secs(60),
            retry_delay: Duration::from_millis(250),
            // The hub counts requests in intervals of this length.
            max_retry_wait: Duration::from_secs(300),
        }
    }

    /// The URL of the hub without a trailing slash.
    pub(crate) fn base_url(&self) -> &str {
        self.endpoint.trim_end_matches('/')
    }
}

/// Replaces a leading `~` with `user_home`, as Python's `expanduser` does for the current user.
fn expand_tilde(path: &Path, user_home: &Path) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| user_home.join(rest))
}

impl fmt::Debug for HubSettings {
    /// Writes all fields as the derived `Debug` would, but hides the token, a secret, from logs.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .field("idle_timeout", &self.idle_timeout)
            .field("retry_delay", &self.retry_delay)
            .field("max_retry_wait", &self.max_retry_wait)
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
        let HubSettings { endpoint, cache, token, offline, idle_timeout, retry_delay, max_retry_wait } =
            settings(&[]);
        assert_eq!((idle_timeout, retry_delay), (Duration::from_secs(60), Duration::from_millis(250)));
        assert_eq!(max_retry_wait, Duration::from_secs(300));
        assert_eq!(endpoint, "https://huggingface.co");
        assert_eq!(cache, Path::new("/home/ann/.cache/huggingface/hub"));
        assert_eq!((token, offline), (None, false));
    }

    #[test]
    fn the_most_specific_variable_sets_the_cache() {
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
    fn the_token_comes_from_a_variable_or_a_file() {
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
    fn offline_accepts_the_true_values_of_python() {
        for (value, offline) in
            [("1", true), ("True", true), ("YES", true), ("on", true), ("0", false), ("", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn the_base_url_has_no_trailing_slash() {
        for (value, base_url) in [
            ("", "https://huggingface.co"),
            ("https://mirror.example", "https://mirror.example"),
            ("https://mirror.example/hub//", "https://mirror.example/hub"),
        ] {
            assert_eq!(settings(&[("HF_ENDPOINT", value)]).base_url(), base_url);
        }
    }

    #[test]
    fn only_the_tilde_of_the_current_user_is_expanded() {
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
    fn tokens_are_trimmed_and_blank_ones_are_ignored() {
        for (value, token) in [(" hf_x\n", Some("hf_x")), (" \n", None)] {
            assert_eq!(settings(&[("HF_TOKEN", value)]).token.as_deref(), token);
        }
        // A missing file is ignored, too.
        assert_eq!(settings(&[("HF_TOKEN_PATH", "/nowhere/token")]).token, None);
        let variables = [("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")];
        assert_eq!(settings(&variables).token.as_deref(), Some("hf_x"));
    }

    #[test]
    fn debug_output_has_all_settings_but_hides_the_token() {
        let printed = format!(
            "{:?}",
            settings(&[("HF_TOKEN", "hf_x"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "1")])
        );
        let expected = r#"HubSettings { endpoint: "https://huggingface.co", cache: "/c", token: Some("..."), offline: true, idle_timeout: 60s, retry_delay: 250ms, max_retry_wait: 300s }"#;
        assert_eq!(printed, expected);
        assert!(format!("{:?}", settings(&[])).contains("token: None"));
    }

    #[test]
    fn the_token_is_never_printed() {
        let printed = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!printed.contains("secret"), "{printed}");
    }
}
