"""Golden files for weights rounded to bf16 by GPTQ (Frantar et al. 2022): golden.safetensors.

The algorithm as the paper states it, with the inverse of the Gram matrix and its Cholesky factor; PyTorch rounds. The names
of the tensors are CASE.samples [S, C], CASE.gram [C, C], CASE.weights and CASE.rounded [R, C].
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).parent
DAMPING = 1e-3


def bf16(values):
    return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).double().numpy()


def gptq(weights, gram):
    order = np.argsort(-np.diag(gram), kind="stable")
    h = gram[np.ix_(order, order)] + DAMPING * np.diag(gram).mean() * np.eye(len(gram))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    left = weights[:, order].copy()
    rounded = np.empty_like(weights)
    for j in range(len(gram)):
        q = bf16(left[:, j])
        left[:, j:] -= np.outer((left[:, j] - q) / upper[j, j], upper[j, j:])
        rounded[:, order[j]] = q
    return rounded


def case(seed, rows, columns, samples, rank, dead=()):
    """Inputs as after a ReLU, mixed of `rank` causes, of unequal scales; weights as in a trained network."""
    random = np.random.RandomState(seed)
    causes = random.normal(size=(samples, rank))
    mixed = causes @ random.normal(size=(rank, columns)) + 0.3 * random.normal(size=(samples, columns))
    x = np.maximum(0, (mixed + 1) * np.exp(0.5 * random.normal(size=columns)))
    x[:, list(dead)] = 0
    x = x.astype(np.float32)
    gram = x.astype(np.float64).T @ x.astype(np.float64)
    weights = random.normal(size=(rows, columns)) * 0.05
    return {"samples": x, "gram": gram, "weights": weights, "rounded": gptq(weights, gram)}


cases = {
    "small": case(0, 6, 24, 40, 24),
    "correlated": case(1, 16, 64, 300, 8),
    # Fewer samples than columns, odd sizes, channels that are always 0.
    "dead": case(2, 5, 13, 9, 4, dead=(3, 7)),
}
tensors = {f"{name}.{key}": np.ascontiguousarray(value) for name, c in cases.items() for key, value in c.items()}
save_file(tensors, HERE / "golden.safetensors")
print("reference/rounding/golden.safetensors:", ", ".join(cases))
