"""Label issues and outliers by cleanlab, for reference/doctor/{probabilities,features}.safetensors and issues.json."""

import json
from pathlib import Path

import numpy as np
from cleanlab.count import compute_confident_joint, get_confident_thresholds, num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.outlier import OutOfDistribution
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def case(seed, samples, classes, noise, sharpness, rounded=None):
    """Probabilities of a head that is right most of the time, and labels of which a share is wrong."""
    random = np.random.default_rng(seed)
    true = random.integers(0, classes, samples)
    logits = random.normal(size=(samples, classes))
    logits[np.arange(samples), true] += sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if rounded is not None:
        probabilities = np.round(probabilities, rounded)
    flipped = random.random(samples) < noise
    labels = np.where(flipped, (true + random.integers(1, classes, samples)) % classes, true)
    labels[:classes] = np.arange(classes)
    return probabilities.astype(np.float32), labels


CASES = {
    "ten_classes": case(0, 500, 10, 0.05, 3.0),
    "two_classes": case(1, 200, 2, 0.2, 1.5),
    "unsure": case(2, 300, 5, 0.1, 0.5),
    "sure": case(3, 300, 40, 0.3, 6.0),
    "ties": case(4, 400, 4, 0.1, 2.0, rounded=1),
    "clean": case(5, 120, 6, 0.0, 5.0),
}


def issues(probabilities, labels):
    wide = probabilities.astype(np.float64)
    score = wide[np.arange(len(labels)), labels]
    # cleanlab's own ranking leaves open which of equals is first.
    ranked = sorted(range(len(labels)), key=lambda sample: (score[sample], sample))[: num_label_issues(labels, wide)]
    theirs = find_label_issues(
        labels, wide, filter_by="low_self_confidence", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert np.array_equal(score[theirs], score[ranked])
    return {
        "labels": labels.tolist(),
        "thresholds": get_confident_thresholds(labels, wide).tolist(),
        "joint": compute_confident_joint(labels, wide, calibrate=False).ravel().tolist(),
        "issues": [int(sample) for sample in ranked],
    }


def outliers():
    """Features in three clouds and a few far from all, and cleanlab's score of each; the lowest is the farthest."""
    random = np.random.default_rng(6)
    centres = random.normal(size=(3, 16))
    features = centres[random.integers(0, 3, 150)] + 0.3 * random.normal(size=(150, 16))
    features[:4] = random.normal(size=(4, 16)) * 2
    features = features.astype(np.float32)
    model = OutOfDistribution({"k": 10})
    scores = model.fit_score(features=features.astype(np.float64), verbose=False)
    return {"features": features, "scores": scores}


def main():
    cases = {name: issues(*values) for name, values in CASES.items()}
    assert all(cases[name]["issues"] for name in CASES if name != "clean")
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in cases.items()]
    (HERE / "issues.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    save_file({name: values[0] for name, values in CASES.items()}, HERE / "probabilities.safetensors")
    save_file(outliers(), HERE / "outliers.safetensors")
    for file in sorted(HERE.iterdir()):
        if file.suffix != ".py":
            print(f"reference/doctor/{file.name}: {file.stat().st_size} bytes")


main()
