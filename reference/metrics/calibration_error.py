"""The calibration error by numpy, which scikit-learn does not have."""

import numpy as np


def calibration_error(probabilities, labels, bins=15):
    """Guo et al. 2017, equation 3, with bins (lower, upper]."""
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for lower, upper in zip(edges, edges[1:]):
        inside = (confidence > lower) & (confidence <= upper)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).mean()
            error += inside.mean() * abs(accuracy - confidence[inside].mean())
    return error
