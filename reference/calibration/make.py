"""Calibrated probabilities by scikit-learn and conformal sets by MAPIE: calibration.safetensors.

The names of the tensors: CASE.logits, CASE.labels to fit on, CASE.fresh logits to predict; CASE.METHOD.probabilities of the
fresh ones, and CASE.temperature.T. CASE.conformal.fit and .labels are probabilities to fit on, .fresh those to make sets of;
CASE.conformal.METHOD.scores the scores, sorted, and CASE.conformal.METHOD.COVERAGE the sets, a row of zeros and ones each.
"""

from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
from mapie.conformity_scores import APSConformityScore, LACConformityScore
from safetensors.numpy import save_file
from scipy.special import softmax
from sklearn.calibration import _fit_calibrator, _TemperatureScaling
from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

HERE = Path(__file__).parent
COVERAGES = ("0.5", "0.8", "0.9", "0.95")


def samples(seed, counts, sharpness, signal, step=0.0):
    """Logits of unequal scales, of which the true class's is higher; `step` makes many equal."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    logits = random.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += signal
    logits = sharpness * (logits + random.normal(size=len(counts)) / 2)
    if step:
        logits = np.round(logits / step) * step
    return logits.astype(np.float32), labels.astype(np.uint32)


class Fixed:
    """A classifier whose decision values are given."""

    def __init__(self, classes):
        self.classes_ = np.arange(classes)
        self.is_fitted_ = True

    def fit(self, X, y):
        return self

    def decision_function(self, X):
        return X

    def __sklearn_tags__(self):
        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=InputTags())


def decisions(logits):
    """What `decision_function` gives: one column where there are two classes."""
    exact = logits.astype(np.float64)
    return exact[:, 1:] - exact[:, :1] if exact.shape[1] == 2 else exact


def one_against_rest(logits, labels, fresh, method):
    classifier = Fixed(logits.shape[1])
    fitted = _fit_calibrator(classifier, decisions(logits), labels, classifier.classes_, method, np)
    given = decisions(fresh)
    return fitted.predict_proba(given[:, 0] if given.shape[1] == 1 else given)


def calibrated(out, case, logits, labels, fresh):
    exact = logits.astype(np.float64)
    temperature = _TemperatureScaling().fit(exact, labels.astype(np.float64))
    put(out, f"{case}.temperature", T=np.array([1 / temperature.beta_]))
    put(out, f"{case}.temperature", probabilities=temperature.predict(fresh.astype(np.float64)))
    put(out, f"{case}.isotonic", probabilities=one_against_rest(logits, labels, fresh, "isotonic"))
    put(out, f"{case}.platt", probabilities=one_against_rest(logits, labels, fresh, "sigmoid"))


MASK = 2**64 - 1


def split_mix(state):
    """The next state and 64 random bits of SplitMix64 (https://prng.di.unimi.it/splitmix64.c)."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return state, z ^ (z >> 31)


def number_of(row):
    """From 0 to 1, of the bits of a row's probabilities."""
    state = 0
    for bits in row.astype(np.float32).view(np.uint32):
        state = split_mix(state)[1] ^ int(bits)
    return (split_mix(state)[1] >> 11) * 2.0**-53


class Keyed(np.random.RandomState):
    """Random numbers that are each row's own."""

    def __init__(self, rows):
        super().__init__(0)
        self.numbers = np.array([number_of(row) for row in rows])

    def uniform(self, size=None):
        return self.numbers.reshape(size)


def conformal(out, case, probabilities, labels, fresh):
    put(out, f"{case}.conformal", fit=probabilities, labels=labels, fresh=fresh)
    # The sum of the rounded values is not 1, which MAPIE does not mind.
    exact, new = probabilities.astype(np.float64), fresh.astype(np.float64)
    n = len(labels)
    for name, kind, more in (
        ("lac", LACConformityScore, {}),
        ("aps", APSConformityScore, {"include_last_label": "randomized"}),
    ):
        score = kind()
        score.set_external_attributes(classes=np.arange(exact.shape[1]), random_state=Keyed(probabilities))
        scores = score.get_conformity_scores(labels, exact, y_enc=labels)
        put(out, f"{case}.conformal.{name}", scores=np.sort(scores.ravel()))
        for coverage in COVERAGES:
            rank = ceil((n + 1) * Fraction(coverage))
            if rank > n:
                # MAPIE refuses; all classes are right.
                put(out, f"{case}.conformal.{name}", **{coverage: np.ones(new.shape, np.uint8)})
                continue
            score.set_external_attributes(classes=np.arange(exact.shape[1]), random_state=Keyed(fresh))
            alpha = np.array([float(1 - Fraction(coverage))])
            sets = score.get_sets(None, alpha, new, "prefit", scores, agg_scores="mean", **more)
            assert score.quantiles_[0] == np.sort(scores.ravel())[rank - 1], (case, name, coverage)
            put(out, f"{case}.conformal.{name}", **{coverage: sets[:, :, 0].astype(np.uint8)})


def put(out, case, **values):
    for name, value in values.items():
        out[f"{case}.{name}"] = np.ascontiguousarray(value)


out = {}
for case, counts, sharpness, signal, step in (
    ("margins", [45, 40, 42, 38, 35], 0.3, 2.0, 0.0),
    ("sharp", [40, 40, 40, 30], 9.0, 1.5, 0.0),
    ("two", [45, 35], 1.5, 1.0, 0.0),
    ("ties", [30, 25, 35], 2.0, 1.0, 1.0),
    # A class with few samples and one without any.
    ("rare", [60, 3, 0, 50], 1.0, 2.0, 0.0),
    ("few", [4, 3, 5], 1.0, 1.0, 0.0),
):
    logits, labels = samples(len(case), counts, sharpness, signal, step)
    # Some lie outside of what is fitted on.
    fresh = 1.5 * samples(100 + len(case), [10] * len(counts), sharpness, signal, step)[0]
    put(out, case, logits=logits, labels=labels, fresh=fresh)
    calibrated(out, case, logits, labels, fresh)
    # MAPIE's APS knows no two classes, and orders equal probabilities in another way.
    if case not in ("two", "ties"):
        narrow = [softmax(values.astype(np.float64), axis=1).astype(np.float32) for values in (logits, fresh)]
        conformal(out, case, narrow[0], labels, narrow[1])

file = HERE / "calibration.safetensors"
save_file(dict(sorted(out.items())), file)
print(f"{file}: {len(out)} tensors, {file.stat().st_size} bytes")
