"""Golden files for `svm` with `multi_class = "crammer-singer"`: scikit-learn's LinearSVC on small data sets.

Writes scikit-learn.safetensors beside this file. The names of the tensors are the cases: SET.features, SET.labels, and
SET.CASE.weight and so on.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.svm import LinearSVC

HERE = Path(__file__).parent


def samples(seed, counts, width):
    """Features as from a ReLU, of unequal scales, in classes that overlap."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), width))
    scales = np.exp(0.5 * random.normal(size=width))
    features = np.maximum(0, (centres[labels] + 2 * random.normal(size=(len(labels), width)) + 1) * scales)
    return features.astype(np.float32), labels.astype(np.uint32)


SETS = {
    "two": samples(0, [33, 27], 12),
    "three": samples(1, [30, 30, 30], 12),
    "seven": samples(2, [12] * 7, 20),
    "wide": samples(3, [8, 9, 10], 40),
    "unbalanced": samples(4, [55, 12, 5], 12),
}


def crammer_singer(features, labels, C, class_weight=None, intercept_scaling=1.0):
    model = LinearSVC(
        multi_class="crammer_singer",
        C=C,
        class_weight=class_weight,
        intercept_scaling=intercept_scaling,
        tol=1e-7,
        max_iter=3_000_000,
        random_state=0,
    )
    x = features.astype(np.float64)
    model.fit(x, labels)
    assert model.n_iter_ < model.max_iter, "LIBLINEAR has not converged"
    return {"weight": model.coef_, "bias": model.intercept_, "predictions": model.predict(x).astype(np.uint32)}


out = {}
for name, (features, labels) in SETS.items():
    values = {"": {"features": features, "labels": labels}}
    for C in (0.01, 1.0):
        values[f"{C}-none-1.0."] = crammer_singer(features, labels, C)
    values["0.1-balanced-1.0."] = crammer_singer(features, labels, 0.1, class_weight="balanced")
    values["0.1-none-10.0."] = crammer_singer(features, labels, 0.1, intercept_scaling=10.0)
    for case, tensors in values.items():
        out.update({f"{name}.{case}{key}": np.ascontiguousarray(value) for key, value in tensors.items()})
    print(name, flush=True)
path = HERE / "scikit-learn.safetensors"
save_file(dict(sorted(out.items())), path)
print(f"{path}: {len(out)} tensors, {path.stat().st_size} bytes")
