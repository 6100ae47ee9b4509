"""Figures of a test by scikit-learn, and what it does not have or has otherwise by numpy: metrics.json, probabilities.json.

scikit-learn has no calibration error, and its top_k_accuracy_score puts the higher number first among equals where headstock,
like its argmax and numpy's, puts the lower one first.
"""

import json
from pathlib import Path

import numpy as np
from calibration_error import calibration_error
from sklearn.metrics import confusion_matrix, f1_score, log_loss, top_k_accuracy_score

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
        "ece": float(calibration_error(probabilities, labels)),
    }


def of_probabilities(probabilities, labels, classes):
    """Figures of probabilities as they are, ties and all."""
    probabilities = np.array(probabilities, dtype=np.float32)
    labels = np.array(labels)
    predicted = probabilities.argmax(axis=1)
    first = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return {
        "classes": classes,
        "probabilities": [float(v) for v in probabilities.ravel()],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "confusion": confusion_matrix(labels, predicted, labels=range(classes)).tolist(),
        "top1": float((predicted == labels).mean()),
        "top5": float((first == labels[:, None]).any(axis=1).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "log_loss": float(log_loss(labels, probabilities, labels=range(classes))),
        "ece": float(calibration_error(probabilities, labels)),
    }


def votes(seed, samples, classes, count, missing=()):
    """Shares of `count` votes: many ties, and with 15 votes every confidence on the edge of a bin."""
    random = np.random.RandomState(seed)
    shares = random.multinomial(count, [1 / classes] * classes, size=samples)
    labels = random.choice([c for c in range(classes) if c not in missing], samples)
    shares[::3] = 0
    shares[np.arange(0, samples, 3), labels[::3]] = count
    return (shares / count).astype(np.float32), labels


def main():
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

    cases = {
        "votes of 15 on the edges of the bins": of_probabilities(*votes(0, 40, 4, 15), 4),
        "votes of 5 of 8 classes with ties": of_probabilities(*votes(1, 40, 8, 5), 8),
        "votes of 4 of 7 classes, ties at the fifth place": of_probabilities(*votes(2, 40, 7, 4), 7),
        "two classes half and half": of_probabilities([[0.5, 0.5]] * 3 + [[0.2, 0.8]], [0, 1, 1, 0], 2),
        "one sample": of_probabilities([[0.2, 0.4, 0.4]], [2], 3),
        "all equal": of_probabilities([[1 / 8] * 8] * 8, range(8), 8),
        # Class 1 is predicted and never true: F1 0. Class 3 is neither: it does not count. Class 4 is true and never predicted: 0.
        "absent classes": of_probabilities(
            [
                [0.7, 0.1, 0.1, 0.0, 0.1],
                [0.6, 0.2, 0.1, 0.1, 0.0],
                [0.1, 0.8, 0.1, 0.0, 0.0],
                [0.0, 0.1, 0.9, 0.0, 0.0],
                [0.0, 0.2, 0.7, 0.0, 0.1],
                [0.5, 0.2, 0.1, 0.0, 0.2],
            ],
            [0, 0, 2, 2, 2, 4],
            5,
        ),
    }
    (HERE / "probabilities.json").write_text(json.dumps(cases) + "\n")
    print("reference/metrics/probabilities.json:", len(cases), "cases")


main()
