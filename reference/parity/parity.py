"""headstock's heads beside scikit-learn's on the same features and the same split, as a page in Markdown.

    python reference/parity/parity.py HEADSTOCK CONFIG > docs/parity.md

HEADSTOCK is the program, CONFIG a headstock.toml of a data set of photos. `cargo xtask parity CONFIG` calls it. Unlike the
golden files this needs more photos than the project holds, and it measures time: fits are repeated in turns, and their
medians are compared.
"""

import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Older OpenBLAS needs these on some processors; they only slow a current numpy.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import numpy as np
import sklearn
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

REPEATS = 3


def logistic_objective(weight, bias, features, labels, C):
    logits = features @ weight.T + bias
    top = logits.max(axis=1, keepdims=True)
    log_sum = (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]
    return C * (log_sum - logits[np.arange(len(labels)), labels]).sum() + 0.5 * (weight**2).sum()


def svm_objective(weight, bias, features, labels, C, square=True):
    signs = np.where(labels[:, None] == np.arange(len(bias)), 1.0, -1.0)
    slack = np.maximum(0, 1 - signs * (features @ weight.T + bias))
    return 0.5 * (weight**2).sum() + 0.5 * (bias**2).sum() + C * (slack**2 if square else slack).sum()


HEADS = [
    # head, its settings, the counterpart with its settings in words, the objective of both
    ("linear", {"C": 1.0}, "LogisticRegression(C=1, max_iter=1000)", logistic_objective),
    ("linear", {"C": 1.0}, "LogisticRegression(C=1, max_iter=10000, tol=1e-6)", logistic_objective),
    ("svm", {"C": 0.01}, "LinearSVC(C=0.01)", svm_objective),
    ("svm", {"C": 1.0}, "LinearSVC(C=1)", svm_objective),
    ("mlp", {}, "MLPClassifier((512,), early_stopping=True, max_iter=50, random_state=0)", None),
]


def main(program, config):
    warnings.filterwarnings("ignore", module="sklearn")
    program, config = str(Path(program).resolve()), str(Path(config).resolve())
    folder = tempfile.TemporaryDirectory()
    os.chdir(folder.name)

    def headstock(*arguments):
        command = [program, *arguments, "--config", config, "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    started = time.perf_counter()
    extracted = headstock("extract", "--out", "all.npz", "--set", f"features.cache={folder.name}/cache")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    cached = ["--set", f"features.cache={folder.name}/cache"]

    headstock("split", "--out", "split.csv")
    part = {row["path"]: row["split"] for row in csv.DictReader(open("split.csv"))}
    rows = list(csv.DictReader(open("all.csv")))
    archive = np.load("all.npz")
    is_test = np.array([part[row["path"]] == "test" for row in rows])
    features, labels = archive["features"], archive["labels"]
    x, y, x_test, y_test = features[~is_test], labels[~is_test], features[is_test], labels[is_test]
    exact = x.astype(np.float64)

    print("# Beside scikit-learn\n")
    print(f"`cargo xtask parity CONFIG` made this page with scikit-learn {sklearn.__version__} on")
    print(f"{processor()}, {os.cpu_count()} cores: {len(y)} photos to fit on, {len(y_test)} to test on,")
    print(f"{labels.max() + 1} classes, {x.shape[1]} features, both sides on the same ones. An objective is that of the fitted")
    print("weights in double precision; the gap is ours less theirs, relative, so that below zero is better. Fits are")
    print(f"repeated {REPEATS} times in turns; the ratio is their median over ours.\n")
    print("scikit-learn's default tolerance stops LogisticRegression and LinearSVC(C=1) short of their optimum; the row with")
    print("`tol=1e-6` is theirs at it, in double precision.\n")
    print("| head | beside | accuracy | theirs | macro F1 | theirs | objective | theirs | gap | fit, s | theirs | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for number, (head, settings, counterpart, objective) in enumerate(HEADS):
        own, their_seconds = [], []
        overrides = [word for key, value in settings.items() for word in ("--set", f"head.{key}={value}")]
        for repeat in range(REPEATS):
            run = f"run-{number}-{repeat}"
            figures = headstock("train", "--head", head, "--run", run, *overrides, *cached)
            own.append(figures["seconds"]["fit"])
            model = eval(counterpart)
            started = time.perf_counter()
            # In single precision, as the features are, theirs could not come that close.
            model.fit(exact if "tol" in counterpart else x, y)
            their_seconds.append(time.perf_counter() - started)
        predicted = model.predict(x_test)
        accuracy, f1 = (predicted == y_test).mean(), f1_score(y_test, predicted, average="macro")
        gap = ours = theirs = "-"
        if objective:
            tensors = load_file(f"{run}/model.safetensors")
            values = [
                objective(w.astype(np.float64), b.astype(np.float64), exact, y, settings["C"])
                for w, b in ((tensors["weight"], tensors["bias"]), (model.coef_, model.intercept_))
            ]
            ours, theirs = (f"{value:.4f}" for value in values)
            gap = f"{values[0] / values[1] - 1:+.1e}"
        name = f"`{head}`" + "".join(f", {key} = {value:g}" for key, value in settings.items())
        mine, other = statistics.median(own), statistics.median(their_seconds)
        print(
            f"| {name} | `{counterpart}` | {figures['top1']:.3f} | {accuracy:.3f} | {figures['macro_f1']:.3f} | {f1:.3f} "
            f"| {ours} | {theirs} | {gap} | {mine:.2f} | {other:.2f} | {other / mine:.1f} |",
            flush=True,
        )
    print(f"\nFeatures of all {extracted['rows']} photos, from their files: {seconds:.0f} s,", end=" ")
    print(f"{extracted['rows'] / seconds:.1f} photos a second; peak memory of `headstock extract`: {peak:.0f} MiB.")


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


main(*sys.argv[1:])
