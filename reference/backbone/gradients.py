"""gradients.safetensors: the derivatives of a weighted sum of torchvision's features by every parameter of its ResNets, in
double precision, with BatchNorm by the running statistics ("frozen") and by the batch's ("train").

Weights, pixels and the weights of the sum come from the formula, but that for "train" the last BatchNorm of a
block is an eighth of it: otherwise a rounding that turns a ReLU over grows so far through a hundred batch statistics that
PyTorch's single precision is off from its double precision by 0.03 (101 layers) and 0.15 (152).

For each depth, size and mode there is a row for each parameter, in torchvision's order: 8 values at positions from the same
formula and the largest magnitude; for "train" a row for each BatchNorm, too: 4 values of the running mean and 4 of the
running variance after the step.
"""

from pathlib import Path

import numpy as np
import torch
from formula import draws, pixels, torchvisions_last, uniform
from networks import BLOCKS, normalised, torchvisions
from safetensors.numpy import save_file

HERE = Path(__file__).parent
# photos, height, width: even, odd, not square
SIZES = [(2, 64, 64), (2, 75, 75), (2, 70, 101)]


def sampled(name, values, count):
    return values.flatten()[draws(f"positions.{name}", count) % np.uint64(values.size)]


def damp(model, depth):
    with torch.no_grad():
        for name, values in model.named_parameters():
            if torchvisions_last(depth) in name and name.endswith("weight"):
                values /= 8


def features(model, photos):
    xs = model.maxpool(model.relu(model.bn1(model.conv1(photos))))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        xs = stage(xs)
    return xs.mean((2, 3))


@torch.enable_grad()
def make_gradients():
    torch.set_default_dtype(torch.float64)
    golden = {}
    for depth in BLOCKS:
        for size in SIZES:
            for mode in ("frozen", "train"):
                model = torchvisions(depth).double().train(mode == "train")
                if mode == "train":
                    damp(model, depth)
                out = features(model, normalised(pixels(*size)).double())
                factors = uniform("factors", out.numel()).astype(np.float64).reshape(out.shape)
                (out * torch.from_numpy(factors)).sum().backward()
                rows = [
                    np.append(sampled(name, p.grad.numpy(), 8), p.grad.abs().max())
                    for name, p in model.named_parameters()
                    if not name.startswith("fc.")
                ]
                key = f"{depth}.{size[1]}x{size[2]}.{mode}"
                golden[key] = np.stack(rows)
                golden[f"{key}.features"] = out.detach().numpy()
                if mode == "train":
                    state = model.state_dict()
                    golden[f"{key}.running"] = np.stack([
                        np.concatenate([sampled(f"{name}.{leaf}", state[f"{name}.{leaf}"].numpy(), 4)
                                        for leaf in ("running_mean", "running_var")])
                        for name, module in model.named_modules()
                        if isinstance(module, torch.nn.BatchNorm2d)
                    ])
    save_file({name: values.astype(np.float32) for name, values in golden.items()}, HERE / "gradients.safetensors")
    torch.set_default_dtype(torch.float32)
