"""The whole course of a tuning, option by option, by PyTorch in float64: what `train/src/finetune/trainer` is held to.

A network that is small enough to be written down: five stages named as a ResNet's, each a product with 3 x 3 weights at every
position, BatchNorm and tanh, then the average over positions, and a linear head. Each case is a config (TOML), of which the keys of
`[tune]` are read here once more, with the defaults that docs/config.md gives them. What is random (the order of an epoch, the
renderings, what mixup and CutMix draw) is drawn as the project draws it, from SplitMix64 keyed by (seed, purpose, epoch or batch).
"""

import json
import math
import tomllib
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torchvision.transforms import v2

HERE = Path(__file__).parent
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]
HEIGHT, WIDTH, CHANNELS, CLASSES = 4, 5, 3, 4
# By photo. Those of the test part (1, 8, 15) are neither learned from nor judged by.
LABELS = [0, 1, 2, 0, 3, 0, 1, 0, 2, 0, 1, 0, 3, 0, 2, 1, 0, 1, 0, 2, 3, 0, 1, 0]
FIT = [0, 2, 3, 4, 5, 6, 7, 10, 11, 13, 14, 17, 20, 22]
HELD_OUT = [9, 12, 16, 18, 19, 21, 23]
ORDER, VIEW, MIXING = 1, 2, 3
DEFAULTS = {
    "epochs": 6,
    "batch_size": 16,
    "accumulate": 1,
    "optimizer": "sgd",
    "layer_decay": 1.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup": 0.0,
    "step_epochs": 2,
    "step_gamma": 0.1,
    "label_smoothing": 0.1,
    "class_weight": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "clip_norm": None,
    "ema": None,
    "batch_norm": "frozen",
    "unfreeze": None,
    "views": "kept",
    "validation": 0.1,
    "patience": None,
    "start": "fitted",
    "seed": 0,
}
# A case each: its name, and its `[tune]` (or more). A step is plain SGD, and nothing is held out, where it does not say so.
PLAIN = {
    "from": '"layer4"',
    "epochs": "3",
    "batch_size": "4",
    "lr": "0.2",
    "backbone_lr": "0.1",
    "momentum": "0",
    "weight_decay": "0",
    "schedule": '"constant"',
    "label_smoothing": "0",
    "validation": "0",
}
CASES = {
    "plain": {},
    "head-rate": {"lr": "0.05"},
    "backbone-rate": {"backbone_lr": "0.03"},
    "backbone-rate-left-out": {"backbone_lr": None},
    "backbone-stays": {"backbone_lr": "0"},
    "epochs": {"epochs": "2"},
    "batch": {"batch_size": "5"},
    "seed": {"seed": "7"},
    "momentum": {"momentum": "0.8"},
    "nesterov": {"momentum": "0.7", "nesterov": "true"},
    "decay": {"weight_decay": "0.3"},
    "adamw": {"optimizer": '"adamw"', "lr": "0.02", "backbone_lr": "0.05", "weight_decay": "0.4"},
    "adamw-rates-left-out": {"optimizer": '"adamw"', "lr": None, "backbone_lr": None},
    "layer3": {"from": '"layer3"'},
    "layer2": {"from": '"layer2"', "layer_decay": "0.5"},
    "layer1": {"from": '"layer1"', "layer_decay": "0.7"},
    "stem": {"from": '"stem"', "layer_decay": "0.8"},
    "warm-up": {"warmup": "1.5"},
    "step": {"epochs": "4", "schedule": '"step"', "step_epochs": "1", "step_gamma": "0.4"},
    "step-two": {"epochs": "5", "schedule": '"step"', "step_gamma": "0.3", "warmup": "0.5"},
    "cosine": {"schedule": '"cosine"'},
    "cosine-warm": {"schedule": '"cosine"', "warmup": "1"},
    "one-cycle": {"schedule": '"one-cycle"'},
    "one-cycle-early": {"schedule": '"one-cycle"', "warmup": "0.5"},
    "smoothing": {"label_smoothing": "0.3"},
    "class-weight": {"class_weight": '"balanced"'},
    "mixup": {"mixup": "0.4"},
    "cutmix": {"cutmix": "0.9", "seed": "3"},
    "mixup-or-cutmix": {"mixup": "0.8", "cutmix": "1", "seed": "1"},
    "clip": {"clip_norm": "0.15"},
    "ema": {"ema": "0.4"},
    "accumulate": {"accumulate": "3"},
    "accumulate-clip": {"accumulate": "3", "clip_norm": "0.1", "class_weight": '"balanced"', "label_smoothing": "0.2"},
    "accumulate-schedule": {"accumulate": "3", "schedule": '"cosine"', "warmup": "1", "momentum": "0.9"},
    "batch-norm": {"batch_norm": '"train"', "from": '"layer3"'},
    "batch-norm-ema": {"batch_norm": '"train"', "ema": "0.5", "accumulate": "2"},
    "unfreeze": {"from": '"layer2"', "epochs": "5", "unfreeze": "2", "momentum": "0.5", "batch_norm": '"train"'},
    "views": {"seed": "2", "features": "views = 2"},
    "views-more-than-epochs": {"features": "views = 4"},
    "fresh": {"views": '"fresh"', "features": "views = 0"},
    "held-out": {"lr": "2", "backbone_lr": "1", "epochs": "5", "validation": "0.25", "ema": "0.5"},
    "held-out-random": {"lr": "4", "backbone_lr": "1", "validation": "0.25", "start": '"random"'},
    "patience": {"lr": "2", "backbone_lr": "1", "epochs": "12", "validation": "0.25", "patience": "2"},
    "patience-from-the-start": {"lr": "30", "epochs": "9", "validation": "0.25", "patience": "3"},
    "held-out-while-unfreezing": {"from": '"layer3"', "unfreeze": "1", "validation": "0.25", "batch_norm": '"train"'},
    "all-of-sgd": {
        "from": '"layer1"',
        "epochs": "4",
        "batch_size": "3",
        "accumulate": "2",
        "momentum": "0.85",
        "nesterov": "true",
        "layer_decay": "0.6",
        "weight_decay": "0.05",
        "schedule": '"one-cycle"',
        "label_smoothing": "0.15",
        "class_weight": '"balanced"',
        "mixup": "0.3",
        "cutmix": "0.5",
        "clip_norm": "0.4",
        "ema": "0.6",
        "batch_norm": '"train"',
        "unfreeze": "1",
        "validation": "0.25",
        "seed": "11",
        "features": "views = 1",
    },
    "all-of-adamw": {
        "from": '"stem"',
        "optimizer": '"adamw"',
        "lr": "0.03",
        "backbone_lr": None,
        "weight_decay": "0.1",
        "schedule": '"step"',
        "step_epochs": "1",
        "warmup": "0.5",
        "label_smoothing": None,
        "ema": "0.3",
        "validation": "0.25",
        "patience": "1",
    },
    "defaults": {key: None for key in PLAIN if key != "from"},
}
MASK = 2**64 - 1


class Keyed:
    """SplitMix64 from a key (headstock's `heads/src/random.rs`)."""

    def __init__(self, *key):
        self.state = 0
        for part in key:
            self.state = self.next() ^ part

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() * n >> 64

    def uniform(self):
        return (self.next() >> 11) * 2.0**-53

    def shuffle(self, items):
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def normal(self):
        radius = math.sqrt(-2 * math.log(1 - self.uniform()))
        return radius * math.cos(2 * math.pi * self.uniform())

    def log_gamma(self, shape):
        """Marsaglia and Tsang's."""
        if shape < 1:
            larger = self.log_gamma(shape + 1)
            return larger + math.log(1 - self.uniform()) / shape
        d = shape - 1 / 3
        c = 1 / math.sqrt(9 * d)
        while True:
            x = self.normal()
            v = (1 + c * x) ** 3
            u = 1 - self.uniform()
            if v > 0 and math.log(u) < 0.5 * x * x + d - d * v + d * math.log(v):
                return math.log(d * v)

    def beta(self, alpha):
        own, other = self.log_gamma(alpha), self.log_gamma(alpha)
        return 1 / (1 + math.exp(other - own))


def activations(photo, rendering):
    """`[C, H, W]`; the formula runs over a photo's values as they lie in memory, channels last."""
    i = np.arange(HEIGHT * WIDTH * CHANNELS)
    values = ((photo * 37 + rendering * 101 + i * i * 13 + i * 7 + LABELS[photo] * i * 5) % 61 - 30) / 32
    return torch.from_numpy(values.reshape(HEIGHT, WIDTH, CHANNELS)).permute(2, 0, 1)


class Stage(nn.Module):
    def __init__(self, random):
        super().__init__()
        sixtyfourths = lambda low, high, shape: torch.from_numpy(random.randint(64 * low, 64 * high, shape) / 64)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(CHANNELS)
        with torch.no_grad():
            self.conv.weight.copy_(sixtyfourths(-1, 1, (CHANNELS, CHANNELS, 1, 1)))
            self.bn.weight.copy_(sixtyfourths(0.5, 1.5, CHANNELS))
            self.bn.bias.copy_(sixtyfourths(-0.25, 0.25, CHANNELS))
            self.bn.running_mean.copy_(sixtyfourths(-0.25, 0.25, CHANNELS))
            self.bn.running_var.copy_(sixtyfourths(0.25, 0.75, CHANNELS))

    def forward(self, x):
        return torch.tanh(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self, first):
        super().__init__()
        random = np.random.RandomState(5)
        stages = {name: Stage(random).double() for name in STAGES}
        self.stages = nn.ModuleDict({name: stages[name] for name in STAGES[STAGES.index(first) :]})
        self.head = nn.Linear(CHANNELS, CLASSES).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(random.randint(-64, 64, (CLASSES, CHANNELS)) / 64))
            self.head.bias.copy_(torch.from_numpy(random.randint(-32, 32, CLASSES) / 64))

    def forward(self, x):
        for stage in self.stages.values():
            x = stage(x)
        return self.head(x.mean((2, 3)))

    def written(self):
        """By the names that the project gives them; weights as `[in, out]`, which is how they are multiplied."""
        out = {}
        for name, stage in self.stages.items():
            out[f"{name}.conv.weight"] = stage.conv.weight[:, :, 0, 0].T
            for leaf in ["weight", "bias", "running_mean", "running_var"]:
                out[f"{name}.bn.{leaf}"] = getattr(stage.bn, leaf)
        out["head.weight"], out["head.bias"] = self.head.weight, self.head.bias
        return {name: [float(f"{x:.9g}") for x in values.detach().flatten()] for name, values in out.items()}


def mixed(options, batch, random):
    """The batch, its partners and lambda."""
    mixup, cutmix = options["mixup"], options["cutmix"]
    if not mixup and not cutmix:
        return batch, None, 1.0
    cut = cutmix > 0 and (not mixup or random.uniform() < 0.5)
    partners = list(range(len(batch)))
    random.shuffle(partners)
    lam = random.beta(cutmix if cut else mixup)
    theirs = batch[partners]
    if not cut:
        return lam * batch + (1 - lam) * theirs, partners, lam
    y, x = random.below(HEIGHT), random.below(WIDTH)
    transform = v2.CutMix(num_classes=CLASSES)
    transform._dist = mock.Mock(sample=lambda _: torch.tensor(lam, dtype=torch.float64))
    # torchvision draws x first.
    with mock.patch("torch.randint", side_effect=[torch.tensor([x]), torch.tensor([y])]):
        found = transform.make_params([batch])
    x1, y1, x2, y2 = found["box"]
    batch = batch.clone()
    batch[..., y1:y2, x1:x2] = theirs[..., y1:y2, x1:x2]
    return batch, partners, found["lam_adjusted"]


def rate_factors(options, steps, of_epoch):
    """A scheduler of PyTorch's over an optimiser whose groups have their highest rates."""
    share = options["warmup"] / options["epochs"]
    warm = round(share * steps)

    def make(optimiser):
        if options["schedule"] == "one-cycle":
            most = [group["lr"] for group in optimiser.param_groups]
            rise = share or 0.3
            return lr_scheduler.OneCycleLR(
                optimiser, max_lr=most, total_steps=steps, pct_start=rise, cycle_momentum=False
            )
        every = options["step_epochs"] * of_epoch
        after = {
            "constant": lambda: lr_scheduler.ConstantLR(optimiser, factor=1.0),
            "step": lambda: lr_scheduler.StepLR(optimiser, step_size=every, gamma=options["step_gamma"]),
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps - warm),
        }[options["schedule"]]
        if not warm:
            return after()
        first = lr_scheduler.LinearLR(optimiser, start_factor=0.01, total_iters=warm)
        return lr_scheduler.SequentialLR(optimiser, [first, after()], milestones=[warm])

    return make


class Tuning:
    def __init__(self, config):
        given = config["tune"]
        self.options = options = DEFAULTS | given
        self.renderings = config.get("features", {}).get("views", 0) + 1
        lr = options.get("lr", 0.01 if options["optimizer"] == "sgd" else 0.001)
        backbone_lr = options.get("backbone_lr", lr / 10)
        self.net = net = Net(options["from"])
        groups = []
        for name, module in [("head", net.head), *net.stages.items()]:
            rate = lr if name == "head" else backbone_lr * options["layer_decay"] ** (4 - STAGES.index(name))
            for parameter in module.parameters():
                decay = options["weight_decay"] if parameter.dim() > 1 else 0.0
                groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
        if options["optimizer"] == "sgd":
            self.optimiser = torch.optim.SGD(
                groups, lr=lr, momentum=options["momentum"], nesterov=options["nesterov"]
            )
        else:
            self.optimiser = torch.optim.AdamW(groups, lr=lr)
        self.batches_of_epoch = -(-len(FIT) // options["batch_size"])
        of_epoch = -(-self.batches_of_epoch // options["accumulate"])
        self.rates = rate_factors(options, of_epoch * options["epochs"], of_epoch)
        counts = np.bincount([LABELS[photo] for photo in FIT], minlength=CLASSES)
        self.weight = None
        if options["class_weight"] == "balanced":
            self.weight = torch.from_numpy(len(FIT) / (CLASSES * counts))
        self.ema = ModelEmaV3(net) if options["ema"] else None
        self.updates = 0

    def tune_from(self, epoch):
        """What is trained in an epoch; the rest is frozen, its BatchNorm as well."""
        every = self.options["unfreeze"]
        names = list(self.net.stages)
        open_now = len(names) if every is None else epoch // every + 1
        for place, (name, stage) in enumerate(reversed(self.net.stages.items())):
            trained = place < open_now
            stage.requires_grad_(trained)
            stage.train(trained and self.options["batch_norm"] == "train")

    def batches(self, epoch):
        photos, seed, size = list(FIT), self.options["seed"], self.options["batch_size"]
        Keyed(seed, ORDER, epoch).shuffle(photos)

        def rendering(photo):
            if self.options["views"] == "fresh":
                return 10 + epoch
            return (Keyed(seed, VIEW, photo).below(self.renderings) + epoch) % self.renderings

        rendered = [(photo, rendering(photo)) for photo in photos]
        return [rendered[first : first + size] for first in range(0, len(rendered), size)]

    def learn(self, batch, number, together):
        """Adds the gradient of a batch, one of `together` photos of its step: the loss before."""
        options = self.options
        x = torch.stack([activations(*item) for item in batch])
        y = torch.tensor([LABELS[photo] for photo, _ in batch])
        x, partners, lam = mixed(options, x, Keyed(options["seed"], MIXING, number))
        logits = self.net(x)
        of = lambda labels: cross_entropy(
            logits, labels, weight=self.weight, label_smoothing=options["label_smoothing"]
        )
        loss = of(y) if partners is None else lam * of(y) + (1 - lam) * of(y[partners])
        (loss * len(batch) / together).backward()
        return loss.item()

    def step(self):
        if self.options["clip_norm"]:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.options["clip_norm"])
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.decay = min(self.options["ema"], (1 + self.updates) / (10 + self.updates))
            self.ema.update(self.net)
            self.updates += 1

    def groups(self, epoch):
        """Batches of an epoch that make a step each, numbered over all epochs."""
        numbered = list(enumerate(self.batches(epoch), epoch * self.batches_of_epoch))
        size = self.options["accumulate"]
        return [numbered[first : first + size] for first in range(0, len(numbered), size)]

    def judge(self):
        net = self.ema.module if self.ema else self.net
        training = {module: module.training for module in net.modules()}
        net.eval()
        with torch.no_grad():
            logits = net(torch.stack([activations(photo, 0) for photo in HELD_OUT]))
        for module, mode in training.items():
            module.training = mode
        y = torch.tensor([LABELS[photo] for photo in HELD_OUT])
        return cross_entropy(logits, y).item(), (logits.argmax(1) == y).double().mean().item()

    def written(self):
        return (self.ema.module if self.ema else self.net).written()

    def run(self):
        options, history = self.options, []
        schedule = self.rates(self.optimiser)
        judges = options["validation"] > 0
        best = None
        if judges and options["start"] == "fitted":
            best = (self.judge()[0], 0, self.written())
        for epoch in range(options["epochs"]):
            self.tune_from(epoch)
            total, lr = 0.0, 0.0
            for group in self.groups(epoch):
                together = sum(len(batch) for _, batch in group)
                total += sum(self.learn(batch, number, together) * len(batch) for number, batch in group)
                lr = self.optimiser.param_groups[0]["lr"]
                self.step()
                schedule.step()
            history.append([epoch + 1, lr, total / len(FIT)])
            if judges:
                loss, accuracy = self.judge()
                history[-1] += [loss, accuracy]
                if best is None or loss < best[0]:
                    best = (loss, epoch + 1, self.written())
                if options["patience"] and epoch + 1 - best[1] >= options["patience"]:
                    break
        return {
            "best": best[1] if best else None,
            "values": best[2] if best else self.written(),
            "history": [[float(f"{x:.9g}") for x in row] for row in history],
        }

    def try_rates(self, factors):
        """The loss before each step, the rates of all groups times one factor after another."""
        highest = [group["lr"] for group in self.optimiser.param_groups]
        losses, epoch = [], 0
        self.tune_from(0)
        while True:
            for group in self.groups(epoch):
                together = sum(len(batch) for _, batch in group)
                of_batches = [self.learn(batch, number, together) for number, batch in group]
                losses.append(float(f"{np.mean(of_batches):.9g}"))
                for rates, lr in zip(self.optimiser.param_groups, highest):
                    rates["lr"] = lr * factors[len(losses) - 1]
                self.step()
                if len(losses) == len(factors):
                    return losses
            epoch += 1


def text(case):
    features = case.get("features")
    keys = {key: value for key, value in (PLAIN | case).items() if value is not None and key != "features"}
    tune = "[tune]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
    more = f"[features]\n{features}\n[augment]\nhorizontal_flip = 0.5\n" if features else ""
    return tune + more


def make_loop():
    cases = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, case in CASES.items():
            config = text(case)
            cases.append({"name": name, "config": config} | Tuning(tomllib.loads(config)).run())
        factors = [0.01 * 1.5**step for step in range(11)]
        rates = []
        for more in [{}, {"accumulate": "3", "from": '"layer3"', "unfreeze": "1"}]:
            config = text(more)
            losses = Tuning(tomllib.loads(config)).try_rates(factors)
            rates.append({"config": config, "factors": factors, "losses": losses})
    out = {
        "labels": LABELS,
        "fit": FIT,
        "held_out": HELD_OUT,
        "start": Net("stem").written(),
        "cases": cases,
        "rates": rates,
        "find_lr": find_lr(),
    }
    path = HERE / "loop.json"
    with path.open("w") as file:
        file.write(pretty(out))
    print(f"{path}: {len(cases)} cases")


def find_lr():
    """Losses of a range test, the mean of all so far with weights that fall by a tenth each step back, and what they suggest."""
    lrs = np.geomspace(1e-6, 10, 100)
    step = np.arange(100)
    losses = 2.3 - 1.4 / (1 + np.exp(-(step - 55) / 4)) + 0.05 * np.sin(step) + np.exp((step - 82) / 5)
    losses = np.round(losses, 4)
    smoothed = np.array([np.average(losses[: i + 1], weights=0.9 ** np.arange(i, -1, -1)) for i in step])
    return {
        "losses": losses.tolist(),
        "smoothed": [float(f"{x:.12g}") for x in smoothed],
        "steepest": lrs[np.argmin(np.diff(smoothed))],
        "a_tenth_of_lowest": lrs[np.argmin(smoothed)] / 10,
        # The first step after which the mean is four times its lowest.
        "over": int(next(i for i in step if smoothed[i] > 4 * smoothed[: i + 1].min())),
    }


def pretty(out):
    """A line an entry."""
    lines = []
    for key, value in out.items():
        if key in ("cases", "rates"):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
