"""Golden figures of `compare`, by scikit-learn, numpy and scipy.

bootstrap.json: figures of candidates on the same samples and the percentile intervals of their differences to the best, over
resamples whose indices are in the file. overlapping.npz and
grouped.npz: classes that overlap, the second with groups; cross_validated.json: how LogisticRegression does on the training
part of each, cross-validated, log-loss and calibration error after temperatures fitted on the other folds. folds.json: the same
of the first one, for other folds.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "metrics"))
from calibration_error import calibration_error  # noqa: E402


def made(random, samples, classes, sharpness, skill):
    labels = random.randint(classes, size=samples)
    logits = random.randn(samples, classes)
    logits[np.arange(samples), labels] += skill
    return (logits * sharpness).astype(np.float32), labels


def figures(logits, labels, classes):
    exact = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    probabilities = exact.astype(np.float32)
    predicted = logits.argmax(axis=1)
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
        "log_loss": log_loss(labels, probabilities, labels=range(classes)),
        "ece": calibration_error(probabilities, labels),
    }


def bootstrap():
    random = np.random.RandomState(0)
    samples, classes, resamples = 60, 4, 200
    first, labels = made(random, samples, classes, 1.0, 2.0)
    noise = random.randn(samples, classes)
    candidates = [first, first + 0.3 * noise, first * 4, random.randn(samples, classes)]
    candidates = [logits.astype(np.float32) for logits in candidates]
    best = 1
    drawn = random.randint(samples, size=(resamples, samples))
    found = [[figures(logits[i], labels[i], classes) for logits in candidates] for i in drawn]
    of_candidates = []
    for number, logits in enumerate(candidates):
        of_candidate = {}
        for name, value in figures(logits, labels, classes).items():
            differences = [of[number][name] - of[best][name] for of in found]
            of_candidate[name] = [value, *np.percentile(differences, [2.5, 97.5])]
        of_candidates.append(of_candidate)
    golden = {
        "classes": classes,
        "labels": labels.tolist(),
        "logits": [[float(v) for v in logits.ravel()] for logits in candidates],
        "best": best,
        "resamples": drawn.tolist(),
        "figures": of_candidates,
    }
    (HERE / "bootstrap.json").write_text(json.dumps(golden) + "\n")
    print("reference/compare/bootstrap.json:", len(candidates), "candidates,", resamples, "resamples")


def temperature(logits, labels):
    rows, exact = np.arange(len(labels)), logits.astype(np.float64)

    def loss(log_t):
        return -log_softmax(exact / np.exp(log_t), axis=1)[rows, labels].mean()

    grid = np.linspace(-12, 12, 241)
    best = grid[np.argmin([loss(t) for t in grid])]
    found = minimize_scalar(loss, bracket=(best - 0.1, best, best + 0.1), tol=1e-12)
    # A minimum is flat: where its derivative is 0 is known to more digits.
    low, high = found.x - 1e-3, found.x + 1e-3
    for _ in range(60):
        middle = (low + high) / 2
        scaled = exact / np.exp(middle)
        p = np.exp(log_softmax(scaled, axis=1))
        rising = (scaled[rows, labels] - (p * scaled).sum(axis=1)).mean() > 0
        low, high = (low, middle) if rising else (middle, high)
    assert abs(middle - found.x) < 1e-5, (middle, found.x)
    return float(np.exp(middle))


def cross_validated(features, labels, groups, folds=5, seed=0):
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=0)
    train = np.sort(next(splitter.split(features, labels))[0])
    x, y = features[train].astype(np.float64), labels[train]  # in float32 its solver stops early
    if groups is None:
        folds = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y))
    else:
        folds = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, groups[train]))
    logits = np.zeros((len(y), labels.max() + 1), dtype=np.float32)
    for fitted, tested in folds:
        head = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x[fitted], y[fitted])
        logits[tested] = head.decision_function(x[tested])
    scaled = logits.copy()
    for others, tested in folds:
        scaled[tested] = logits[tested] / temperature(logits[others], y[others])
    return figures(scaled, y, labels.max() + 1)


def cross_validations():
    random = np.random.RandomState(7)
    samples, classes, width = 150, 3, 4
    labels = random.randint(classes, size=samples)
    centres = random.randn(classes, width)
    groups = random.randint(30, size=samples) * 3 - 20
    of_groups = random.randn(100, width)[groups]
    features = (centres[labels] + 0.5 * of_groups + 0.8 * random.randn(samples, width)).astype(np.float32)
    np.savez(HERE / "overlapping.npz", features=features, labels=labels)
    np.savez(HERE / "grouped.npz", features=features, labels=labels, groups=groups)
    golden = {
        "overlapping": cross_validated(features, labels, None),
        "grouped": cross_validated(features, labels, groups),
    }
    (HERE / "cross_validated.json").write_text(json.dumps(golden) + "\n")
    print("reference/compare/cross_validated.json:", golden)
    other = {
        f"{folds} folds, seed {seed}": cross_validated(features, labels, None, folds, seed)
        for folds, seed in [(5, 0), (5, 3), (4, 0)]
    }
    (HERE / "folds.json").write_text(json.dumps(other) + "\n")
    print("reference/compare/folds.json:", other)


bootstrap()
cross_validations()
