"""How honest the heads' probabilities and sets are on a data set, over many splits, as a page in Markdown.

    python reference/coverage/coverage.py HEADSTOCK CONFIG [HEAD ...] > docs/calibration.md

HEADSTOCK is the program, CONFIG a headstock.toml; without heads, all that the program knows. `cargo xtask coverage CONFIG`
calls it. Each head is trained on the splits of 20 seeds, with its defaults; nothing is measured but what the runs say.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import binom

SEEDS = 20
METHODS = ("lac", "aps")


def main(program, config, *heads):
    program, config = str(Path(program).resolve()), str(Path(config).resolve())
    folder = tempfile.TemporaryDirectory()
    os.chdir(folder.name)

    def headstock(*arguments):
        done = subprocess.run([program, *arguments, "--json"], check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    heads = heads or [head["name"] for head in headstock("heads")["heads"]]
    runs = {}
    for head in heads:
        for seed in range(SEEDS):
            name = f"{head}-{seed}"
            words = ["--head", head, "--run", name, "--set", f"split.seed={seed}"]
            runs.setdefault(head, []).append(headstock("train", "--config", config, *words))
            print(name, file=sys.stderr, flush=True)
    page(runs)


def page(runs):
    first = next(iter(runs.values()))[0]
    counts, wanted = first["counts"], first["conformal"]["coverage"]
    n = counts["test"]
    low, high = (binom.ppf(p, n, wanted) / n for p in (0.005, 0.995))
    mean_low, mean_high = (binom.ppf(p, n * SEEDS, wanted) / (n * SEEDS) for p in (0.005, 0.995))
    mean = statistics.fmean

    print("# How honest the probabilities are\n")
    print(f"`cargo xtask coverage CONFIG` made this page: each head with its defaults on the splits of {SEEDS} seeds,")
    print(f"{counts['train']} samples to fit on, {n} to test on, {counts['classes']} classes. All figures are those of the test parts.\n")
    print("## Calibration\n")
    print("Means over the splits; `worse` counts the splits in which the calibration error of the test part is higher with")
    print("calibration than without, and `dropped` those in which calibration was given up because it made photos held out")
    print(f"no better. The calibration error of {n} samples is itself known to about a hundredth.\n")
    print("| head | accuracy | temperature | log loss before | after | calibration error before | after | worse | dropped |")
    print("|---|---|---|---|---|---|---|---|---|")
    for head, all in runs.items():
        figures = [run["calibration"] for run in all]
        of = lambda when, name: mean(f[when][name] for f in figures)
        temperatures = [f["temperature"] for f in figures if "temperature" in f]
        worse = sum(f["after"]["ece"] > f["before"]["ece"] for f in figures)
        temperature = f"{mean(temperatures):.3f}" if temperatures else "-"
        print(
            f"| `{head}` | {mean(run['top1'] for run in all):.3f} | {temperature} "
            f"| {of('before', 'log_loss'):.3f} | {of('after', 'log_loss'):.3f} "
            f"| {of('before', 'ece'):.3f} | {of('after', 'ece'):.3f} | {worse} of {SEEDS} "
            f"| {sum('dropped' in f for f in figures)} of {SEEDS} |"
        )
    print("\n## Sets\n")
    print(f"Sets that are to hold the class {wanted} of the time. Were each sample of a test part a draw of its own, the share that")
    print(f"is held would lie between {low:.3f} and {high:.3f} in 99 of 100 test parts (binomial, {n} samples), and the mean of")
    print(f"{SEEDS} parts without a sample in common between {mean_low:.3f} and {mean_high:.3f}; scores are as random as tests, which")
    print("widens both a little.\n")
    print("| head | sets | held, mean | lowest | highest | inside | classes in a set | empty |")
    print("|---|---|---|---|---|---|---|---|")
    for head, all in runs.items():
        for method in METHODS:
            sets = [run["conformal"][method] for run in all]
            held = [s["coverage"] for s in sets]
            inside = sum(low <= h <= high for h in held)
            print(
                f"| `{head}` | {method} | {mean(held):.3f} | {min(held):.3f} | {max(held):.3f} | {inside} of {SEEDS} "
                f"| {mean(s['mean_size'] for s in sets):.2f} | {mean(s['empty'] for s in sets):.3f} |"
            )


main(*sys.argv[1:])
