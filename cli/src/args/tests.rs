use clap::error::ErrorKind;
use headstock_train::metrics::{Accuracy, LogLoss, MacroF1};

use super::*;

fn parse(line: &str) -> Arguments {
    Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Fails unless `line` is refused with this kind of error and a message that contains all of `parts`.
#[track_caller]
fn assert_refused(line: &str, kind: ErrorKind, parts: &[&str]) {
    let error =
        Arguments::try_parse_from(line.split(' ')).err().unwrap_or_else(|| panic!("{line} is accepted"));
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{line}: {text}");
    for part in parts {
        assert!(text.contains(part), "{line}: `{part}` is not in {text}");
    }
}

/// The arguments of a command, parsed from a line.
macro_rules! args {
    ($line:expr, $command:ident) => {
        match parse($line).command {
            Command::$command(args) => args,
            other => panic!("{}: {other:?}", $line),
        }
    };
}

#[test]
fn a_tilde_in_quotes_is_the_home_folder() {
    let home = std::env::home_dir().unwrap();
    let init = args!("headstock init ~/photos --images ~/x", Init);
    assert_eq!((init.path, init.images), (home.join("photos"), Some(home.join("x"))));
    let predict = args!("headstock predict ~/runs/1 ~ a/~ --config ~/c.toml", Predict);
    assert_eq!((predict.run, predict.images), (home.join("runs/1"), vec![home.clone(), "a/~".into()]));
    let global = parse("headstock train --config ~/c.toml --run=~/runs/1").global;
    assert_eq!(global.config, Some(home.join("c.toml")));
    let parts =
        ["the path is ~bob/photos: the home folder of another user is not looked up", "write the whole path"];
    assert_refused("headstock init ~bob/photos", ErrorKind::ValueValidation, &parts);
}

#[test]
fn omitted_arguments_are_none_or_the_documented_default() {
    let Arguments { global, .. } = parse("headstock split --out x.csv");
    assert!(global.config.is_none() && global.overrides.is_empty());
    assert!(global.threads.is_none() && !global.json);

    let init = args!("headstock init photos", Init);
    assert_eq!(init.path, PathBuf::from("photos"));
    assert!(init.images.is_none() && init.id.is_none() && init.label.is_none());

    let train = args!("headstock train", Train);
    assert!(train.run.is_none() && train.head.is_none() && train.warm.is_none());
    assert!(train.resume.is_none() && !train.find_lr);

    let compare = args!("headstock compare", Compare);
    assert_eq!((compare.folds, compare.seed, compare.metric), (5, 0, &Accuracy as &dyn Metric));
    assert!(compare.heads.is_none() && !compare.all && compare.out.is_none());
    assert!(compare.budget.is_none() && !compare.take_best && compare.run.is_none());

    let predict = args!("headstock predict run a.jpg", Predict);
    assert_eq!(predict.run, PathBuf::from("run"));
    assert_eq!(predict.images, [PathBuf::from("a.jpg")]);
    assert_eq!(
        (predict.format, predict.coverage, predict.sets),
        (PredictionFormat::Table, None, SetMethodArg::Lac)
    );

    assert_eq!(args!("headstock evaluate run", Evaluate).run, PathBuf::from("run"));

    let extract = args!("headstock extract --out x.npz", Extract);
    assert!(extract.layer.is_none() && extract.run.is_none());

    let doctor = args!("headstock doctor", Doctor);
    assert!(doctor.html.is_none() && doctor.write_clean.is_none() && doctor.show_augment.is_none());
    assert!(doctor.review.is_none());
    assert!(!doctor.strict && !doctor.quick);

    assert_eq!(args!("headstock heads", Heads).name, None);

    let bench = args!("headstock bench", Bench);
    assert!(bench.weights.is_none() && bench.precision.is_none() && !bench.data && bench.tune.is_none());
    assert_eq!((bench.batch, bench.seconds), (16, 4.0));
}

#[test]
fn each_flag_sets_its_own_field() {
    let Arguments { global, .. } =
        parse("headstock train --config c.toml --set b=2 --set a=1 --threads 3 --json");
    assert_eq!(global.config, Some("c.toml".into()));
    assert_eq!(global.overrides, ["b=2", "a=1"], "in the order of the command line");
    assert_eq!((global.threads, global.json), (Some(3), true));
    // Arguments of every command may come before the command, too.
    let Arguments { global, .. } = parse("headstock --json --set a=1 train");
    assert!(global.json && global.overrides == ["a=1"]);

    let init = args!("headstock init p --images i --id j --label l", Init);
    assert_eq!((init.images, init.id, init.label), (Some("i".into()), Some("j".into()), Some("l".into())));
    let train = args!("headstock train --run r --head h --warm w", Train);
    assert_eq!((train.run, train.head, train.warm), (Some("r".into()), Some("h".into()), Some("w".into())));
    assert_eq!(args!("headstock train --resume r", Train).resume, Some("r".into()));
    assert!(args!("headstock train --find-lr --head linear", Train).find_lr);
    let compare = args!("headstock compare --heads b,a --folds 3 --seed 7 --all --out o.csv", Compare);
    assert_eq!(compare.heads, Some(vec!["b".into(), "a".into()]));
    assert_eq!((compare.folds, compare.seed, compare.all), (3, 7, true));
    assert_eq!(compare.out, Some("o.csv".into()));
    let compare = args!("headstock compare --budget 1.5 --take-best --run r", Compare);
    assert_eq!(compare.budget, Some(Duration::from_millis(1500)));
    assert!(compare.take_best && compare.run == Some("r".into()));
    let predict = args!("headstock predict r b.jpg a --coverage 0.8", Predict);
    assert_eq!((predict.coverage, predict.images), (Some(0.8), vec!["b.jpg".into(), "a".into()]));
    let extract = args!("headstock extract --out o.npy --run r", Extract);
    assert_eq!((extract.out, extract.run), ("o.npy".into(), Some("r".into())));
    let doctor = args!("headstock doctor --html h --write-clean w", Doctor);
    assert_eq!((doctor.html, doctor.write_clean), (Some("h".into()), Some("w".into())));
    assert!(!doctor.strict && !doctor.quick);
    let (strict, quick) =
        (args!("headstock doctor --strict", Doctor), args!("headstock doctor --quick", Doctor));
    assert!(strict.strict && !strict.quick && quick.quick && !quick.strict);
    assert_eq!(args!("headstock doctor --show-augment s", Doctor).show_augment, Some("s".into()));
    assert_eq!(args!("headstock heads svm", Heads).name.as_deref(), Some("svm"));
    let bench = args!("headstock bench --weights w --data --batch 5 --seconds 0.25", Bench);
    assert_eq!((bench.weights.as_deref(), bench.data), (Some("w"), true));
    assert_eq!((bench.batch, bench.seconds), (5, 0.25));
}

#[test]
fn named_values_parse_to_their_variant() {
    for (name, metric) in
        [("accuracy", &Accuracy as &dyn Metric), ("macro-f1", &MacroF1), ("log-loss", &LogLoss)]
    {
        assert_eq!(args!(&format!("headstock compare --metric {name}"), Compare).metric, metric);
    }
    for (name, kind, method) in
        [("lac", SetMethodArg::Lac, ConformalMethod::Lac), ("aps", SetMethodArg::Aps, ConformalMethod::Aps)]
    {
        let args = args!(&format!("headstock predict r p --coverage 0.9 --sets {name}"), Predict);
        assert_eq!((args.sets, ConformalMethod::from(args.sets)), (kind, method));
    }
    for (name, format) in [
        ("table", PredictionFormat::Table),
        ("csv", PredictionFormat::Csv),
        ("jsonl", PredictionFormat::Jsonl),
    ] {
        assert_eq!(args!(&format!("headstock predict r p --format {name}"), Predict).format, format);
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
        assert_eq!(args!(&format!("headstock extract --out x --layer {name}"), Extract).layer, Some(layer));
    }
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        assert_eq!(args!(&format!("headstock bench --precision {name}"), Bench).precision, Some(precision));
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
        assert_eq!(args!(&format!("headstock bench --tune {name}"), Bench).tune, Some(from));
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
    for (command, first, second) in pairs {
        let names = [first, second].map(|flag| flag.split(' ').next().unwrap_or_default());
        for line in [[first, second], [second, first]].map(|flags| flags.join(" ")) {
            let line = format!("headstock {command} {line}");
            assert_refused(&line, ErrorKind::ArgumentConflict, &[names[0], names[1], "cannot be used with"]);
        }
    }
    // Allowed combinations.
    args!("headstock train --resume r --threads 1 --json", Train);
    args!("headstock train --find-lr --head linear --set a=1 --config c", Train);
    args!("headstock doctor --html h --write-clean w --strict --quick", Doctor);
    assert_eq!(args!("headstock doctor --write-clean w --review r", Doctor).review, Some("r".into()));
    args!("headstock bench --data --precision f32 --weights w", Bench);
    args!("headstock bench --tune layer4 --weights w --batch 2", Bench);
}

#[test]
fn a_flag_that_needs_another_says_which() {
    let missing = ErrorKind::MissingRequiredArgument;
    assert_refused("headstock compare --run r", missing, &["--take-best"]);
    assert_refused("headstock predict r p --sets aps", missing, &["--coverage <SHARE>"]);
    assert_refused("headstock predict r p --sets lac", missing, &["--coverage <SHARE>"]);
    assert_refused("headstock init", missing, &["<PATH>"]);
    assert_refused("headstock predict", missing, &["<RUN>", "<PHOTO>..."]);
    assert_refused("headstock predict r", missing, &["<PHOTO>..."]);
    assert_refused("headstock evaluate", missing, &["<RUN>"]);
    assert_refused("headstock extract", missing, &["--out <FILE>"]);
    assert_refused("headstock split", missing, &["--out <FILE>"]);
    assert_refused("headstock", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, &["Usage: headstock"]);
    assert_refused("headstock tarin", ErrorKind::InvalidSubcommand, &["tarin", "'train'"]);
    assert_refused("headstock train --hed svm", ErrorKind::UnknownArgument, &["--hed", "--head"]);
    assert_refused("headstock evaluate one two", ErrorKind::UnknownArgument, &["two"]);
}

#[test]
fn numbers_are_accepted_within_their_ranges_only() {
    let range = ErrorKind::ValueValidation;
    assert_eq!(args!("headstock compare --folds 2", Compare).folds, 2);
    assert_eq!(args!("headstock compare --folds 4294967295", Compare).folds, u32::MAX);
    assert_refused("headstock compare --folds 1", range, &["'1'", "--folds", "1 is not in 2.."]);
    assert_refused("headstock compare --folds two", range, &["'two'", "--folds"]);
    assert_eq!(args!("headstock compare --seed 4294967295", Compare).seed, u32::MAX);
    assert_refused("headstock compare --seed 4294967296", range, &["--seed"]);
    assert_refused("headstock compare --seed=-1", range, &["--seed"]);
    assert_eq!(parse("headstock bench --threads 1").global.threads, Some(1));
    assert_eq!(parse("headstock bench --threads 1024").global.threads, Some(1024));
    assert_refused("headstock bench --threads 0", range, &["'0'", "--threads", "1..=1024"]);
    assert_refused("headstock bench --threads 1025", range, &["'1025'", "--threads", "1..=1024"]);
    assert_eq!(args!("headstock bench --batch 1", Bench).batch, 1);
    assert_eq!(args!("headstock bench --batch 4096", Bench).batch, 4096);
    assert_refused("headstock bench --batch 0", range, &["'0'", "--batch", "1..=4096"]);
    assert_refused("headstock bench --batch 4097", range, &["'4097'", "--batch", "1..=4096"]);
    assert_eq!(args!("headstock compare --budget 0", Compare).budget, Some(Duration::ZERO));
    assert_refused(
        "headstock compare --budget=-1",
        range,
        &["--budget", "give a number of seconds that is at least 0"],
    );
    assert_refused("headstock compare --budget NaN", range, &["give a number of seconds that is at least 0"]);
    assert_refused("headstock compare --budget soon", range, &["'soon'", "give a number of seconds"]);
    assert_refused("headstock predict r p --coverage most", range, &["'most'", "--coverage"]);
}

#[test]
fn unknown_values_are_refused_with_the_known_ones() {
    let invalid = ErrorKind::InvalidValue;
    assert_refused("headstock compare --metric f1", invalid, &["'f1'", "accuracy, macro-f1, log-loss"]);
    assert_refused("headstock predict r p --format json", invalid, &["'json'", "table, csv, jsonl"]);
    assert_refused("headstock predict r p --coverage 0.9 --sets all", invalid, &["'all'", "lac, aps"]);
    let parser = ErrorKind::ValueValidation;
    let layers = "stem, layer1, layer2, layer3, layer4, avgpool";
    assert_refused("headstock extract --out x --layer fc", parser, &["there is no layer `fc`", layers]);
    assert_refused("headstock bench --precision f16", parser, &["f16", "f32", "bf16"]);
    assert_refused("headstock bench --tune layer5", parser, &["layer5", "head", "layer4", "stem"]);
}

/// clap checks the declarations of a command only when it is used.
#[test]
fn clap_accepts_the_declarations() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}
