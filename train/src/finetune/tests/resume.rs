//! What a course that goes on must have in common with the one that began.

use std::collections::BTreeSet;

use headstock_loader::Augment;
use serde_aux::serde_introspection::serde_introspect;
use toml::{Table, Value};

use super::*;
use crate::config::{DataOptions, FeatureOptions, Options, SplitOptions};

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

/// Every key by its path: those of the sections, and what a config with many of them has below.
fn keys(written: &Table) -> Vec<Vec<String>> {
    let sections: [(&str, &[&str]); 6] = [
        ("data", serde_introspect::<DataOptions>()),
        ("split", serde_introspect::<SplitOptions>()),
        ("backbone", serde_introspect::<BackboneOptions>()),
        ("features", serde_introspect::<FeatureOptions>()),
        ("augment", serde_introspect::<Augment>()),
        ("tune", serde_introspect::<TuneOptions>()),
    ];
    let known = sections.iter().flat_map(|(section, keys)| keys.iter().map(|key| vec![*section, *key]));
    let mut keys: BTreeSet<Vec<String>> =
        known.map(|path| path.into_iter().map(str::to_owned).collect()).collect();
    collect_paths(written, &[], &mut keys);
    keys.into_iter().collect()
}

/// Values that one or another key may have.
fn candidate_values() -> Vec<Value> {
    let text = "values = [true, false, 1, 2, 3, 0.25, 0.75, 1.5, [0.4, 0.6], [3, 5], {}, { kind = \"rand-augment\" }, \
                { degrees = 5.0 }, { kernel_size = 3 }, { factor = 2.0 }, { bits = 4 }, { threshold = 0.5 }, \"elsewhere\", \
                \"appearance\", \"skip\", \"scaled\", \"group\", \"layer3\", \"bf16\", \"cuda\", \"adamw\", \"step\", \
                \"balanced\", \"train\", \"fresh\", \"fitted\", \"isotonic\", \"bilinear\", \"all\"]";
    let table: Table = text.parse().unwrap();
    table["values"].as_array().unwrap().clone()
}

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
fn a_course_is_known_by_every_setting() {
    let (_folder, mut settings) =
        demo_project(&["tune.clip_norm=1", "tune.ema=0.5", "augment.horizontal_flip=0.5"]);
    let ready = PreparedFinetune::new(&settings, false, &()).unwrap();
    let stock = ready.prepared.pretrained.as_ref().unwrap();
    let mut seen = BTreeSet::from([fingerprint(&settings, &ready.prepared, stock)]);
    assert!(seen.contains(&fingerprint(&settings, &ready.prepared, stock)), "it is known by nothing else");
    let (begun, values) = (settings.options.clone(), candidate_values());
    let written: Table = begun.to_toml().parse().unwrap();
    let keys = keys(&written);
    assert!(keys.len() > 75, "{}", keys.len());
    for path in keys {
        let changed = values.iter().find_map(|value| {
            let mut table = written.clone();
            insert_at(&mut table, &path, value.clone());
            let options: Options = toml::from_str(&toml::to_string(&table).unwrap()).ok()?;
            (options != begun).then_some(options)
        });
        settings.options = changed.unwrap_or_else(|| panic!("{path:?} has no other value"));
        assert!(seen.insert(fingerprint(&settings, &ready.prepared, stock)), "{path:?} changes nothing");
    }
}

// effect: train --resume
#[test]
fn a_tuning_goes_on_with_the_photos_groups_labels_weights_and_settings_that_it_began_with_alone() {
    let (folder, config) = project_files(6);
    let photos = ["hat", "shoes"].map(|class| {
        let read = fs::read_dir(folder.path().join("photos").join(class)).unwrap();
        let mut names: Vec<String> =
            read.map(|entry| format!("{class}/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
        names.sort();
        names
    });
    let table = |groups: usize, first: &str| {
        let rows = photos.concat().into_iter().enumerate().map(|(number, photo)| {
            let label = if number == 0 { first } else { photo.split('/').next().unwrap() }.to_owned();
            format!("{photo},{label},g{}\n", number % groups)
        });
        "id,label,patient\n".to_owned() + &rows.collect::<String>()
    };
    let csv = folder.path().join("photos.csv");
    fs::write(&csv, table(9, "hat")).unwrap();
    let config = config
        .replace("folder = \"photos\"", "csv = \"photos.csv\"\nimages = \"photos\"\ngroup = \"patient\"");
    // It ends in its first step, and what it began with is kept.
    let settings =
        resolve(&folder, &config, &["tune.lr=1e38", "tune.validation=0.5", "data.class_order=sorted"]);
    let run = folder.path().join("run");
    let place = RunDir::Named(run.clone());
    let lost = start_finetune(&settings, &place, &()).unwrap_err().to_string();
    assert!(lost.contains("lower `tune.lr`"), "{lost}");
    assert!(run.join("checkpoints/last.safetensors").exists());

    let go_on = || resume(&run, &Registry::builtin(), &()).map(|_| ()).unwrap_err().to_string();
    let refused = format!(
        "{} cannot go on: its settings, photos or weights are not those that it began with",
        run.display()
    );
    let swapped = |path: &Path, bytes: Vec<u8>, what: &str| {
        let before = fs::read(path).unwrap();
        assert!(before != bytes, "{what}");
        // A new file each time: the weights are a link to the demo's.
        let put = |bytes| fs::remove_file(path).and_then(|()| fs::write(path, bytes)).unwrap();
        put(bytes);
        let error = go_on();
        assert!(error.starts_with(&refused), "{what}: {error}");
        put(before);
    };
    assert_eq!(go_on(), lost, "as it was it goes on");
    swapped(&csv, table(8, "hat").into_bytes(), "other groups");
    swapped(&csv, table(9, "shoes").into_bytes(), "another label");
    let photo = folder.path().join("photos").join(&photos[0][0]);
    let other = fs::read(folder.path().join("photos").join(&photos[0][1])).unwrap();
    swapped(&photo, other, "another photo of this name");
    let weights = folder.path().join("backbone/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    swapped(&weights, bytes, "other weights");
    let own = run.join(CONFIG);
    let text = fs::read_to_string(&own).unwrap();
    swapped(&own, text.replace("momentum = 0.9", "momentum = 0.8").into_bytes(), "another momentum");
    assert_eq!(go_on(), lost, "as it was it goes on");
}

#[test]
fn a_tuning_that_ends_before_its_first_checkpoint_leaves_nothing() {
    let (folder, mut settings) = demo_project(&[]);
    settings.options.backbone.as_mut().unwrap().weights = folder.path().join("none").display().to_string();
    let run = folder.path().join("run");
    assert!(start_finetune(&settings, &RunDir::Named(run.clone()), &()).is_err());
    assert!(!run.exists());
    let error = resume(&run, &Registry::builtin(), &()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("run is no training that could go on"), "{error}");
}
