//! What a resumed training must have in common with the interrupted one.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::*;
use crate::config::{Options, Registries, known_keys};

/// Adds the paths of all values of a table.
fn collect_paths(table: &Table, path: &[String], keys: &mut BTreeSet<Vec<String>>) {
    for (key, value) in table {
        let path = [path, std::slice::from_ref(key)].concat();
        match value {
            Value::Table(table) => collect_paths(table, &path, keys),
            _ => {
                keys.insert(path);
            }
        }
    }
}

/// Paths of all config keys: those of the sections, and those below in a config that sets many.
fn keys(written: &Table) -> Vec<Vec<String>> {
    const SECTIONS: [&str; 6] = ["data", "split", "backbone", "features", "augment", "tune"];
    let known = known_keys();
    let paths = known.iter().map(|key| key.split('.').take(2).map(str::to_owned).collect::<Vec<_>>());
    let mut keys: BTreeSet<Vec<String>> = paths.filter(|path| SECTIONS.contains(&path[0].as_str())).collect();
    collect_paths(written, &[], &mut keys);
    keys.into_iter().collect()
}

/// Values of which every config key accepts at least one.
fn candidate_values() -> Vec<Value> {
    let config_text = "values = [true, false, 1, 2, 3, 0.25, 0.75, 1.5, [0.4, 0.6], [3, 5], {}, { kind = \"rand-augment\" }, \
                { degrees = 5.0 }, { kernel_size = 3 }, { factor = 2.0 }, { bits = 4 }, { threshold = 0.5 }, \"elsewhere\", \
                \"appearance\", \"accept\", \"srgb\", \"skip\", \"scale\", \"scaled\", \"group\", \"layer3\", \"bf16\", \"cuda\", \"adamw\", \"step\", \
                \"balanced\", \"train\", \"per-epoch\", \"fitted\", \"isotonic\", \"bilinear\", \"all\"]";
    let table: Table = config_text.parse().unwrap();
    table["values"].as_array().unwrap().clone()
}

/// Sets the value at a path.
fn insert_at(table: &mut Table, path: &[String], value: Value) {
    let (last, sections) = path.split_last().unwrap();
    let mut table = table;
    for section in sections {
        let below = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        table = below.as_table_mut().unwrap();
    }
    table.insert(last.clone(), value);
}

// effect: train --resume
#[test]
fn every_setting_changes_the_fingerprint() {
    let (_folder, settings) =
        demo_project(&["tune.clip_grad_norm=1", "tune.ema_decay=0.5", "augment.horizontal_flip=0.5"]);
    let prepared_finetune = PreparedFinetune::prepare(&settings, None, &()).unwrap();
    let pretrained = prepared_finetune.prepared.pretrained.as_ref().unwrap();
    let fingerprint =
        |options: &Options| fingerprint(&options.to_toml(), &prepared_finetune.prepared, pretrained);
    let original = settings.to_options();
    let mut seen = BTreeSet::from([fingerprint(&original)]);
    assert!(seen.contains(&fingerprint(&original)), "it is deterministic");
    let values = candidate_values();
    let written: Table = original.to_toml().parse().unwrap();
    let keys = keys(&written);
    assert!(keys.len() > 75, "{}", keys.len());
    for path in keys {
        let changed = values.iter().find_map(|value| {
            let mut table = written.clone();
            insert_at(&mut table, &path, value.clone());
            let options = Options::from_table(table).ok()?;
            (options != original).then_some(options)
        });
        let changed = changed.unwrap_or_else(|| panic!("{path:?} has no other value"));
        assert!(seen.insert(fingerprint(&changed)), "{path:?} changes nothing");
    }
}

// effect: train --resume
#[test]
fn a_run_resumes_only_with_unchanged_images_groups_labels_weights_and_settings() {
    let (folder, config) = project_files(6);
    let images = ["hat", "shoes"].map(|class| {
        let read = fs::read_dir(folder.path().join("photos").join(class)).unwrap();
        let mut names: Vec<String> =
            read.map(|entry| format!("{class}/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
        names.sort();
        names
    });
    let table = |groups: usize, first: &str| {
        let rows = images.concat().into_iter().enumerate().map(|(number, image)| {
            let label = if number == 0 { first } else { image.split('/').next().unwrap() }.to_owned();
            format!("{image},{label},g{}\n", number % groups)
        });
        "id,label,patient\n".to_owned() + &rows.collect::<String>()
    };
    let csv = folder.path().join("photos.csv");
    fs::write(&csv, table(9, "hat")).unwrap();
    let config = config
        .replace("folder = \"photos\"", "csv = \"photos.csv\"\nimages = \"photos\"\ngroup = \"patient\"");
    // It diverges in its first step; the checkpoint before it stays.
    let settings =
        resolve(&folder, &config, &["tune.lr=1e38", "tune.validation=0.5", "data.class_order=sorted"]);
    let run = folder.path().join("run");
    let run_dir = RunDir::Named(run.clone());
    let divergence_error = start_finetune(&settings, &run_dir, &()).unwrap_err();
    let TrainError::WithRemedy { error, remedy } = divergence_error else { panic!("{divergence_error}") };
    assert_eq!(remedy, Remedy::Resume(run.clone()));
    assert!(matches!(*error, TrainError::WithRemedy { remedy: Remedy::LowerLearningRate, .. }), "{error}");
    let divergence_error = error.to_string();
    assert!(run.join("checkpoints/last.safetensors").exists());

    let resume_error = || resume(&run, &Registries::builtin(), &()).map(|_| ()).unwrap_err().to_string();
    let rejection = format!(
        "{} cannot be resumed: its settings, photos or weights have changed since the run began",
        run.display()
    );
    let swapped = |path: &Path, bytes: Vec<u8>, what: &str| {
        let before = fs::read(path).unwrap();
        assert!(before != bytes, "{what}");
        // Write a new file each time, because the weights are a hard link to the demo's.
        let replace_file = |bytes| fs::remove_file(path).and_then(|()| fs::write(path, bytes)).unwrap();
        replace_file(bytes);
        let error = resume_error();
        assert!(error.starts_with(&rejection), "{what}: {error}");
        replace_file(before);
    };
    assert_eq!(resume_error(), divergence_error, "unchanged, it resumes");
    swapped(&csv, table(8, "hat").into_bytes(), "other groups");
    swapped(&csv, table(9, "shoes").into_bytes(), "another label");
    let image = folder.path().join("photos").join(&images[0][0]);
    let other = fs::read(folder.path().join("photos").join(&images[0][1])).unwrap();
    swapped(&image, other, "another photo of this name");
    let weights = folder.path().join("backbone/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    swapped(&weights, bytes, "other weights");
    let config_path = run.join(CONFIG_FILE);
    let config_text = fs::read_to_string(&config_path).unwrap();
    swapped(
        &config_path,
        config_text.replace("momentum = 0.9", "momentum = 0.8").into_bytes(),
        "another momentum",
    );
    assert_eq!(resume_error(), divergence_error, "unchanged, it resumes");
}

#[test]
fn a_run_that_fails_before_its_first_checkpoint_is_removed() {
    let (folder, mut settings) = demo_project(&[]);
    settings.backbone.as_mut().unwrap().weights = folder.path().join("none").display().to_string();
    let run = folder.path().join("run");
    assert!(start_finetune(&settings, &RunDir::Named(run.clone()), &()).is_err());
    assert!(!run.exists());
    let error = resume(&run, &Registries::builtin(), &()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("run has no training to resume"), "{error}");
}
