"""Golden file for the heads that learn by gradients: PyTorch in float64, with every key of `linear` (adam), `mlp` and `cosine`.

Writes fits.toml beside this file: two sets of samples, and for each case the head's kind and table, the tensors that the fit
ends with and a row of history per epoch. What is random is made of the seed as headstock makes it, by SplitMix64: the order of
the samples, the weights to start from, the units that dropout leaves out, and which samples are held out.
"""

import math
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

HERE = Path(__file__).parent
MASK = 2**64 - 1
# Adam takes a gradient that is 0 but for rounding for a whole step: each case has the first seed, from its own on, with which
# float32 leads where float64 does.
ROUNDING = 2e-5


class Keyed:
    """Random bits of a key (https://prng.di.unimi.it/splitmix64.c)."""

    def __init__(self, *key):
        self.state = 0
        for part in key:
            self.state = self.next() ^ part

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self):
        return (self.next() >> 11) * 2.0**-53

    def shuffled(self, items):
        items = sorted(items)
        for last in range(len(items) - 1, 0, -1):
            other = (self.next() * (last + 1)) >> 64
            items[last], items[other] = items[other], items[last]
        return items


def samples(seed, counts, width):
    """Features as from a ReLU, of unequal scales, in classes that overlap."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), width))
    scales = np.exp(random.normal(size=width) / 2)
    features = np.maximum(0, (centres[labels] + random.normal(size=(len(labels), width)) + 1) * scales)
    return np.round(features, 3).astype(np.float32), labels


SETS = {"two": samples(0, [27, 13], 4), "three": samples(1, [22, 6, 12], 5)}
DEFAULTS = {
    "linear": {"C": 1.0, "epochs": 9, "batch_size": 128, "lr": 1e-3, "weight_decay": 0.0},
    "mlp": {"hidden": [512], "dropout": 0.5, "lr": 1e-3, "weight_decay": 0.01, "epochs": 15, "batch_size": 128},
    "cosine": {"scale": 20.0, "lr": 3e-3, "weight_decay": 0.01, "epochs": 15, "batch_size": 128},
}
COMMON = {"seed": 0, "class_weight": "none", "standardize": False, "validation": 0.0, "patience": 5}
CASES = {
    "linear": (
        {"solver": "adam", "C": 0.1, "epochs": 3, "batch_size": 16, "lr": 0.03, "seed": 3},
        [{"C": 2.0}, {"epochs": 5}, {"batch_size": 7}, {"lr": 0.005}, {"seed": 4}],
    ),
    "mlp": (
        {"hidden": [6, 5], "dropout": 0.3, "lr": 0.02, "weight_decay": 0.2, "epochs": 4, "batch_size": 3, "seed": 3},
        [
            {"hidden": [4]},
            {"dropout": 0.0},
            {"dropout": 0.6},
            {"lr": 0.005},
            {"weight_decay": 0.0},
            {"epochs": 6},
            {"batch_size": 1},
            {"batch_size": 128},
            {"seed": 4},
            {"validation": 0.2},
            {"validation": 0.4, "epochs": 30, "patience": 2},
            {"validation": 0.4, "epochs": 30, "patience": 5},
            {"validation": 0.4, "epochs": 30, "patience": 5, "class_weight": "balanced"},
        ],
    ),
    "cosine": (
        {"scale": 8.0, "lr": 0.05, "weight_decay": 0.2, "epochs": 4, "batch_size": 3, "seed": 3},
        [
            {"scale": 16.0},
            {"lr": 0.01},
            {"weight_decay": 0.0},
            {"epochs": 6},
            {"batch_size": 1},
            {"batch_size": 128},
            {"seed": 4},
            {"validation": 0.2},
            {"validation": 0.4, "epochs": 30, "patience": 2},
            {"validation": 0.4, "epochs": 30, "patience": 5},
        ],
    ),
}


def parameter(values):
    return torch.nn.Parameter(torch.tensor(np.asarray(values, np.float32), dtype=torch.get_default_dtype()))


class Linear:
    def __init__(self, c, width, classes):
        self.parameters = {"weight": parameter(np.zeros((classes, width))), "bias": parameter(np.zeros(classes))}

    def logits(self, x, step=None):
        return x @ self.parameters["weight"].T + self.parameters["bias"]

    def penalty(self):
        """As LogisticRegression's: two classes have one plane."""
        weight = self.parameters["weight"]
        plane = weight[1] - weight[0] if len(weight) == 2 else weight
        return (plane**2).sum() / 2


class Mlp:
    def __init__(self, c, width, classes):
        self.c, self.parameters = c, {}
        for layer, units in enumerate(c["hidden"]):
            random = Keyed(c["seed"], layer)
            uniform = [(2 * random.uniform() - 1) / math.sqrt(width) for _ in range(units * (width + 1))]
            self.parameters[f"layers.{layer}.weight"] = parameter(np.reshape(uniform[: units * width], (units, width)))
            self.parameters[f"layers.{layer}.bias"] = parameter(uniform[units * width :])
            width = units
        self.parameters[f"layers.{len(c['hidden'])}.weight"] = parameter(np.zeros((classes, width)))
        self.parameters[f"layers.{len(c['hidden'])}.bias"] = parameter(np.zeros(classes))

    def left(self, step, layer, rows, units):
        """Of each pair of units, 32 bits each say whether it is left out."""
        part = self.c["dropout"]
        mask = np.empty((rows, units))
        for row in range(rows):
            random = Keyed(self.c["seed"], step, layer, row)
            bits = [half for _ in range((units + 1) // 2) for word in [random.next()] for half in (word & (2**32 - 1), word >> 32)]
            mask[row] = [0 if word < int(part * 2**32) else 1 / (1 - part) for word in bits[:units]]
        return torch.tensor(mask, dtype=torch.get_default_dtype())

    def logits(self, x, step=None):
        for layer in range(len(self.c["hidden"])):
            x = torch.relu(x @ self.parameters[f"layers.{layer}.weight"].T + self.parameters[f"layers.{layer}.bias"])
            if step is not None and self.c["dropout"]:
                x = x * self.left(step, layer, *x.shape)
        last = len(self.c["hidden"])
        return x @ self.parameters[f"layers.{last}.weight"].T + self.parameters[f"layers.{last}.bias"]


class Cosine:
    def __init__(self, c, width, classes):
        diagonal = np.full((classes, width), 1 / math.sqrt(width))
        self.parameters = {"weight": parameter(diagonal), "log_scale": parameter(math.log(c["scale"]))}

    def logits(self, x, step=None):
        return self.parameters["log_scale"].exp() * normalize(x) @ normalize(self.parameters["weight"]).T


def hold_out(labels, fraction, seed):
    """A rounded fraction of each class, those whose numbers come first in an order of the seed's."""
    held = []
    for label in np.unique(labels):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda row: Keyed(seed, row).next())
        held += rows[: min(math.floor(len(rows) * fraction + 0.5), len(rows) - 1)]
    return sorted(held)


def rate(done, steps):
    """Up for a tenth of the steps, then down along a cosine; no step has the rate 0."""
    at, end, warm = done + 1, steps + 1, steps // 10
    return at / warm if at < warm else (1 + math.cos(math.pi * (at - warm) / (end - warm))) / 2


def fit(kind, table, features, labels):
    c = COMMON | DEFAULTS[kind] | table
    x, n = features.astype(np.float64), len(labels)
    mean, deviation = (x.mean(axis=0), x.std(axis=0)) if c["standardize"] else (0.0, 1.0)
    x = torch.tensor((x - mean) / deviation, dtype=torch.get_default_dtype())
    y = torch.tensor(labels)
    counts = torch.bincount(y)
    weights = n / (len(counts) * counts) if c["class_weight"] == "balanced" else torch.ones(len(counts))
    model = {"linear": Linear, "mlp": Mlp, "cosine": Cosine}[kind](c, x.shape[1], len(counts))
    groups = [
        {"params": [p], "weight_decay": c["weight_decay"] if p.dim() else 0.0} for p in model.parameters.values()
    ]
    optimizer = torch.optim.AdamW(groups, lr=c["lr"])
    held = hold_out(labels, c["validation"], c["seed"]) if c["validation"] else []
    rows = [row for row in range(n) if row not in held]
    size = min(c["batch_size"], len(rows)) if kind == "linear" else min(c["batch_size"], -(-n // 16))
    steps = c["epochs"] * -(-len(rows) // size)
    done, history, best = 0, [], None
    for epoch in range(c["epochs"]):
        order, total = Keyed(c["seed"], epoch).shuffled(rows), 0.0
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            optimizer.zero_grad()
            losses = cross_entropy(model.logits(x[batch], done), y[batch], reduction="none") * weights[y[batch]]
            loss = losses.mean()
            if kind == "linear":
                loss = loss + model.penalty() / (c["C"] * float(weights[y].sum()))
            else:
                for group in optimizer.param_groups:
                    group["lr"] = c["lr"] * rate(done, steps)
            loss.backward()
            optimizer.step()
            done, total = done + 1, total + losses.sum().item()
        history.append([epoch + 1, total / len(rows)])
        if held:
            with torch.no_grad():
                found = model.logits(x[held])
                losses = cross_entropy(found, y[held], reduction="none") * weights[y[held]]
            history[-1] += [losses.mean().item(), (found.argmax(1) == y[held]).double().mean().item()]
            if best is None or history[-1][2] < best[0]:
                best = history[-1][2], epoch, {k: v.detach().numpy().copy() for k, v in model.parameters.items()}
            if epoch - best[1] >= c["patience"]:
                break
    tensors = best[2] if best else {k: v.detach().numpy().copy() for k, v in model.parameters.items()}
    if c["standardize"]:
        # Of the features as they come.
        prefix = "layers.0." if kind == "mlp" else ""
        tensors[f"{prefix}weight"] = tensors[f"{prefix}weight"] / deviation
        tensors[f"{prefix}bias"] = tensors[f"{prefix}bias"] - tensors[f"{prefix}weight"] @ mean
    return tensors, history


def fit_in(dtype, *case):
    torch.set_default_dtype(dtype)
    return fit(*case)


def off(found, expected):
    """By how much a fit in float32 is off, beside the largest value of each tensor."""
    tensors = [np.abs(found[0][key] - value).max() / np.abs(value).max() for key, value in expected[0].items()]
    same = len(found[1]) == len(expected[1])
    return max(tensors + [np.abs(np.array(found[1]) - np.array(expected[1])).max()]) if same else np.inf


def toml(table):
    text = {str: '"{}"'.format, bool: lambda value: str(value).lower()}
    return "\n".join(f"{key} = {text.get(type(value), str)(value)}" for key, value in table.items())


def numbers(values):
    return "[" + ", ".join(f"{value:.8g}" if value % 1 else f"{value:.1f}" for value in np.ravel(values).tolist()) + "]"


lines = []
for name, (features, labels) in SETS.items():
    lines += [f"[set.{name}]", f"features = {numbers(features)}", f"labels = {labels.tolist()}", ""]
for kind, (base, changes) in CASES.items():
    shared = [{}, {"class_weight": "balanced"}] + ([] if kind == "cosine" else [{"standardize": True}])
    # The directions of cosines start as one: their scale has then a gradient of 0, to the bit where the shares are halves.
    for name in ("two",) if kind == "cosine" else ("two", "three"):
        features, labels = SETS[name]
        for change in shared + (changes if kind == "cosine" or name != "two" else []):
            table = base | change
            for seed in range(table["seed"], table["seed"] + 100):
                table["seed"] = seed
                rough, exact = (fit_in(dtype, kind, table, features, labels) for dtype in (torch.float32, torch.float64))
                if off(rough, exact) < ROUNDING:
                    break
            else:
                raise SystemExit(f"no seed is stable: {kind} {name} {change}")
            tensors, history = exact
            assert tomllib.loads(toml(table)) == table
            stopped = f", {len(history)} epochs" if "validation" in change else ""
            print(kind, name, change, seed, f"loss {history[-1][1]:.4f}{stopped}")
            lines += ["[[case]]", f'kind = "{kind}"', f'set = "{name}"', f"table = '''\n{toml(table)}'''"]
            lines += ["history = [" + ", ".join(numbers(row) for row in history) + "]"]
            lines += [f'tensors."{key}" = {numbers(value)}' for key, value in sorted(tensors.items())] + [""]
(HERE / "fits.toml").write_text("\n".join(lines))
print(f"{HERE / 'fits.toml'}: {(HERE / 'fits.toml').stat().st_size} bytes")
