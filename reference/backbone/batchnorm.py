"""batchnorm.json: what PyTorch's BatchNorm makes of channels whose variance is small, in double precision.

"running": y for a value x of each channel by running statistics, variances from 0 on.
"batch": by the batch's own statistics, values [N * H * W, C] channel by channel of each position: y without and with a value added and a
ReLU, the derivatives by x, γ and β for a given one by y (before the sum and the ReLU), and the running statistics before and after.
The channels are all alike, spread by 1e-4, by 3e-3 and by 1, and far from 0 with a spread of 0.1.
"""

import json
from pathlib import Path

import numpy as np
import torch
from formula import uniform

HERE = Path(__file__).parent
VARIANCES = [0, 1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 1, 100]
SPREADS = [(0.25, 0), (0.5, 1e-4), (-0.5, 3e-3), (0.125, 1), (300, 0.1)]
POSITIONS = (2, 3, 2)


def drawn(name, count):
    return torch.from_numpy(uniform(f"batchnorm.{name}", count)).double()


def listed(**values):
    return {name: value.flatten().tolist() for name, value in values.items()}


def running():
    count = len(VARIANCES)
    variance = torch.tensor(VARIANCES, dtype=torch.float32).double()
    x, mean, gamma, beta = (drawn(name, count) for name in ("x", "mean", "gamma", "beta"))
    y = torch.nn.functional.batch_norm(x[None], mean, variance, gamma, beta)
    return listed(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, y=y)


def batch():
    channels, positions = len(SPREADS), int(np.prod(POSITIONS))
    centre, spread = torch.tensor(SPREADS, dtype=torch.float32).T
    x = (centre + spread * drawn("values", positions * channels).reshape(positions, channels).float()).double()
    other, by_y = (drawn(name, x.numel()).reshape(x.shape) for name in ("other", "by_y"))
    bn = torch.nn.BatchNorm1d(channels).double()
    before = {"mean_before": drawn("running_mean", channels), "variance_before": 1 + drawn("running_var", channels) / 2}
    bn.running_mean.copy_(before["mean_before"])
    bn.running_var.copy_(before["variance_before"])
    with torch.no_grad():
        bn.weight.copy_(1 + drawn("scale", channels) / 4)
        bn.bias.copy_(drawn("shift", channels))
    xs = x.clone().requires_grad_()
    y = bn(xs)
    (y * by_y).sum().backward()
    return listed(
        x=x, other=other, by_y=by_y, gamma=bn.weight.detach(), beta=bn.bias.detach(), y=y.detach(),
        added=torch.relu(y.detach() + other), by_x=xs.grad, by_gamma=bn.weight.grad, by_beta=bn.bias.grad,
        mean_after=bn.running_mean, variance_after=bn.running_var, **before,
    )


def make_batchnorm():
    table = {"running": running(), "batch": batch()}
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
    (HERE / "batchnorm.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    make_batchnorm()
