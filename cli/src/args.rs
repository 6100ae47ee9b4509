//! The arguments of every command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use headstock_backbone::{FeatureLayer, Precision};
use headstock_heads::ConformalMethod;
use headstock_train::config::TuneFrom;

/// Train an image classifier of your own: a pretrained ResNet stays frozen, and a head that you choose learns your
/// classes.
///
/// Features are computed once for each photo and kept, so that another head, another split or ten more photos take
/// seconds.
#[derive(Debug, Parser)]
#[command(name = "headstock", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXAMPLES: &str = "\
From photos to predictions:
  headstock init photos                     write headstock.toml; a folder per class
  headstock doctor                          what is wrong with the photos and their labels
  headstock train                           features, fit, test; writes runs/linear-1
  headstock train --head svm                another head on the same features
  headstock compare                         all heads, cross-validated
  headstock predict runs/linear-1 new.jpg   use it

Exit status: 0 done, 1 failed, 2 bad usage or config, 3 bad data, 4 the hub or the network";

/// More threads than any machine has cores: far more would take minutes to start.
const MAX_THREADS: i64 = 1024;

/// Photos in a batch to measure: far more would fit in no memory.
const MAX_BATCH: i64 = 4096;

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The config [default: headstock.toml; for predict and evaluate, the run's own]. init writes it, heads needs none
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Override a key of the config: --set head.C=0.01. Paths are relative to the config, as in it; for a run's own config,
    /// to the current folder. init and heads use no key
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Threads to use [default: one per core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u16>,
    /// End stdout with one line of JSON that holds the figures
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented config for the photos that are there
    Init(InitArgs),
    /// Compute features, fit the head, test it; write a run
    Train(TrainArgs),
    /// Compare heads, cross-validated on the same features
    Compare(CompareArgs),
    /// Predict the classes of photos with a run
    Predict(PredictArgs),
    /// Test a run again, on its own test photos or on others
    Evaluate(EvaluateArgs),
    /// Write the features of all photos to a file for other tools
    Extract(ExtractArgs),
    /// Write which photos are trained on and which are tested on
    Split(SplitArgs),
    /// Say what is wrong with the photos and their labels
    Doctor(DoctorArgs),
    /// List the heads, or show one's keys and defaults
    Heads(HeadsArgs),
    /// Measure how many photos a second the network computes, alone or from files
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock init photos                        a folder per class, or train/ and test/ with a folder per class
  headstock init labels.csv --images train     a table with a photo and its class in each row
  headstock init data                          Parquet files or tar archives (WebDataset)
  headstock init hf://datasets/ethz/food101    a data set of images on the Hugging Face hub

The config is written to headstock.toml, or where --config says. It never replaces a file.")]
pub(crate) struct InitArgs {
    /// A folder with a folder per class, a CSV or TSV, shards or a folder of them, or hf://datasets/owner/name
    pub(crate) path: PathBuf,
    /// The folder that the CSV's ids are relative to [default: looked for beside the CSV]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) images: Option<PathBuf>,
    /// The CSV's column with the file's name [default: guessed from the header]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id: Option<String>,
    /// The column with the class [default: guessed from the names of the columns]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock train
  headstock train --head svm --set head.C=0.1
  headstock train --config pets/headstock.toml --run runs/pets --set features.views=3
  headstock train --warm runs/linear-1           more photos, perhaps new classes, and a head that knows the rest
  headstock train --set tune.from=layer4         tune the last stage of the backbone with the head
  headstock train --resume runs/linear-2         go on with a tuning that was interrupted

An interrupted run goes on where it stopped: features that were computed are kept, and of a tuning checkpoints.")]
pub(crate) struct TrainArgs {
    /// The run's folder, which must not be there yet [default: runs/HEAD-N]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// The head; short for --set head.kind=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) head: Option<String>,
    /// Start from the head of an earlier run, of the same kind: its classes keep their numbers, new ones come after them
    #[arg(long, value_name = "RUN")]
    pub(crate) warm: Option<PathBuf>,
    /// Go on with a run whose tuning was interrupted, with the settings that it has; it ends as if it had not been
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "head", "warm", "find_lr", "overrides", "config"])]
    pub(crate) resume: Option<PathBuf>,
    /// Train nothing: try learning rates from tiny to large on a few batches, and show where the loss falls
    #[arg(long, conflicts_with_all = ["run", "warm"])]
    pub(crate) find_lr: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock compare
  headstock compare --heads linear,svm --all --by log-loss
  headstock compare --budget 60 --out comparison.csv
  headstock compare --take-best --run runs/best

Each head is tried with a small grid of its parameters; for the head that the config names, a grid around the config's.
Each is fitted on all folds of the training part but one and predicts that one; the test part is not looked at. Folds are
those of scikit-learn's StratifiedKFold, or of StratifiedGroupKFold where the data names groups. Log loss and calibration
error are those after a temperature fitted on the other folds. `~` marks what may be as good as the best: the interval
of the difference, from a paired bootstrap, holds 0.

What has begun when the budget ends is finished; what has not is listed as left out.")]
pub(crate) struct CompareArgs {
    /// The heads, with commas between them [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) heads: Option<Vec<String>>,
    /// How many folds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) folds: u32,
    /// scikit-learn's random_state of the folds
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u32,
    /// What the best is the best in
    #[arg(long, value_enum, value_name = "FIGURE", default_value_t = By::Accuracy)]
    pub(crate) by: By,
    /// Show every candidate, not only the best of each head
    #[arg(long)]
    pub(crate) all: bool,
    /// Write every candidate to a file; its ending tells the format: .csv or .json
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Begin no candidate after so many seconds of comparing; the first points of all grids come first
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) budget: Option<Duration>,
    /// Train the best on the whole training part and write a run, as train does
    #[arg(long)]
    pub(crate) take_best: bool,
    /// The run's folder, which must not be there yet [default: runs/HEAD-N]
    #[arg(long, value_name = "DIR", requires = "take_best")]
    pub(crate) run: Option<PathBuf>,
}

/// What candidates are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The share of photos whose class is the most probable
    Accuracy,
    /// The F1 score averaged over the classes
    MacroF1,
    /// The mean of -ln p(class)
    LogLoss,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "a number of seconds is wanted, 0 or more".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock predict runs/linear-1 cat.jpg dog.png
  headstock predict runs/linear-1 new_photos --format csv > predictions.csv
  headstock predict runs/linear-1 cat.jpg --coverage 0.9     the classes among which it is, 9 times of 10
  headstock predict runs/linear-1 cat.jpg --set backbone.weights=/elsewhere/backbone

A photo that cannot be read is reported, the others are predicted, and the exit status is 3.")]
pub(crate) struct PredictArgs {
    /// The run's folder
    pub(crate) run: PathBuf,
    /// Photos, or folders of photos
    #[arg(required = true, value_name = "PHOTO")]
    pub(crate) photos: Vec<PathBuf>,
    /// How predictions are printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Print the set of classes that holds the true one with this frequency, such as 0.9. It may be empty
    #[arg(long, value_name = "SHARE")]
    pub(crate) coverage: Option<f64>,
    /// How sets are made
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = SetKind::Lac, requires = "coverage")]
    pub(crate) sets: SetKind,
}

/// How sets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SetKind {
    /// Classes above one probability: small sets
    Lac,
    /// The most probable classes up to one sum of probabilities: larger sets for harder photos
    Aps,
}

impl From<SetKind> for ConformalMethod {
    fn from(kind: SetKind) -> Self {
        match kind {
            SetKind::Lac => Self::Lac,
            SetKind::Aps => Self::Aps,
        }
    }
}

/// How predictions are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The three most probable classes of each photo
    Table,
    /// path,predicted,probability, then a column per class; with --coverage a last column set, its classes joined by |
    Csv,
    /// An object per line: path, predicted, probability, probabilities; with --coverage also set, a list
    Jsonl,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock evaluate runs/linear-1
  headstock evaluate runs/linear-1 --set data.test_folder=/photos/taken_later")]
pub(crate) struct EvaluateArgs {
    /// The run's folder
    pub(crate) run: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock extract --out features.npz
  headstock extract --out layer3.parquet --layer layer3
  headstock extract --out tuned.npz --run runs/linear-2     by the backbone that a run has tuned

Rows are in the order of the paths, sorted. Beside .npy and .npz a .csv is written: row,path,class,label.
A layer before avgpool is averaged over its positions.")]
pub(crate) struct ExtractArgs {
    /// The file; its ending tells the format: .npy, .npz (features, labels), .safetensors or .parquet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The layer [default: backbone.layer of the config]
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<FeatureLayer>,
    /// Use the backbone of a run, with what it has tuned, and its config where --config names no other
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// The CSV to write: path,label,split
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock doctor
  headstock doctor --html doctor.html --write-clean clean.csv
  headstock doctor --quick --strict                   photos and names alone; exit status 3 where something is wrong
  headstock doctor --show-augment views.png           what [augment] makes of a few photos

Labels are judged by the config's head, fitted five times without the photos that it judges; a head that takes long to fit
gives way to `linear`. Features are kept, so that training finds them. Errors and warnings are wrong, notes are not.

The clean table is without photos that cannot be read, suspicious labels, outliers, and copies: of those in one class
the first stays, of those in several none.")]
pub(crate) struct DoctorArgs {
    /// Write a page with thumbnails
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write a table of the photos without what was found, to train on with data.csv
    #[arg(long, value_name = "FILE")]
    pub(crate) write_clean: Option<PathBuf>,
    /// End with exit status 3 where there is an error or a warning
    #[arg(long)]
    pub(crate) strict: bool,
    /// Leave out what needs features: suspicious labels and outliers. It needs no [backbone]
    #[arg(long)]
    pub(crate) quick: bool,
    /// Examine nothing: write a PNG with augmented views of a few photos, a row each, the plain one first
    #[arg(long, value_name = "FILE", conflicts_with_all = ["html", "write_clean", "strict", "quick"])]
    pub(crate) show_augment: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HeadsArgs {
    /// The head whose keys to show
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstock bench --weights demo/backbone --batch 16 --threads 2 --seconds 4 --json
  headstock bench --set backbone.device=cuda --precision bf16
  headstock bench --data --seconds 20
  headstock bench --weights demo/backbone --tune layer4

Of the config, [backbone] counts: where the network runs, in which precision, and up to which layer.
With --weights no config is needed, and none is read unless --config names it or --data asks for its photos.")]
pub(crate) struct BenchArgs {
    /// A directory, a .safetensors file, or hf://owner/name [default: backbone.weights of the config]
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: Option<String>,
    /// What the network computes in: f32 or bf16 [default: backbone.precision of the config, or f32]
    #[arg(long, value_name = "NAME")]
    pub(crate) precision: Option<Precision>,
    /// Measure all the way from the files of the config's photos to kept features, with a cache of its own, and the network
    /// alone beside it
    #[arg(long)]
    pub(crate) data: bool,
    /// Measure steps that tune the backbone from this stage on, from activations in memory
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["data", "precision"])]
    pub(crate) tune: Option<TuneFrom>,
    /// Photos in a batch of the network alone, up to 4096
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH))]
    pub(crate) batch: u16,
    /// How long to measure, about
    #[arg(long, value_name = "S", default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[cfg(test)]
mod tests;
