"""Compares a head that headstock fitted with scikit-learn's on the same features: objectives and accuracies.

    headstock extract --out features.npz ...
    headstock train --head linear --run run ...
    python reference/heads/parity.py features.npz run/model.safetensors linear 1.0

The features must be those that the head was fitted on: all photos of the training folder.
"""

import sys
import time

import numpy as np
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC


def logistic(x, y, w, b, C):
    z = x @ w.T + b
    top = z.max(axis=1)
    losses = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(y)), y]
    return C * losses.sum() + 0.5 * (w**2).sum()


def squared_hinge(x, y, w, b, C):
    signs = np.where(y[:, None] == np.arange(len(b)), 1, -1)
    slack = np.maximum(0, 1 - signs * (x @ w.T + b))
    return C * (slack**2).sum() + 0.5 * ((w**2).sum() + (b**2).sum())


def main():
    features, model, head, C = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    data = np.load(features)
    x, y = data["features"].astype(np.float64), data["labels"].astype(np.int64)
    if y.max() < 2:
        sys.exit("scikit-learn has one plane for two classes: compare three or more")
    tensors = load_file(model)
    w, b = tensors["weight"].astype(np.float64), tensors["bias"].astype(np.float64)
    if head == "linear":
        objective, oracle = logistic, LogisticRegression(C=C, tol=1e-6, max_iter=10_000)
    else:
        objective, oracle = squared_hinge, LinearSVC(C=C, tol=1e-6, max_iter=1_000_000)
    start = time.time()
    oracle.fit(x, y)
    seconds = time.time() - start
    ours = objective(x, y, w, b, C)
    theirs = objective(x, y, oracle.coef_, oracle.intercept_, C)
    accuracy = (np.argmax(x @ w.T + b, axis=1) == y).mean()
    print(f"headstock     objective {ours:.6f}, accuracy on these {accuracy:.4f}")
    print(f"scikit-learn  objective {theirs:.6f}, accuracy on these {oracle.score(x, y):.4f}, {seconds:.1f} s")
    print(f"relative difference {ours / theirs - 1:.1e}")


main()
