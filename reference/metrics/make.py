"""Figures of a test by scikit-learn, and the calibration error by numpy: metrics.json."""

import json
from pathlib import Path

import numpy as np
from calibration_error import calibration_error
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

HERE = Path(__file__).parent


def case(seed, samples, classes, sharpness, missing=()):
    random = np.random.RandomState(seed)
    logits = (random.randn(samples, classes) * sharpness).astype(np.float32)
    present = [c for c in range(classes) if c not in missing]
    labels = random.choice(present, samples)
    # Half of the samples are predicted well.
    for i in range(0, samples, 2):
        logits[i, labels[i]] += 2 * sharpness
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)
    predicted = logits.argmax(axis=1)
    return {
        "classes": classes,
        "logits": [float(v) for v in logits.ravel()],
        "labels": labels.tolist(),
        "top1": float((predicted == labels).mean()),
        "top5": 1.0 if classes <= 5 else float(top_k_accuracy_score(labels, logits, k=5, labels=range(classes))),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "log_loss": float(log_loss(labels, probabilities, labels=range(classes))),
        "ece": float(calibration_error(probabilities.astype(np.float64), labels)),
    }


cases = [
    case(0, 40, 3, 1.0),
    case(1, 60, 8, 2.0),
    case(2, 25, 2, 0.3),
    # A class that no sample has, and one that may never be predicted.
    case(3, 30, 6, 1.0, missing=(0, 4)),
    # So sharp that probabilities round to 0 and 1: log_loss clips them.
    case(4, 30, 4, 60.0),
    case(5, 1, 12, 1.0),
]
(HERE / "metrics.json").write_text(json.dumps(cases) + "\n")
print("reference/metrics/metrics.json:", len(cases), "cases")
