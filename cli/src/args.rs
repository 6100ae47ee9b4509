//! The command line arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use headstock_backbone::{FeatureLayer, Precision};
use headstock_heads::ConformalMethod;
use headstock_train::config::TuneFrom;

/// Train an image classifier on your own photos: a pretrained ResNet stays frozen or is fine-tuned, and a
/// head that you choose learns your classes.
///
/// Features are computed once per photo and cached, so that another head, another split or ten more photos
/// take seconds.
#[derive(Debug, Parser)]
#[command(name = "headstock", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

const EXAMPLES: &str = "\
From photos to predictions:
  headstock init photos                     write headstock.toml for a folder per class
  headstock doctor                          find damaged photos, duplicates and wrong labels
  headstock train                           train and test a head; writes runs/linear-1
  headstock train --head svm                fit another head on the cached features
  headstock compare                         cross-validate all heads
  headstock predict runs/linear-1 new.jpg   predict the class of a new photo

Exit status: 0 done, 1 failed, 2 bad usage or config, 3 bad data, 4 the hub or the network";

/// More threads than any machine has cores; many more would take minutes to start.
const MAX_THREADS: i64 = 1024;

/// Photos in a batch of `bench`; many more would not fit into memory.
const MAX_BATCH: i64 = 4096;

/// Arguments of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// Config file [default: headstock.toml; for predict and evaluate, the config of the run]. init writes
    /// it; heads needs none
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the config, for example --set head.C=0.01. Paths are relative to the config file;
    /// with the config of a run, to the current folder. Has no effect on init and heads
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Number of threads [default: one per core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u16>,
    /// Print the results as JSON on the last line of stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented config for a data set
    Init(InitArgs),
    /// Compute features, fit and test the head, and write a run
    Train(TrainArgs),
    /// Compare heads by cross-validation on the same features
    Compare(CompareArgs),
    /// Predict the classes of photos with a run
    Predict(PredictArgs),
    /// Test a run on its own test photos or on others
    Evaluate(EvaluateArgs),
    /// Write the features of all photos to a file for other tools
    Extract(ExtractArgs),
    /// Write which photos are for training and which for testing
    Split(SplitArgs),
    /// Find problems in the photos and their labels
    Doctor(DoctorArgs),
    /// List the heads, or show the hyperparameters of one with their defaults
    Heads(HeadsArgs),
    /// Measure photos per second: of the network alone, from files, or of fine-tuning
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock init photos                        a folder per class, or train/ and test/ with such
  headstock init labels.csv --images train     a table with a photo and its class in each row
  headstock init data                          Parquet files or tar archives (WebDataset)
  headstock init hf://datasets/ethz/food101    an image data set on the Hugging Face hub

The config is written to headstock.toml or to the file given by --config, which must not exist.")]
pub(crate) struct InitArgs {
    /// A folder with a folder per class, a CSV or TSV, a shard or a folder of shards, or
    /// hf://datasets/owner/name
    pub(crate) path: PathBuf,
    /// The folder that the ids of the CSV are relative to [default: searched next to the CSV]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) images: Option<PathBuf>,
    /// The column of the CSV with the file name [default: guessed from the header]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id: Option<String>,
    /// The column with the class [default: guessed from the column names]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock train
  headstock train --head svm --set head.C=0.1
  headstock train --config pets/headstock.toml --run runs/pets --set features.views=3
  headstock train --warm runs/linear-1       start from an earlier run, with more photos or classes
  headstock train --set tune.from=layer4     fine-tune the last stage of the backbone, too
  headstock train --resume runs/linear-2     continue an interrupted fine-tuning

Interrupted work is not lost: features are cached, and fine-tuning writes checkpoints.")]
pub(crate) struct TrainArgs {
    /// The folder of the new run; must not exist [default: runs/HEAD-N]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// The kind of head; short for --set head.kind=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) head: Option<String>,
    /// Start from the head of an earlier run (of the same kind): its labels stay, new classes are appended
    #[arg(long, value_name = "RUN")]
    pub(crate) warm: Option<PathBuf>,
    /// Continue a run whose fine-tuning was interrupted, with its settings; the result is the same as without
    /// interruption
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "head", "warm", "find_lr", "overrides", "config"])]
    pub(crate) resume: Option<PathBuf>,
    /// Do not train: run a learning rate range test on a few batches, and plot the loss
    #[arg(long, conflicts_with_all = ["run", "warm"])]
    pub(crate) find_lr: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock compare
  headstock compare --heads linear,svm --all --metric log-loss
  headstock compare --budget 60 --out comparison.csv
  headstock compare --take-best --run runs/best

Each head is tried with a small grid of hyperparameters; for the head in the config, a grid around
its values. The training split is cross-validated; the test split is not used. Folds are those of
scikit-learn's StratifiedKFold, or of StratifiedGroupKFold if the data has groups. Log-loss and
calibration error are computed after temperature scaling, fitted on the other folds. `~` marks
candidates that are not significantly worse than the best: the confidence interval of the
difference, from a paired bootstrap, includes 0.

A candidate that is being fitted when the budget ends is finished; the rest are listed as not tried.")]
pub(crate) struct CompareArgs {
    /// The heads to compare, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) heads: Option<Vec<String>>,
    /// Number of folds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) folds: u32,
    /// Random seed of the folds: scikit-learn's random_state
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u32,
    /// The metric that candidates are ranked by
    #[arg(long, value_enum, value_name = "METRIC", default_value_t = MetricArg::Accuracy)]
    pub(crate) metric: MetricArg,
    /// Show every candidate, not only the best of each head
    #[arg(long)]
    pub(crate) all: bool,
    /// Write every candidate to a file; its extension is the format: .csv or .json
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Start no candidate after this many seconds; the first candidate of each grid comes first
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) budget: Option<Duration>,
    /// Train the best candidate on the whole training split and write a run, as train does
    #[arg(long)]
    pub(crate) take_best: bool,
    /// The folder of the new run; must not exist [default: runs/HEAD-N]
    #[arg(long, value_name = "DIR", requires = "take_best")]
    pub(crate) run: Option<PathBuf>,
}

/// The metric that candidates are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricArg {
    /// Fraction of photos whose most probable class is right; higher is better
    Accuracy,
    /// F1 score averaged over the classes; higher is better
    MacroF1,
    /// Mean of -ln p(class); lower is better
    LogLoss,
}

/// Parses a number of seconds.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "must be a number of seconds, at least 0".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock predict runs/linear-1 cat.jpg dog.png
  headstock predict runs/linear-1 new_photos --format csv > predictions.csv
  headstock predict runs/linear-1 cat.jpg --coverage 0.9     sets with 90 % coverage
  headstock predict runs/linear-1 cat.jpg --set backbone.weights=/elsewhere/backbone

Unreadable photos are reported, the others are predicted, and the exit status is 3.")]
pub(crate) struct PredictArgs {
    /// The folder of the run
    pub(crate) run: PathBuf,
    /// Photos, or folders of photos
    #[arg(required = true, value_name = "PHOTO")]
    pub(crate) images: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = PredictionFormat::Table)]
    pub(crate) format: PredictionFormat,
    /// Print conformal sets: sets of classes that contain the true class with this probability, such as 0.9.
    /// A set may be empty
    #[arg(long, value_name = "SHARE")]
    pub(crate) coverage: Option<f64>,
    /// Method of the conformal sets
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = SetMethodArg::Lac, requires = "coverage")]
    pub(crate) sets: SetMethodArg,
}

/// Method of the conformal sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SetMethodArg {
    /// All classes above a threshold of the probability: the smallest sets
    Lac,
    /// The most probable classes up to a threshold of their sum: larger sets for harder photos
    Aps,
}

impl From<SetMethodArg> for ConformalMethod {
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
    /// path,predicted,probability, then a column per class; with --coverage a last column "set" with classes
    /// joined by |
    Csv,
    /// A JSON object per line: path, predicted, probability, probabilities; with --coverage also "set", a
    /// list
    Jsonl,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock evaluate runs/linear-1
  headstock evaluate runs/linear-1 --set data.test_folder=/photos/taken_later")]
pub(crate) struct EvaluateArgs {
    /// The folder of the run
    pub(crate) run: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock extract --out features.npz
  headstock extract --out layer3.parquet --layer layer3
  headstock extract --out tuned.npz --run runs/linear-2     with the backbone of a run

Rows are sorted by path. For .npy and .npz, a .csv with row,path,class,label is written, too.
Layers before avgpool are averaged over height and width.")]
pub(crate) struct ExtractArgs {
    /// The file to write; its extension is the format: .npy, .npz (features, labels), .safetensors or
    /// .parquet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The layer of the backbone [default: backbone.layer of the config]
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<FeatureLayer>,
    /// Use the backbone of a run, fine-tuned or not, and the config of the run unless --config is given
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// The CSV to write, with the columns path,label,split
    #[arg(long, value_name = "FILE")]
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

The clean table leaves out unreadable photos, suspicious labels, outliers and duplicates: of
duplicates with one class it has the first, of duplicates with several classes none.")]
pub(crate) struct DoctorArgs {
    /// Write an HTML page with thumbnails
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write a table of the photos without problems, for data.csv
    #[arg(long, value_name = "FILE")]
    pub(crate) write_clean: Option<PathBuf>,
    /// Exit with status 3 if there is an error or a warning
    #[arg(long)]
    pub(crate) strict: bool,
    /// Skip the checks that need features (suspicious labels and outliers). Needs no [backbone]
    #[arg(long)]
    pub(crate) quick: bool,
    /// Check nothing; write a PNG with a row per photo: the unaugmented view, then augmented ones
    #[arg(long, value_name = "FILE", conflicts_with_all = ["html", "write_clean", "strict", "quick"])]
    pub(crate) show_augment: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HeadsArgs {
    /// The head to show
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock bench --weights demo/backbone --batch 16 --threads 2 --seconds 4 --json
  headstock bench --set backbone.device=cuda --precision bf16
  headstock bench --data --seconds 20
  headstock bench --weights demo/backbone --tune layer4

[backbone] of the config sets the device, the precision and the layer.
With --weights, no config is needed, and none is read without --config or --data.")]
pub(crate) struct BenchArgs {
    /// A directory, a .safetensors file, or hf://owner/name [default: backbone.weights of the config]
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<String>,
    /// Precision of the network: f32 or bf16 [default: backbone.precision of the config, or f32]
    #[arg(long, value_name = "NAME")]
    pub(crate) precision: Option<Precision>,
    /// Measure from the files of the config's photos to features in a temporary cache, and the network alone
    /// for comparison
    #[arg(long)]
    pub(crate) data: bool,
    /// Measure fine-tuning steps of the backbone from this stage on, with activations in memory
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["data", "precision"])]
    pub(crate) tune: Option<TuneFrom>,
    /// Batch size of the network alone, up to 4096
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH))]
    pub(crate) batch: u16,
    /// Approximate duration of the measurement in seconds
    #[arg(long, value_name = "S", default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[cfg(test)]
mod tests;
