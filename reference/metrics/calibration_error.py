"""The calibration error by numpy, which scikit-learn does not have."""

import numpy as np


def calibration_error(probabilities, labels, bins=15):
    """Guo et al. 2017, equation 3, with bins (lower, upper].

    As in their code, edges are of the probabilities' own precision, single: a confidence of 1/5 is on an edge.
    """
    assert probabilities.dtype == np.float32
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    edges = (np.arange(bins + 1) / bins).astype(np.float32)
    confidence_f64 = confidence.astype(np.float64)
    error = 0.0
    for lower, upper in zip(edges, edges[1:]):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).mean()
            error += inside.mean() * abs(accuracy - confidence_f64[inside].mean())
    return error
