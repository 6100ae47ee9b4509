"""Calibration error and coverage of the heads on a data set, over many splits, as Markdown.

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

    print(f"Each head with its defaults on the splits of {SEEDS} seeds: {counts['train']} training samples, {n} test samples,")
    print(f"{counts['classes']} classes. All figures are of the test parts. Made by `cargo xtask coverage CONFIG`.\n")
    print("### Calibration\n")
    print("Means over the splits. `worse` counts the splits in which calibration raises the calibration error of the test part,")
    print("`dropped` those in which calibration was not used because it did not help on held-out photos. The standard error of")
    print(f"the calibration error of {n} samples is about 0.01.\n")
    print("| head | accuracy | temperature | log-loss before | after | calibration error before | after | worse | dropped |")
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
    print("\n### Conformal sets\n")
    print(f"Target coverage {wanted}. If each test sample were drawn independently, the coverage of 99 in 100 test parts would be")
    print(f"between {low:.3f} and {high:.3f} (binomial, {n} samples), and the mean of {SEEDS} test parts without a common sample between")
    print(f"{mean_low:.3f} and {mean_high:.3f}. The random choice of calibration scores widens both a little.\n")
    print("| head | sets | coverage, mean | lowest | highest | within | classes per set | empty |")
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
