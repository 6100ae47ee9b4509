"""Golden file for `linear` with absolute values in its penalty: scikit-learn's LogisticRegression by SAGA, to convergence.

Writes scikit-learn.safetensors beside this file: SET.features, SET.labels, and SET.RATIO.weight, SET.RATIO.bias; and
with another C and with class weights SET.RATIO-0.1.weight, SET.RATIO-balanced.weight and so on.

Two classes or an odd number of them: with an even number, a feature's weights can all move by the same amount between the two
in the middle, and neither the losses nor the sum of the absolute values change.
"""

import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent
# C and class_weight, the first as they come.
CASES = {"": (0.5, None), "-0.1": (0.1, None), "-balanced": (0.5, "balanced")}


def samples(seed, counts, width):
    """Features as from a ReLU, in classes that overlap."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), width))
    features = np.maximum(0, centres[labels] + 1.5 * random.normal(size=(len(labels), width)) + 1)
    return features.astype(np.float32), labels.astype(np.uint32)


out = {}
warnings.filterwarnings("ignore", module="sklearn")
for name, (features, labels) in {"two": samples(0, [33, 27], 12), "five": samples(1, [15, 20, 18, 12, 15], 16)}.items():
    out[f"{name}.features"], out[f"{name}.labels"] = features, labels
    for ratio in (1.0, 0.3):
        for case, (C, class_weight) in CASES.items():
            options = {"solver": "saga", "tol": 1e-13, "max_iter": 1_000_000, "random_state": 0}
            model = LogisticRegression(C=C, l1_ratio=ratio, class_weight=class_weight, **options)
            model.fit(features.astype(np.float64), labels)
            out[f"{name}.{ratio}{case}.weight"], out[f"{name}.{ratio}{case}.bias"] = model.coef_, model.intercept_
            zeros = (model.coef_ == 0).sum()
            print(name, ratio, C, class_weight, model.n_iter_, zeros, "weights of", model.coef_.size, "are 0")
save_file({key: np.ascontiguousarray(value) for key, value in sorted(out.items())}, HERE / "scikit-learn.safetensors")
