"""Compares headstock's heads with scikit-learn's on the same features and the same split, as a page in Markdown.

    python reference/parity/parity.py HEADSTOCK CONFIG [--only HEAD,HEAD] [--repeats N] [--slow] [--large] > docs/parity.md

HEADSTOCK is the program, CONFIG a headstock.toml of a data set of photos. `cargo xtask parity` calls it. Unlike the golden
files this needs more photos than the project holds, and it measures time: fits are repeated in turns, and what is compared
ran in the same round.
"""

import argparse
import os
import platform
import tempfile
import warnings
from pathlib import Path

# Older OpenBLAS needs these on some processors; they only slow a current numpy.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import sklearn

from heads import PAIRS
from program import Program
from sets import Features, of_photos
from sides import HEADER, compare_pair
from synthetic import Synthetic

MIB, GIB = 1024, 1024**2
# The tutorial's size, with a tenth more to test on.
TUTORIAL = {"photos": 9199 + 1023, "features": 2048, "classes": 120}
LARGE = {"photos": 101_000, "features": 2048, "classes": 1000}
LARGE_HEADS = [("linear", {"solver": "adam", "epochs": 1}), ("ridge", {}), ("nearest-mean", {})]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("headstock", type=Path)
    arguments.add_argument("config", type=Path)
    arguments.add_argument("--only", help="names of heads, with commas between them")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--large", action="store_true", help="100,000 photos of 1,000 classes too")
    arguments.add_argument("--slow", action="store_true", help="synthetic features also for the counterparts that take many minutes on them")
    given = arguments.parse_args()
    # What theirs warns of is in the table.
    warnings.filterwarnings("ignore", module="sklearn")
    wanted = given.only.split(",") if given.only else None
    known = {pair.head for pair in PAIRS}
    if wanted and not known.issuperset(wanted):
        arguments.error(f"--only {given.only}: known are {', '.join(sorted(known))}")
    pairs = [pair for pair in PAIRS if not wanted or pair.head in wanted]
    program, config = Program(str(given.headstock.resolve())), str(given.config.resolve())

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        head_of_page(given.repeats)
        photos, extracted = of_photos(program, config)
        section("Photos", photos, program, pairs, given.repeats, compare=not wanted)
        print(f"\nFeatures of all {extracted.figures['rows']} photos, from their files: {extracted.seconds:.0f} s,", end=" ")
        print(f"{extracted.figures['rows'] / extracted.seconds:.1f} photos per second; peak memory of `headstock extract`:", end=" ")
        print(f"{extracted.peak_kib / MIB:.0f} MiB.", flush=True)

        Synthetic(**TUTORIAL).write("synthetic.npz")
        synthetic = Features(program, "synthetic.npz", test=1023)
        quick = [pair for pair in pairs if given.slow or not pair.slow]
        section("Synthetic features", synthetic, program, quick, given.repeats, compare=given.slow)
        if len(quick) < len(pairs):
            print("\nThe other pairs take scikit-learn many minutes each; `--slow` measures them too.", flush=True)
        if given.large:
            large(program, [(head, settings) for head, settings in LARGE_HEADS if not wanted or head in wanted])


def head_of_page(repeats):
    print("# Comparison with scikit-learn\n")
    print(f"Made by `cargo xtask parity CONFIG` with scikit-learn {sklearn.__version__} on {processor()}, {os.cpu_count()} cores.")
    print("Both tools fit and test on the same rows of the same features, in single precision, on as many threads as they choose.\n")
    print("- `objective` is the objective at the fitted weights, computed in double precision; `gap` is the relative difference,")
    print("  headstock less scikit-learn, so a negative gap is better.")
    print("- `agreement` is the share of test photos for which both predict the same class.")
    print("- `coefficients` is the largest difference over scikit-learn's largest coefficient, for heads with a closed form;")
    print("  scikit-learn's are fitted in double precision for it.")
    print(f"- Fits alternate and are repeated {repeats} times, once where scikit-learn takes more than a minute. `ratio` is scikit-learn's")
    print("  time over headstock's within a round: median, lowest and highest. For `knn` it is the time of prediction.")
    print("- `peak memory` is that of the whole `headstock train`, and as a multiple of the feature matrix.")
    print("- A star marks fits for which scikit-learn warned that it had not converged. With its default tolerance")
    print("  LogisticRegression stops before the optimum; the row with `tol=1e-6` reaches it, in double precision.", flush=True)


def section(title, features, program, pairs, repeats, compare):
    print(f"\n## {title}\n")
    print(f"{len(features.y)} training photos, {len(features.y_test)} test photos, {features.classes} classes,", end=" ")
    print(f"{features.x.shape[1]} features.\n")
    print(HEADER, flush=True)
    for pair in pairs:
        print(compare_pair(pair, features, program, repeats), flush=True)
    if compare and program.accepts("compare", "--help"):
        done = program("compare", "--config", features.config, "--folds", "5")
        print(f"\n`headstock compare` of all heads with 5 folds: {done.seconds:.0f} s,", end=" ")
        print(f"{features.times(done.peak_kib)}.", flush=True)


def large(program, heads):
    Synthetic(**LARGE).write("large.npz")
    features = Features(program, "large.npz", test=1000, load=False)
    print(f"\n## Large\n\n{LARGE['photos'] - 1000} synthetic training photos, 1000 test photos, {LARGE['classes']} classes,", end=" ")
    print(f"{LARGE['features']} features.\n")
    print("| head | accuracy | fit, s | peak memory |\n|---|---|---|---|")
    for head, settings in heads:
        _, done = features.train(program, head, settings)
        words = ", ".join([f"`{head}`", *(f"{key} = {value}" for key, value in settings.items())])
        seconds, peak = done.figures["seconds"]["fit"], done.peak_kib
        print(f"| {words} | {done.figures['top1']:.3f} | {seconds:.1f} | {peak / GIB:.2f} GiB, {features.multiple(peak):.1f} x |", flush=True)


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


main()
