//! The command line arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use headstock_backbone::{FeatureLayer, Precision};
use headstock_heads::ConformalMethod;
use headstock_loader::source::expand_home;
use headstock_train::config::TuneFrom;
use headstock_train::metrics::{METRICS, Metric};

/// Train an image classifier on your own photos: a pretrained network (a ResNet, the backbone) describes each
/// photo by numbers (features), and a small classifier that you choose (the head) learns your classes from
/// them.
///
/// Features are computed once per photo and cached, so that a different head, a different split or ten more
/// photos take seconds. The backbone stays as it is (frozen), or its last stages are trained too
/// (fine-tuned).
#[derive(Debug, Parser)]
#[command(name = "headstock", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// Reads a path, in which `~` is the home folder also where a shell does not replace it, as in quotes.
fn path_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new()
        .try_map(|path| expand_home(&path).map_err(|problem| format!("the path {problem}")))
}

const EXAMPLES: &str = "\
From photos to predictions:
  headstock init photos                     write the config file headstock.toml for these photos
  headstock doctor                          find damaged photos, duplicates and wrong labels
  headstock train                           train and test a head; writes runs/linear-1
  headstock train --head svm                fit a different head on the cached features
  headstock compare                         find the best head by cross-validation
  headstock predict runs/linear-1 new.jpg   predict the class of a new photo

Exit status: 0 done, 1 failed, 2 wrong arguments or config, 3 bad data, 4 a download failed";

/// Limit of `--threads`: more than any machine has cores; many more would take minutes to start.
const MAX_THREADS: i64 = 1024;

/// Limit of `bench --batch`; many more photos would not fit into memory.
const MAX_BATCH: i64 = 4096;

/// Arguments of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// Config file [default: headstock.toml; for predict, evaluate and extract --run, the config saved in the
    /// run]. `init` creates this file; `heads` needs none
    #[arg(long, global = true, value_name = "FILE", value_parser = path_parser())]
    pub(crate) config: Option<PathBuf>,
    /// Override a setting of the config, for example --set head.C=0.01; may be given several times. A path is
    /// relative to the folder of the config file or, with the config saved in a run, to the current folder.
    /// `init` and `heads` ignore it
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Number of CPU threads [default: one per core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u16>,
    /// Print the results also as JSON, on the last line of stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Where the weights of a run are.
#[derive(Debug, Args)]
pub(crate) struct WeightsArg {
    /// The weights of the run's backbone: a folder, a .safetensors file, or hf://owner/name [default: those that
    /// the run names or, if they are not there, a file with the same hash in the run, beside it, beside the config
    /// or in the cache of the Hugging Face hub]
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a config file for a data set, with comments that explain the settings
    Init(InitArgs),
    /// Train and test a head, and save the result in a new folder (a run)
    Train(TrainArgs),
    /// Find the best head: fit each on parts of the training photos and test it on the rest
    /// (cross-validation)
    Compare(CompareArgs),
    /// Predict the classes of photos with a trained run
    Predict(PredictArgs),
    /// Measure the accuracy of a run again, on its own test photos or on different ones
    Evaluate(EvaluateArgs),
    /// Write a run with the weights of its backbone to one folder, to use it on another machine
    Pack(PackArgs),
    /// Write the features of all photos to a file for other tools
    Extract(ExtractArgs),
    /// Write a table of which photos are for training and which for testing
    Split(SplitArgs),
    /// Find problems in the photos and their labels
    Doctor(DoctorArgs),
    /// List the heads, or show the settings (hyperparameters) of one head with their defaults
    Heads(HeadsArgs),
    /// Measure the speed in photos per second: of the network alone, of the whole way from photo files to
    /// features, or of fine-tuning
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock init photos                        one folder per class; also inside train/ and test/
  headstock init labels.csv --images train     a table with a photo and its class in each row
  headstock init photos.zip                    an archive, read without unpacking it
  headstock init data                          Parquet files or tar archives (WebDataset), or photos with metadata.csv,
                                               .jsonl or .parquet
  headstock init train2019.json                JSON in COCO's format with one class per photo
  headstock init hf://datasets/ethz/food101    an image data set on the Hugging Face hub

The config is written to headstock.toml or to the file named by --config, which must not exist yet.")]
pub(crate) struct InitArgs {
    /// The data: a folder or zip archive with one folder per class, a table (CSV or TSV), a Parquet file or tar
    /// archive or a folder of these, a folder with metadata, JSON in COCO's format, or a data set on the Hugging
    /// Face hub: hf://datasets/owner/name
    #[arg(value_parser = path_parser())]
    pub(crate) path: PathBuf,
    /// The folder of the photos; the file names in the table are relative to it [default: the folder of the
    /// table, or a folder in it such as train, images or photos, whichever has the first photo]
    #[arg(long, value_name = "FOLDER", value_parser = path_parser())]
    pub(crate) images: Option<PathBuf>,
    /// The column of the table that holds the file names of the photos [default: guessed from the column
    /// names]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id: Option<String>,
    /// The column of the table that holds the class of each photo; in tar archives, the field of the .json
    /// files [default: guessed from the column names]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock train
  headstock train --head svm --set head.C=0.1
  headstock train --config pets/headstock.toml --run runs/pets --set features.views=3
  headstock train --warm runs/linear-1       start from an earlier run, with new photos or classes
  headstock train --set tune.from=layer4     fine-tune the last stage of the backbone as well
  headstock train --resume runs/linear-2     continue a fine-tuning that was interrupted

Interrupted work is not lost: features are cached, and fine-tuning writes checkpoints.")]
pub(crate) struct TrainArgs {
    /// The folder to create for the new run; it must not exist yet [default: runs/HEAD-NUMBER]
    #[arg(long, value_name = "DIR", value_parser = path_parser())]
    pub(crate) run: Option<PathBuf>,
    /// The kind of head, as listed by `headstock heads`; short for --set head.kind=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) head: Option<String>,
    /// Train on all photos, without a test set: the figures of the run are those of a cross-validation in this many
    /// folds. Short for --set split.test_size=0 --set split.folds=K
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) folds: Option<u32>,
    /// Start from the head of an earlier run. That head must be of the same kind as the new one; its classes
    /// keep their order, and new classes are appended
    #[arg(long, value_name = "RUN", value_parser = path_parser())]
    pub(crate) warm: Option<PathBuf>,
    /// Continue a run whose fine-tuning was interrupted, with its settings; the result is the same as without
    /// interruption
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "head", "folds", "warm", "find_lr", "overrides", "config"], value_parser = path_parser())]
    pub(crate) resume: Option<PathBuf>,
    /// Instead of training, raise the learning rate over a few batches and plot the loss, to choose tune.lr
    /// (learning rate range test)
    #[arg(long, conflicts_with_all = ["run", "folds", "warm"])]
    pub(crate) find_lr: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock compare
  headstock compare --heads linear,svm --all --metric log-loss
  headstock compare --budget 60 --out comparison.csv
  headstock compare --take-best --run runs/best
  headstock compare runs/linear-1 runs/linear-2     on the photos that neither was trained on

A candidate is a head with its hyperparameters. Each head is tried with a small grid of them; for
the head in the config, the grid is around its values there. Only the training set is used: it is
divided into folds, and each fold is predicted by a head that was fitted on the other folds. Folds
are those of scikit-learn's StratifiedKFold, or of StratifiedGroupKFold if the data has groups.
Log-loss and calibration error are computed after temperature scaling, fitted on the other folds.
`~` marks candidates that are not significantly worse than the best: the confidence interval of the
difference, from a paired bootstrap, includes 0.

--set head.KEY=VALUE sets the key for each compared head that has it, and names those that do not.

A candidate that is being fitted when the budget ends is finished; others are listed as not tried.")]
pub(crate) struct CompareArgs {
    /// Runs to compare, two or more, in place of heads: on the photos that none of them was trained on. The
    /// photos are those of --config, or of the config saved in the last run
    #[arg(value_name = "RUN", num_args = 2.., conflicts_with_all = ["heads", "folds", "metric", "all", "out", "budget", "take_best", "run"], value_parser = path_parser())]
    pub(crate) runs: Vec<PathBuf>,
    /// The heads to compare, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) heads: Option<Vec<String>>,
    /// Number of folds, the parts that the training set is divided into
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) folds: u32,
    /// Random seed, which decides which photos are in which fold (scikit-learn's random_state)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u32,
    /// The metric by which candidates (heads with their settings) are ranked
    #[arg(long, value_name = "METRIC", default_value = "accuracy", value_parser = ranking_metric())]
    pub(crate) metric: &'static dyn Metric,
    /// Show every candidate (a head with its settings), not only the best of each head
    #[arg(long)]
    pub(crate) all: bool,
    /// Write the results of all candidates (heads with their settings) to this file, in the format of its
    /// extension: .csv or .json
    #[arg(long, value_name = "FILE", value_parser = path_parser())]
    pub(crate) out: Option<PathBuf>,
    /// Time limit in seconds: afterwards no further candidate (a head with its settings) is started. Every
    /// head is tried once before any head is tried with further settings
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) budget: Option<Duration>,
    /// Train the best head with its best settings on the whole training set and write a run, as train does
    #[arg(long)]
    pub(crate) take_best: bool,
    /// The folder to create for the new run; it must not exist yet [default: runs/HEAD-NUMBER]
    #[arg(long, value_name = "DIR", requires = "take_best", value_parser = path_parser())]
    pub(crate) run: Option<PathBuf>,
}

/// Parses the metric of `compare --metric`: one that can rank candidates.
fn ranking_metric() -> impl TypedValueParser<Value = &'static dyn Metric> {
    let name = |metric: &dyn Metric| metric.key().replace('_', "-");
    let values = METRICS.into_iter().filter(|metric| metric.can_rank()).map(move |metric| {
        let better = if metric.higher_is_better() { "higher" } else { "lower" };
        PossibleValue::new(name(metric)).help(format!("{}; {better} is better", metric.about()))
    });
    PossibleValuesParser::new(values).map(move |value| {
        METRICS.into_iter().find(|metric| name(*metric) == value).expect("one of the possible values")
    })
}

/// Parses the number of seconds of `--budget`.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds, such as 60".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "give a number of seconds that is at least 0, such as 60".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock predict runs/linear-1 cat.jpg dog.png
  headstock predict runs/linear-1 new_photos --format csv > predictions.csv
  headstock predict runs/linear-1 cat.jpg --coverage 0.9     sets of likely classes (90 % coverage)
  headstock predict runs/linear-1 test --like sample_submission.csv > submission.csv
  headstock predict runs/linear-1 cat.jpg --weights /elsewhere/backbone

Photos that cannot be read are reported and the others predicted; the exit status is then 3.")]
pub(crate) struct PredictArgs {
    /// The folder of the run, as written by train
    #[arg(value_parser = path_parser())]
    pub(crate) run: PathBuf,
    /// Photos, or folders of photos
    #[arg(required = true, value_name = "PHOTO", value_parser = path_parser())]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) weights: WeightsArg,
    /// Output format
    #[arg(long, value_enum, default_value_t = PredictionFormat::Table)]
    pub(crate) format: PredictionFormat,
    /// Print a table (CSV) with the ids, the columns and the row order of this one, such as the sample
    /// submission of a Kaggle competition. Its first column names the photos, with or without folder and
    /// extension. Either each class has a column, which gets its probability, or one column gets the class.
    /// The row of a photo that cannot be read keeps the values that it has in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "coverage", "sets"], value_parser = path_parser())]
    pub(crate) like: Option<PathBuf>,
    /// The class whose probability the single column of the table of --like gets, for example the one that
    /// the competition calls 1
    #[arg(long, value_name = "CLASS", requires = "like")]
    pub(crate) positive: Option<String>,
    /// Print for each photo a set of classes (a conformal set) that contains the true class with this
    /// probability, such as 0.9. A set may be empty
    #[arg(long, value_name = "SHARE")]
    pub(crate) coverage: Option<f64>,
    /// How the classes of the sets of --coverage are chosen
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = SetMethodArg::Lac, requires = "coverage")]
    pub(crate) sets: SetMethodArg,
}

/// The argument `predict --sets`: the method that chooses the classes of a conformal set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SetMethodArg {
    /// All classes whose probability is above a threshold: the smallest sets
    Lac,
    /// The most probable classes until the sum of their probabilities reaches a threshold: larger sets for
    /// harder photos
    Aps,
}

impl From<SetMethodArg> for ConformalMethod {
    /// The method that `--sets` names. LAC is the least ambiguous set-valued classifier, APS are adaptive
    /// prediction sets.
    fn from(method: SetMethodArg) -> Self {
        match method {
            SetMethodArg::Lac => Self::Lac,
            SetMethodArg::Aps => Self::Aps,
        }
    }
}

/// Output format of `predict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictionFormat {
    /// The three most probable classes of each photo
    Table,
    /// A table with the columns path,predicted,probability and a column per class; with --coverage also the
    /// column "set" with classes joined by |
    Csv,
    /// A JSON object per photo, one per line, with path, predicted, probability and probabilities; with
    /// --coverage also "set", a list of classes
    Jsonl,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock evaluate runs/linear-1
  headstock evaluate runs/linear-1 --set data.test_folder=/photos/taken_later")]
pub(crate) struct EvaluateArgs {
    /// The folder of the run, as written by train
    #[arg(value_parser = path_parser())]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) weights: WeightsArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock pack runs/linear-1 --out pets
  headstock predict pets cat.jpg                on any machine, wherever the folder is moved to

The new folder is a run, which needs nothing outside it to predict: beside the files of the run it has
the weights of the backbone and the files that say how photos are preprocessed. The paths of this
machine are taken out of the config, so that `evaluate` needs --set data.folder=FOLDER or the like.")]
pub(crate) struct PackArgs {
    /// The folder of the run, as written by train
    #[arg(value_parser = path_parser())]
    pub(crate) run: PathBuf,
    /// The folder to create; it must not exist yet
    #[arg(long, value_name = "FOLDER", value_parser = path_parser())]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) weights: WeightsArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock extract --out features.npz
  headstock extract --out layer3.parquet --layer layer3
  headstock extract --out tuned.npz --run runs/linear-2     with the backbone of a run

Rows are sorted by path. All formats have the paths, the class names and, if the data can be split,
which photos are for training and which for testing; next to .npy and .npz, a .csv has them, too.
The outputs of layers before avgpool are averaged over height and width.")]
pub(crate) struct ExtractArgs {
    /// The file to write, in the format of its extension: .npy, .npz (features and labels), .safetensors or
    /// .parquet
    #[arg(long, value_name = "FILE", value_parser = path_parser())]
    pub(crate) out: PathBuf,
    /// The layer of the backbone whose output is written: stem, layer1 to layer4 or avgpool [default:
    /// backbone.layer of the config]
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<FeatureLayer>,
    /// Use the backbone of this run, fine-tuned or not, and the config saved in the run unless --config is
    /// given
    #[arg(long, value_name = "RUN", value_parser = path_parser())]
    pub(crate) run: Option<PathBuf>,
    /// The weights of the backbone of --run, as for `predict`
    #[arg(long, value_name = "PATH", requires = "run")]
    pub(crate) weights: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// The table (CSV) to write, with the columns path,label,split
    #[arg(long, value_name = "FILE", value_parser = path_parser())]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock doctor
  headstock doctor --html doctor.html --write-clean clean.csv
  headstock doctor --quick --strict             check files and names; exit status 3 on problems
  headstock doctor --show-augment views.png     show the effect of [augment] on a few photos

Labels are checked by 5-fold cross-validation with the head of the config, or with `linear` if that
head is slow to fit. Features are cached and reused by train. Errors and warnings should be fixed;
notes are for information.

The clean table (--write-clean) leaves out unreadable photos, suspicious labels, outliers and
duplicates. Of duplicates with the same class the first photo stays in the table; of duplicates with
different classes none does.")]
pub(crate) struct DoctorArgs {
    /// Write a web page (HTML) with thumbnails of the photos that have problems
    #[arg(long, value_name = "FILE", value_parser = path_parser())]
    pub(crate) html: Option<PathBuf>,
    /// Write a table (CSV) of the photos without problems; beside it a config that trains on the table (.toml)
    /// and a table of what was left out or renamed, with reasons, which you can edit (.review.csv)
    #[arg(long, value_name = "FILE", value_parser = path_parser())]
    pub(crate) write_clean: Option<PathBuf>,
    /// With --write-clean: an edited table of what was left out; its column `action` (keep, drop, or relabel
    /// to the class in `suggestion`) decides
    #[arg(long, value_name = "FILE", requires = "write_clean", value_parser = path_parser())]
    pub(crate) review: Option<PathBuf>,
    /// Exit with status 3 if there is an error or a warning, for scripts
    #[arg(long)]
    pub(crate) strict: bool,
    /// Skip the checks that need features (suspicious labels, outliers, and duplicates found by features);
    /// the config then needs no section [backbone]
    #[arg(long)]
    pub(crate) quick: bool,
    /// Instead of checking, write an image (PNG) that shows what the section [augment] of the config does to
    /// a few photos: a row per photo, first without augmentation, then augmented
    #[arg(long, value_name = "FILE", conflicts_with_all = ["html", "write_clean", "strict", "quick"], value_parser = path_parser())]
    pub(crate) show_augment: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HeadsArgs {
    /// The head whose settings are shown [default: list all heads]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock bench --weights demo/backbone --batch 16 --threads 2 --seconds 4 --json
  headstock bench --set backbone.device=cuda --precision bf16
  headstock bench --data --seconds 20
  headstock bench --weights demo/backbone --tune layer4

The section [backbone] of the config sets the device, the precision and the layer.
With --weights no config is needed; one is read only if --config or --data is given.")]
pub(crate) struct BenchArgs {
    /// The model weights: a folder, a .safetensors file, or hf://owner/name [default: backbone.weights of the
    /// config]
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<String>,
    /// Precision of the network: f32 or bf16 [default: backbone.precision of the config, or f32]
    #[arg(long, value_name = "NAME")]
    pub(crate) precision: Option<Precision>,
    /// Measure the whole way from the photo files of the config to features in a temporary cache, and the
    /// network alone for comparison
    #[arg(long)]
    pub(crate) data: bool,
    /// Measure the speed of fine-tuning the backbone from this stage (group of layers) on: stem or layer1 to
    /// layer4. The time to compute the input of that stage does not count
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["data", "precision"])]
    pub(crate) tune: Option<TuneFrom>,
    /// Number of photos per batch, up to 4096
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH))]
    pub(crate) batch: u16,
    /// Approximate duration of the measurement in seconds
    #[arg(long, value_name = "S", default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[cfg(test)]
mod tests;
