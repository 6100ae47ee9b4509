use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// The files of each split by the name of the config.
type ConfigFiles = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// A case of `reference/hub/configs.json`: what the `datasets` library makes of a README.md and files.
#[derive(Deserialize)]
struct Case {
    name: String,
    readme: String,
    files: Vec<String>,
    configs: Option<ConfigFiles>,
    default: Option<String>,
    /// What the library refuses.
    error: Option<String>,
}

/// The files of each split by the name of the config, and the name of the default config.
fn read(case: &Case) -> Result<(ConfigFiles, Option<String>), String> {
    let configs = read_configs(&case.readme)?;
    let files: Vec<&str> = case.files.iter().map(String::as_str).collect();
    let mut found = BTreeMap::new();
    for config in &configs {
        let splits = config.files(&files)?.into_iter().flatten().map(|SplitFiles { split, files }| {
            // The library takes the split of a config without files from the names, as the loader does.
            (split.unwrap_or_else(|| "train".into()), files.into_iter().map(str::to_owned).collect())
        });
        found.insert(config.name.clone(), splits.collect());
    }
    let default = default_config(&configs)?.map(|config| config.name.clone());
    Ok((found, default))
}

#[test]
fn configs_are_those_of_the_datasets_library() {
    let golden = include_str!("../../../reference/hub/configs.json");
    let cases: Vec<Case> = serde_json::from_str(golden).unwrap();
    assert_eq!(cases.len(), 25);
    for case in &cases {
        let found = read(case);
        let name = &case.name;
        if case.error.is_some() {
            let problem = found.expect_err(name);
            assert!(!problem.is_empty() && !problem.ends_with('.'), "{name}: {problem}");
            continue;
        }
        let (found, default) = found.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        // Without `data_files` and `data_dir` nothing is read from the card.
        if found.values().all(BTreeMap::is_empty) {
            assert!(
                ["no configs", "a config without", "the splits of dataset_info"]
                    .iter()
                    .any(|begin| { name.starts_with(begin) }),
                "{name}"
            );
            continue;
        }
        let normalized = |file: &String| file.trim_start_matches("./").to_owned();
        let expected = case.configs.clone().unwrap().into_iter().map(|(config, splits)| {
            let splits =
                splits.into_iter().map(|(split, files)| (split, files.iter().map(normalized).collect()));
            (config, splits.collect())
        });
        assert_eq!((found, &default), (expected.collect(), &case.default), "{name}");
    }
}

#[test]
fn the_front_matter_is_between_the_first_two_lines_of_dashes() {
    for (readme, expected) in [
        ("---\na: 1\n---\n# X", Some(("\na: 1", 0))),
        ("\n\n---\r\na: 1\r\n---\r\n", Some(("\r\na: 1\r", 2))),
        ("---\na: 1\n---", Some(("\na: 1", 0))),
        ("---\na: |\n  ---x\n ---\n---\n", Some(("\na: |\n  ---x\n ---", 0))),
        ("# X\n---\na: 1\n---\n", None),
        ("---\na: 1\n", None),
        ("--- \na: 1\n---\n", None),
        ("---\na: 1\n--- \n", None),
        ("", None),
        ("---", None),
    ] {
        assert_eq!(front_matter(readme), expected, "{readme:?}");
    }
}

#[test]
fn the_error_for_a_card_names_the_line_or_the_config() {
    for (front, expected) in [
        ("a: 1\nconfigs: ]", "line 4"),
        ("configs: x", "`configs` is not a list"),
        ("configs: [x]", "an entry of `configs` has no `config_name`"),
        ("configs: [{config_name: a, data_dir: [x]}]", "in the config `a`, `data_dir` is not a text"),
        ("configs: [{config_name: a, data_files: {train: x}}]", "`data_files` must be a pattern, a list"),
        ("configs: [{config_name: a, data_files: [x, {split: a, path: b}]}]", "`data_files` must be"),
        (
            "configs: [{config_name: a, data_files: [{split: a.b_1, path: [b]}, {split: a-b, path: x}]}]",
            "`a-b`",
        ),
        (
            "configs: [{config_name: a, data_files: [{split: a, path: x}, {split: a, path: y}]}]",
            "`a` is there twice",
        ),
        ("configs: [{config_name: a, default: yes}, {config_name: default}]", "`a` and `default` are both"),
    ] {
        let problem = read_configs(&format!("\n---\n{front}\n---\n"))
            .and_then(|configs| default_config(&configs).map(|_| ()))
            .expect_err(front);
        assert!(problem.contains(expected), "{front}: {problem}");
    }
    let files = |front: &str| {
        let configs = read_configs(&format!("---\nconfigs: [{{config_name: a, {front}}}]\n---\n")).unwrap();
        configs[0].files(&["x/a.parquet"]).map(|_| ()).unwrap_err()
    };
    for (front, expected) in [
        ("data_files: 'hf://datasets/b/c/x.parquet'", "only files of the same data set are supported"),
        ("data_files: '/x/a.parquet'", "only files of the same data set"),
        ("data_files: x/b.parquet", "`data_files` is x/b.parquet, where no .parquet file is"),
        ("data_files: 'y*'", "no .parquet file of the split `train` is at y*"),
        ("data_files: 'x/[a.parquet'", "which is not a pattern"),
        ("data_files: []", "no .parquet file of the split `train`"),
        ("data_dir: y", "`data_dir` is y/, where no .parquet file is"),
    ] {
        let problem = files(front);
        assert!(
            problem.starts_with("in the config `a`, ") && problem.contains(expected),
            "{front}: {problem}"
        );
    }
}

#[test]
fn a_default_that_is_false_is_none() {
    for (value, is_default) in
        [("true", true), ("True", true), ("yes", true), ("false", false), ("off", false), ("", false)]
    {
        let front = format!("---\nconfigs:\n- config_name: a\n  default: {value}\n- config_name: b\n---\n");
        let configs = read_configs(&front).unwrap();
        assert_eq!(default_config(&configs).unwrap().is_some(), is_default, "{value}");
    }
}
