use clap::error::ErrorKind;

use super::*;

fn parsed(line: &str) -> Arguments {
    Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Fails unless `line` is refused in this way, with a message that holds all of `parts`.
#[track_caller]
fn refused(line: &str, kind: ErrorKind, parts: &[&str]) {
    let error = Arguments::try_parse_from(line.split(' ')).err().unwrap_or_else(|| panic!("{line} is taken"));
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{line}: {text}");
    for part in parts {
        assert!(text.contains(part), "{line}: `{part}` is not in {text}");
    }
}

macro_rules! of {
    ($line:expr, $command:ident) => {
        match parsed($line).command {
            Command::$command(args) => args,
            other => panic!("{}: {other:?}", $line),
        }
    };
}

#[test]
fn what_is_not_said_is_left_to_the_config_or_is_the_default_that_help_names() {
    let Arguments { global, .. } = parsed("headstock split --out x.csv");
    assert!(global.config.is_none() && global.overrides.is_empty());
    assert!(global.threads.is_none() && !global.json);

    let init = of!("headstock init photos", Init);
    assert_eq!(init.path, PathBuf::from("photos"));
    assert!(init.images.is_none() && init.id.is_none() && init.label.is_none());

    let train = of!("headstock train", Train);
    assert!(train.run.is_none() && train.head.is_none() && train.warm.is_none());
    assert!(train.resume.is_none() && !train.find_lr);

    let compare = of!("headstock compare", Compare);
    assert_eq!((compare.folds, compare.seed, compare.by), (5, 0, By::Accuracy));
    assert!(compare.heads.is_none() && !compare.all && compare.out.is_none());
    assert!(compare.budget.is_none() && !compare.take_best && compare.run.is_none());

    let predict = of!("headstock predict run a.jpg", Predict);
    assert_eq!(predict.run, PathBuf::from("run"));
    assert_eq!(predict.photos, [PathBuf::from("a.jpg")]);
    assert_eq!((predict.format, predict.coverage, predict.sets), (Format::Table, None, SetKind::Lac));

    assert_eq!(of!("headstock evaluate run", Evaluate).run, PathBuf::from("run"));

    let extract = of!("headstock extract --out x.npz", Extract);
    assert!(extract.layer.is_none() && extract.run.is_none());

    let doctor = of!("headstock doctor", Doctor);
    assert!(doctor.html.is_none() && doctor.write_clean.is_none() && doctor.show_augment.is_none());
    assert!(!doctor.strict && !doctor.quick);

    assert_eq!(of!("headstock heads", Heads).name, None);

    let bench = of!("headstock bench", Bench);
    assert!(bench.weights.is_none() && bench.precision.is_none() && !bench.data && bench.tune.is_none());
    assert_eq!((bench.batch, bench.seconds), (16, 4.0));
}

#[test]
fn flags_fill_the_field_of_their_own_name() {
    let Arguments { global, .. } =
        parsed("headstock train --config c.toml --set b=2 --set a=1 --threads 3 --json");
    assert_eq!(global.config, Some("c.toml".into()));
    assert_eq!(global.overrides, ["b=2", "a=1"], "in the order in which they were said");
    assert_eq!((global.threads, global.json), (Some(3), true));
    // Those of every command may stand before it too.
    let Arguments { global, .. } = parsed("headstock --json --set a=1 train");
    assert!(global.json && global.overrides == ["a=1"]);

    let init = of!("headstock init p --images i --id j --label l", Init);
    assert_eq!((init.images, init.id, init.label), (Some("i".into()), Some("j".into()), Some("l".into())));
    let train = of!("headstock train --run r --head h --warm w", Train);
    assert_eq!((train.run, train.head, train.warm), (Some("r".into()), Some("h".into()), Some("w".into())));
    assert_eq!(of!("headstock train --resume r", Train).resume, Some("r".into()));
    assert!(of!("headstock train --find-lr --head linear", Train).find_lr);
    let compare = of!("headstock compare --heads b,a --folds 3 --seed 7 --all --out o.csv", Compare);
    assert_eq!(compare.heads, Some(vec!["b".into(), "a".into()]));
    assert_eq!((compare.folds, compare.seed, compare.all), (3, 7, true));
    assert_eq!(compare.out, Some("o.csv".into()));
    let compare = of!("headstock compare --budget 1.5 --take-best --run r", Compare);
    assert_eq!(compare.budget, Some(Duration::from_millis(1500)));
    assert!(compare.take_best && compare.run == Some("r".into()));
    let predict = of!("headstock predict r b.jpg a --coverage 0.8", Predict);
    assert_eq!((predict.coverage, predict.photos), (Some(0.8), vec!["b.jpg".into(), "a".into()]));
    let extract = of!("headstock extract --out o.npy --run r", Extract);
    assert_eq!((extract.out, extract.run), ("o.npy".into(), Some("r".into())));
    let doctor = of!("headstock doctor --html h --write-clean w", Doctor);
    assert_eq!((doctor.html, doctor.write_clean), (Some("h".into()), Some("w".into())));
    assert!(!doctor.strict && !doctor.quick);
    let (strict, quick) = (of!("headstock doctor --strict", Doctor), of!("headstock doctor --quick", Doctor));
    assert!(strict.strict && !strict.quick && quick.quick && !quick.strict);
    assert_eq!(of!("headstock doctor --show-augment s", Doctor).show_augment, Some("s".into()));
    assert_eq!(of!("headstock heads svm", Heads).name.as_deref(), Some("svm"));
    let bench = of!("headstock bench --weights w --data --batch 5 --seconds 0.25", Bench);
    assert_eq!((bench.weights.as_deref(), bench.data), (Some("w"), true));
    assert_eq!((bench.batch, bench.seconds), (5, 0.25));
}

#[test]
fn every_value_that_has_a_name_is_the_one_that_it_names() {
    for (name, by) in [("accuracy", By::Accuracy), ("macro-f1", By::MacroF1), ("log-loss", By::LogLoss)] {
        assert_eq!(of!(&format!("headstock compare --by {name}"), Compare).by, by);
    }
    for (name, kind, method) in
        [("lac", SetKind::Lac, ConformalMethod::Lac), ("aps", SetKind::Aps, ConformalMethod::Aps)]
    {
        let args = of!(&format!("headstock predict r p --coverage 0.9 --sets {name}"), Predict);
        assert_eq!((args.sets, ConformalMethod::from(args.sets)), (kind, method));
    }
    for (name, format) in [("table", Format::Table), ("csv", Format::Csv), ("jsonl", Format::Jsonl)] {
        assert_eq!(of!(&format!("headstock predict r p --format {name}"), Predict).format, format);
    }
    let layers = [
        ("stem", FeatureLayer::Stem),
        ("layer1", FeatureLayer::Layer1),
        ("layer2", FeatureLayer::Layer2),
        ("layer3", FeatureLayer::Layer3),
        ("layer4", FeatureLayer::Layer4),
        ("avgpool", FeatureLayer::Avgpool),
    ];
    for (name, layer) in layers {
        assert_eq!(of!(&format!("headstock extract --out x --layer {name}"), Extract).layer, Some(layer));
    }
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        assert_eq!(of!(&format!("headstock bench --precision {name}"), Bench).precision, Some(precision));
    }
    let stages = [
        ("head", TuneFrom::Head),
        ("layer4", TuneFrom::Layer4),
        ("layer3", TuneFrom::Layer3),
        ("layer2", TuneFrom::Layer2),
        ("layer1", TuneFrom::Layer1),
        ("stem", TuneFrom::Stem),
    ];
    for (name, from) in stages {
        assert_eq!(of!(&format!("headstock bench --tune {name}"), Bench).tune, Some(from));
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused_in_either_order() {
    let pairs = [
        ("train", "--resume r", "--run x"),
        ("train", "--resume r", "--head x"),
        ("train", "--resume r", "--warm x"),
        ("train", "--resume r", "--find-lr"),
        ("train", "--resume r", "--set a=1"),
        ("train", "--resume r", "--config x"),
        ("train", "--find-lr", "--run x"),
        ("train", "--find-lr", "--warm x"),
        ("doctor", "--show-augment s", "--html x"),
        ("doctor", "--show-augment s", "--write-clean x"),
        ("doctor", "--show-augment s", "--strict"),
        ("doctor", "--show-augment s", "--quick"),
        ("bench", "--tune layer4", "--data"),
        ("bench", "--tune layer4", "--precision f32"),
    ];
    for (command, one, other) in pairs {
        let names = [one, other].map(|flag| flag.split(' ').next().unwrap_or_default());
        for line in [[one, other], [other, one]].map(|flags| flags.join(" ")) {
            let line = format!("headstock {command} {line}");
            refused(&line, ErrorKind::ArgumentConflict, &[names[0], names[1], "cannot be used with"]);
        }
    }
    // What goes together: threads and JSON with a run that goes on, and each of the others alone.
    of!("headstock train --resume r --threads 1 --json", Train);
    of!("headstock train --find-lr --head linear --set a=1 --config c", Train);
    of!("headstock doctor --html h --write-clean w --strict --quick", Doctor);
    of!("headstock bench --data --precision f32 --weights w", Bench);
    of!("headstock bench --tune layer4 --weights w --batch 2", Bench);
}

#[test]
fn a_flag_that_needs_another_says_which() {
    let missing = ErrorKind::MissingRequiredArgument;
    refused("headstock compare --run r", missing, &["--take-best"]);
    refused("headstock predict r p --sets aps", missing, &["--coverage <SHARE>"]);
    refused("headstock predict r p --sets lac", missing, &["--coverage <SHARE>"]);
    refused("headstock init", missing, &["<PATH>"]);
    refused("headstock predict", missing, &["<RUN>", "<PHOTO>..."]);
    refused("headstock predict r", missing, &["<PHOTO>..."]);
    refused("headstock evaluate", missing, &["<RUN>"]);
    refused("headstock extract", missing, &["--out <FILE>"]);
    refused("headstock split", missing, &["--out <FILE>"]);
    refused("headstock", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, &["Usage: headstock"]);
    refused("headstock tarin", ErrorKind::InvalidSubcommand, &["tarin", "'train'"]);
    refused("headstock train --hed svm", ErrorKind::UnknownArgument, &["--hed", "--head"]);
    refused("headstock evaluate one two", ErrorKind::UnknownArgument, &["two"]);
}

#[test]
fn numbers_are_taken_up_to_the_ends_of_their_ranges_and_not_beyond() {
    let range = ErrorKind::ValueValidation;
    assert_eq!(of!("headstock compare --folds 2", Compare).folds, 2);
    assert_eq!(of!("headstock compare --folds 4294967295", Compare).folds, u32::MAX);
    refused("headstock compare --folds 1", range, &["'1'", "--folds", "1 is not in 2.."]);
    refused("headstock compare --folds two", range, &["'two'", "--folds"]);
    assert_eq!(of!("headstock compare --seed 4294967295", Compare).seed, u32::MAX);
    refused("headstock compare --seed 4294967296", range, &["--seed"]);
    refused("headstock compare --seed=-1", range, &["--seed"]);
    assert_eq!(parsed("headstock bench --threads 1").global.threads, Some(1));
    assert_eq!(parsed("headstock bench --threads 1024").global.threads, Some(1024));
    refused("headstock bench --threads 0", range, &["'0'", "--threads", "1..=1024"]);
    refused("headstock bench --threads 1025", range, &["'1025'", "--threads", "1..=1024"]);
    assert_eq!(of!("headstock bench --batch 1", Bench).batch, 1);
    assert_eq!(of!("headstock bench --batch 4096", Bench).batch, 4096);
    refused("headstock bench --batch 0", range, &["'0'", "--batch", "1..=4096"]);
    refused("headstock bench --batch 4097", range, &["'4097'", "--batch", "1..=4096"]);
    assert_eq!(of!("headstock compare --budget 0", Compare).budget, Some(Duration::ZERO));
    refused(
        "headstock compare --budget=-1",
        range,
        &["--budget", "a number of seconds is wanted, 0 or more"],
    );
    refused("headstock compare --budget NaN", range, &["a number of seconds is wanted, 0 or more"]);
    refused("headstock compare --budget soon", range, &["'soon'", "it is no number"]);
    refused("headstock predict r p --coverage most", range, &["'most'", "--coverage"]);
}

#[test]
fn values_without_a_name_are_refused_with_those_that_have_one() {
    let invalid = ErrorKind::InvalidValue;
    refused("headstock compare --by f1", invalid, &["'f1'", "accuracy, macro-f1, log-loss"]);
    refused("headstock predict r p --format json", invalid, &["'json'", "table, csv, jsonl"]);
    refused("headstock predict r p --coverage 0.9 --sets all", invalid, &["'all'", "lac, aps"]);
    let parser = ErrorKind::ValueValidation;
    let layers = "stem, layer1, layer2, layer3, layer4, avgpool";
    refused("headstock extract --out x --layer fc", parser, &["there is no layer `fc`", layers]);
    refused("headstock bench --precision f16", parser, &["f16", "f32", "bf16"]);
    refused("headstock bench --tune layer5", parser, &["layer5", "head", "layer4", "stem"]);
}

/// What clap finds to be wrong in how the arguments are declared only shows when a command is used.
#[test]
fn the_arguments_are_declared_without_fault() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}
