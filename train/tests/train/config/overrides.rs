//! Values given by `--set`, and paths and names in other notations.

use super::*;

#[test]
fn overrides_are_toml_values_or_strings() {
    let head_table = |overrides: &[&str]| resolve(MINIMAL, overrides).unwrap().head.table();
    assert_eq!(head_table(&["head.C=0.25"])["C"].as_float(), Some(0.25));
    assert_eq!(head_table(&["head.C = 3"])["C"].as_float(), Some(3.0));
    assert_eq!(head_table(&["head.solver=adam"])["solver"].as_str(), Some("adam"));
    assert_eq!(head_table(&["head.solver=\"adam\""])["solver"].as_str(), Some("adam"));
    assert_eq!(head_table(&["head.kind=mlp", "head.hidden=[8, 4]"])["hidden"].as_array().unwrap().len(), 2);
    assert_eq!(head_table(&["head.C=0.25", "head.C=0.5"])["C"].as_float(), Some(0.5));
}

#[test]
fn an_override_is_a_string_where_the_key_wants_one() {
    let value = |config: &str, set: &str| {
        let settings = resolve(config, &[set]).unwrap_or_else(|error| panic!("{set}: {error}"));
        toml::Table::try_from(settings.to_options()).unwrap()
    };
    for text in ["123", "2024", "1.50", "true", "2024-01-01", "nan", "[1, 2]", "{a = 1}", "0x10", "1e3"] {
        let folder = value(MINIMAL, &format!("data.folder={text}"));
        assert_eq!(folder["data"]["folder"].as_str(), Some(format!("/base/{text}").as_str()), "{text}");
        let label = value(CSV, &format!("data.label={text}"));
        assert_eq!(label["data"]["label"].as_str(), Some(text));
        let weights = value(MINIMAL, &format!("backbone.weights={text}"));
        assert_eq!(weights["backbone"]["weights"].as_str(), Some(format!("/base/{text}").as_str()), "{text}");
        let cache = value(MINIMAL, &format!("features.cache={text}"));
        assert_eq!(cache["features"]["cache"].as_str(), Some(format!("/base/{text}").as_str()), "{text}");
        let quoted = value(CSV, &format!("data.label=\"{text}\""));
        assert_eq!(quoted["data"]["label"].as_str(), Some(text));
    }
    // The last override counts, and other keys keep their types.
    let settings = resolve(MINIMAL, &["data.folder=1", "data.folder=2", "split.seed=3", "head.C=4"]).unwrap();
    let table = toml::Table::try_from(settings.to_options()).unwrap();
    assert_eq!(table["data"]["folder"].as_str(), Some("/base/2"));
    assert_eq!((table["split"]["seed"].as_integer(), table["head"]["C"].as_float()), (Some(3), Some(4.0)));
}

#[test]
fn a_tilde_in_a_path_is_the_home_folder() {
    let home = std::env::home_dir().unwrap();
    let expected = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let settings = resolve(
        &MINIMAL.replace("\"photos\"", "\"~/photos\""),
        &["backbone.weights=~/backbone", "features.cache=~/cache", "data.test_folder=~"],
    );
    let options = settings.unwrap().to_options();
    assert_eq!(options.data.source["folder"].as_str(), Some(expected("photos").as_str()));
    assert_eq!(options.data.source["test_folder"].as_str().map(Path::new), Some(home.as_path()));
    assert_eq!(options.backbone.unwrap().weights, expected("backbone"));
    assert_eq!(options.features.cache, Path::new(&expected("cache")));
    for (config, key) in [(CSV, "csv"), (CSV, "images"), (PARQUET, "parquet"), (TAR, "webdataset")] {
        let options = resolve(config, &[format!("data.{key}=~/x").as_str()]).unwrap().to_options();
        assert_eq!(options.data.source[key].as_str(), Some(expected("x").as_str()), "{key}");
    }
    let features = resolve(FEATURES, &["data.features=~/x.npz"]).unwrap().to_options();
    assert_eq!(features.data.features, Some(home.join("x.npz")));
    // A name that is no path is not changed.
    assert_eq!(
        resolve(CSV, &["data.label=~/x"]).unwrap().to_options().data.source["label"].as_str(),
        Some("~/x")
    );
}

#[test]
fn hub_names_in_other_notations_are_refused_with_the_right_one() {
    for text in [
        "https://huggingface.co/timm/resnet50.a1_in1k",
        "https://huggingface.co/timm/resnet50.a1_in1k/tree/main",
        "huggingface.co/timm/resnet50.a1_in1k",
        "hf:timm/resnet50.a1_in1k",
        "timm:resnet50.a1_in1k",
    ] {
        let found = error_of(resolve(MINIMAL, &[format!("backbone.weights={text}").as_str()]));
        let expected =
            format!("`backbone.weights` is \"{text}\": did you mean \"hf://timm/resnet50.a1_in1k\"?");
        assert!(found.ends_with(&expected), "{found}");
    }
    let found = error_of(resolve(PARQUET, &["data.test_parquet=https://huggingface.co/datasets/a/b"]));
    assert!(
        found.contains("`data.test_parquet` is ") && found.ends_with("did you mean \"hf://datasets/a/b\"?")
    );
    // A relative path may look like a name; it is looked up when it is read.
    resolve(MINIMAL, &["backbone.weights=timm/resnet50.a1_in1k"]).unwrap();
}

#[test]
fn invalid_overrides_are_refused_with_the_reason() {
    for (text, reason) in [
        ("head.C", "the override `head.C` of the config is invalid: write KEY=VALUE"),
        ("head..C=1", "the name of a section or key is empty"),
        ("version.minor=1", "`version` is a value, not a section"),
        ("version=2", "cannot be overridden"),
        ("data.folder=", "`data.folder` is empty"),
        ("split.test_size=1.0", "`split.test_size` is 1"),
        ("split.test_size=nan", "`split.test_size` is NaN"),
        ("split.test_size=-0.1", "`split.test_size` is -0.1"),
        ("features.views=1001", "`features.views` is 1001"),
        ("split.sede=1", "unknown key `split.sede`; did you mean `split.seed`?"),
        (
            "data.folder=~bob/photos",
            "`data.folder` is ~bob/photos: the home folder of another user is not looked up",
        ),
        ("backbone.weights=~bob/x", "`backbone.weights` is ~bob/x: "),
        ("data.max_pixels=many", "data.max_pixels"),
    ] {
        let found = error_of(resolve(MINIMAL, &[text]));
        assert!(found.contains(reason), "{text}: {found}");
    }
}

#[test]
fn another_head_drops_the_keys_of_the_one_in_the_file() {
    let text = format!("{MINIMAL}[head]\nkind = \"linear\"\nsolver = \"adam\"\nC = 3.0\n");
    // The order of overrides does not matter.
    for overrides in [["head.kind=svm", "head.tol=0.5"], ["head.tol=0.5", "head.kind=svm"]] {
        let settings = resolve(&text, &overrides).unwrap();
        assert_eq!(settings.head.kind(), "svm");
        assert_eq!(settings.head.table()["tol"].as_float(), Some(0.5));
        assert_ne!(settings.head.table()["C"].as_float(), Some(3.0));
    }
    // A file without `head.kind` has the default head.
    let unnamed = format!("{MINIMAL}[head]\nC = 3.0\n");
    let unchanged = resolve(&unnamed, &["head.kind=linear"]).unwrap();
    assert_eq!(unchanged.head.table()["C"].as_float(), Some(3.0));
    let unchanged = resolve(&text, &["head.kind=linear"]).unwrap();
    assert_eq!(unchanged.head.table()["C"].as_float(), Some(3.0));
}
