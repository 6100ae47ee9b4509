"""A head and its counterpart, side by side."""

import statistics
import time
import warnings

import numpy as np
from safetensors.numpy import load_file
from sklearn.exceptions import ConvergenceWarning

HEADER = (
    "| head | scikit-learn | accuracy | sklearn | agreement | objective | sklearn | gap | coefficients | fit, s | sklearn | ratio "
    "| lowest to highest | peak memory |\n" + "|---" * 14 + "|"
)
# Theirs is not repeated where it takes longer, in seconds.
LONG = 60


def compare_pair(pair, features, program, repeats):
    """Fits both in turns; a row of the table."""
    own, their_seconds, peaks, star = [], [], [], ""
    for _ in range(repeats):
        run, done = features.train(program, pair.head, pair.settings)
        seconds = done.figures["seconds"]
        own.append(seconds["fit"] + (seconds["test"] if pair.predicts else 0))
        peaks.append(done.peak_kib)
        model = pair.model()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ConvergenceWarning)
            started = time.perf_counter()
            model.fit(features.exact if pair.double else features.x, features.y)
            predicted = model.predict(features.x_test) if pair.predicts else None
            their_seconds.append(time.perf_counter() - started)
        if any(issubclass(warning.category, ConvergenceWarning) for warning in warned):
            star = " *"
        if their_seconds[-1] > LONG:
            break
    if predicted is None:
        predicted = model.predict(features.x_test)
    accuracy = (predicted == features.y_test).mean()
    equal = (predicted == features.predictions(run)).mean()
    objectives, coefficients = agreement(pair, features, run, model)
    ratios = [theirs / ours for ours, theirs in zip(own, their_seconds)]
    mine, other = statistics.median(own), statistics.median(their_seconds)
    return (
        f"| {pair.name} | `{pair.counterpart}`{star} | {done.figures['top1']:.3f} | {accuracy:.3f} | {equal:.3f} | {objectives} "
        f"| {coefficients} | {mine:.3g} | {other:.3g} | {statistics.median(ratios):.1f} "
        f"| {min(ratios):.1f} to {max(ratios):.1f} | {features.times(max(peaks))} |"
    )


def agreement(pair, features, run, model):
    """The cells of objectives and coefficients. With two classes, theirs has one plane: there they stay empty."""
    objectives, coefficients = "- | - | -", "-"
    if features.classes == 2 or not (pair.objective or pair.closed):
        return objectives, coefficients
    tensors = load_file(f"{run}/model.safetensors")
    weight, bias = (tensors[name].astype(np.float64) for name in ("weight", "bias"))
    if pair.objective:
        strength = pair.strength or model.alpha_
        values = []
        for w, b in ((weight, bias), (model.coef_.astype(np.float64), model.intercept_.astype(np.float64))):
            values.append(pair.objective(features.exact @ w.T + b, w, b, features.y, strength))
        objectives = f"{values[0]:.4f} | {values[1]:.4f} | {values[0] / values[1] - 1:+.1e}"
    if pair.closed:
        theirs = pair.model().fit(features.exact, features.y).coef_
        # What is added to all classes alike changes no prediction.
        weight, theirs = weight - weight.mean(axis=0), theirs - theirs.mean(axis=0)
        coefficients = f"{np.abs(weight - theirs).max() / np.abs(theirs).max():.1e}"
    return objectives, coefficients
