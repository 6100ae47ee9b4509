"""Writes a part of docs/tuning.md: figures of `headstock` and of PyTorch, measured side by side.

usage: page.py throughput HEADSTOCK WEIGHTS [--rounds 5] [--seconds 4]
       page.py seeds HEADSTOCK CONFIG [--seeds 3] [--theirs FILE]
       page.py splits HEADSTOCK CONFIG [--splits 3]

`throughput`: photos a second of a step of tuning, in rounds in which each runs once, and the peak of memory. `seeds`: the same
tuning by both, from `data.folder` of the config tested on its `data.test_folder`. `splits`: the recipe of the page beside the best
frozen head, on random fifths of `data.folder` held out in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
# What pytorch.py does, as settings.
SAME = {
    "tune.from": "layer4",
    "tune.epochs": 6,
    "tune.lr": 0.01,
    "tune.weight_decay": 0,
    "tune.validation": 0,
    "features.views": 2,
    "augment.random_resized_crop": "{ scale = [0.35, 1.0] }",
    "augment.horizontal_flip": 0.5,
    "calibration": "none",
}
# The recipe of the page.
RECIPE = {
    "tune.from": "layer4",
    "features.views": 2,
    "augment.random_resized_crop": "{ scale = [0.35, 1.0] }",
    "augment.horizontal_flip": 0.5,
}
FROZEN = ["linear", "svm", "ridge", "lda", "mlp", "cosine"]


def last_line(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return "an unknown processor"


def over_rounds(values):
    return f"{statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f}"


def throughput(options):
    ours = {"layer4": [], "stem": []}
    theirs = {}
    for _ in range(options.rounds):
        seconds = ["--seconds", options.seconds]
        for stage, found in ours.items():
            found.append(
                last_line([options.headstock, "bench", "--weights", options.weights, "--tune", stage, "--threads", 2, "--json", *seconds])
            )
        for way in ["kept", "usual", "all"]:
            for layout in ["channels-last", "contiguous"]:
                script = [sys.executable, HERE / "throughput.py", options.weights, way, "--layout", layout, *seconds]
                theirs.setdefault(way, {}).setdefault(layout, []).append(last_line(script))
    version = theirs["kept"]["contiguous"][0]["version"]
    rate = lambda found: statistics.median(figures["images_per_second"] for figures in found)
    best = {way: max(layouts.values(), key=rate) for way, layouts in theirs.items()}
    print(
        f"ResNet-50, 224 x 224, f32, batch 16, 2 threads of {cpu()}; PyTorch {version}, in the memory layout that is faster for it.\n"
        f"Medians of {options.rounds} rounds; in a round each runs for {options.seconds:g} s, in a process of its own. The ratio is ours /\n"
        "theirs within a round. Made by `cargo xtask tuning`.\n"
    )
    print("| what | headstock, photos/s | PyTorch | ratio | lowest to highest |")
    print("|---|---|---|---|---|")
    rows = [
        ("layer4 and the head, from kept activations", "layer4", "kept"),
        ("the same, PyTorch runs the frozen part in every step", "layer4", "usual"),
        ("everything", "stem", "all"),
    ]
    for what, stage, way in rows:
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in zip(ours[stage], best[way])]
        print(f"| {what} | {rate(ours[stage]):.1f} | {rate(best[way]):.1f} | {over_rounds(ratios)} |")
    peak = lambda found: statistics.median(figures["peak_memory_mib"] for figures in found)
    print("\n| peak memory of the whole process, MiB | headstock | PyTorch | ours / theirs |")
    print("|---|---|---|---|")
    for what, stage, way in [rows[0], rows[2]]:
        a, b = peak(ours[stage]), min(peak(found) for found in theirs[way].values())
        print(f"| {what} | {a:.0f} | {b:.0f} | {a / b:.2f} |")


def settings(values):
    return [word for key, value in values.items() for word in ["--set", f"{key}={value}"]]


def train(options, folder, name, values, head=None):
    command = [options.headstock, "train", "--config", options.config, "--run", Path(folder) / name, "--json"]
    return last_line([*command, *settings(values), *(["--head", head] if head else [])])


def mean_and_spread(values, digits=3):
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def seeds(options):
    config = Path(options.config).resolve()
    table = tomllib.loads(config.read_text())
    place = lambda path: config.parent / path
    data, weights = table["data"], place(table["backbone"]["weights"])
    with tempfile.TemporaryDirectory() as folder:
        frozen = {key: value for key, value in SAME.items() if not key.startswith("tune")}
        before = train(options, folder, "frozen", frozen, "linear")
        ours = []
        for seed in range(options.seeds):
            figures = train(options, folder, f"tuned-{seed}", SAME | {"tune.seed": seed}, "linear")
            rows = (Path(folder) / f"tuned-{seed}" / "history.csv").read_text().splitlines()[1:]
            ours.append({"after": figures, "losses": [float(row.split(",")[2]) for row in rows]})
        if options.theirs:
            printed = Path(options.theirs).read_text()
        else:
            script = [sys.executable, HERE / "pytorch.py", weights, place(data["folder"]), place(data["test_folder"]), folder]
            script = [*map(str, script), "--seeds", str(options.seeds)]
            printed = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True).stdout
        theirs = [json.loads(line) for line in printed.splitlines()]
    print(
        f"{options.seeds} seeds each: mean ± standard deviation on the {figures['counts']['test']} photos of the test folder, after training on\n"
        f"{figures['counts']['train']}. Made by `cargo xtask tuning CONFIG`.\n"
    )
    print("| | headstock | PyTorch |")
    print("|---|---|---|")
    print(f"| accuracy of the fitted head, frozen | {before['top1']:.3f} | {theirs[0]['before']['accuracy']:.3f} |")
    print(f"| its log-loss | {before['log_loss']:.3f} | {theirs[0]['before']['log_loss']:.3f} |")
    a, b = [run["after"]["top1"] for run in ours], [run["after"]["accuracy"] for run in theirs]
    print(f"| accuracy, tuned | {mean_and_spread(a)} | {mean_and_spread(b)} |")
    a, b = [run["after"]["log_loss"] for run in ours], [run["after"]["log_loss"] for run in theirs]
    print(f"| log-loss, tuned | {mean_and_spread(a)} | {mean_and_spread(b)} |")
    for epoch in range(len(ours[0]["losses"])):
        a, b = ([run["losses"][epoch] for run in runs] for runs in (ours, theirs))
        print(f"| loss in training, epoch {epoch + 1} | {mean_and_spread(a)} | {mean_and_spread(b)} |")


def splits(options):
    config = tomllib.loads(Path(options.config).read_text())
    if "test_folder" in config["data"]:
        sys.exit("a config without data.test_folder is wanted: the splits take the test parts")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for split in range(options.splits):
            part = {"split.seed": split, "split.test_size": 0.2}
            views = {key: value for key, value in RECIPE.items() if not key.startswith("tune")}
            row = {head: train(options, folder, f"{head}-{split}", part | views, head) for head in FROZEN}
            row["tuned"] = train(options, folder, f"tuned-{split}", part | RECIPE | {"tune.seed": split}, "linear")
            rows.append(row)
    mean = lambda head, figure: statistics.mean(row[head][figure] for row in rows)
    best = max(FROZEN, key=lambda head: mean(head, "top1"))
    print(
        f"{options.splits} random fifths of the training photos, each tested on after training on the rest. Differences are within a split:\n"
        "mean ± standard error. Made by `cargo xtask tuning CONFIG`.\n"
    )
    print("| | accuracy | log-loss | accuracy over the best frozen head |")
    print("|---|---|---|---|")
    for head in [*FROZEN, "tuned"]:
        gains = [row[head]["top1"] - row[best]["top1"] for row in rows]
        error = statistics.stdev(gains) / len(gains) ** 0.5
        name = f"`{head}`, frozen" if head != "tuned" else "**`layer4` tuned**"
        gain = "" if head == best else f"{statistics.mean(gains):+.3f} ± {error:.3f}"
        print(f"| {name} | {mean(head, 'top1'):.3f} | {mean(head, 'log_loss'):.3f} | {gain} |")


def main():
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("throughput")
    part.set_defaults(run=throughput)
    part.add_argument("headstock")
    part.add_argument("weights")
    part.add_argument("--rounds", type=int, default=5)
    part.add_argument("--seconds", type=float, default=4.0)
    for run, count in [(seeds, 3), (splits, 3)]:
        part = parts.add_parser(run.__name__)
        part.set_defaults(run=run)
        part.add_argument("headstock")
        part.add_argument("config")
        part.add_argument(f"--{run.__name__}", type=int, default=count)
        if run is seeds:
            part.add_argument("--theirs", help="what pytorch.py has printed before, which is then not run again")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
