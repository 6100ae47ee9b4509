"""arithmetic.safetensors: what a step of training is made of beside the network: PyTorch's optimisers, schedules, losses and
clipping, torchvision's CutMix, timm's average, SciPy's beta distribution.
"""

import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy import stats
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torchvision.transforms import v2

HERE = Path(__file__).parent
STEPS = 20


def optimisers(random):
    """Two groups, the second at a tenth of the rate and without decay, and gradients that are given, not computed."""
    groups = {"weights": (37,), "shifts": (5,)}
    starts = {name: random.normal(size=shape).astype(np.float32) for name, shape in groups.items()}
    gradients = {name: random.normal(size=(STEPS, *shape)).astype(np.float32) for name, shape in groups.items()}
    # Weights that decay meet a gradient that pulls elsewhere.
    gradients["weights"] += 0.5
    rates = 0.1 * 0.9 ** np.arange(STEPS)
    out = {"optimiser.rates": rates}
    for name in groups:
        out[f"optimiser.{name}"], out[f"optimiser.{name}.gradients"] = starts[name], gradients[name]
    cases = {
        "sgd": (torch.optim.SGD, {}, 0.0),
        "sgd.decay": (torch.optim.SGD, {}, 0.1),
        "sgd.momentum": (torch.optim.SGD, {"momentum": 0.9}, 0.0),
        "sgd.momentum.decay": (torch.optim.SGD, {"momentum": 0.9}, 0.1),
        "sgd.nesterov.decay": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 0.1),
        "adamw": (torch.optim.AdamW, {}, 0.1),
    }
    for case, (kind, options, decay) in cases.items():
        params = {name: torch.nn.Parameter(torch.from_numpy(start.copy())) for name, start in starts.items()}
        optimiser = kind(
            [
                {"params": [params["weights"]], "weight_decay": decay},
                {"params": [params["shifts"]], "weight_decay": 0.0},
            ],
            lr=0.1,
            **options,
        )
        rows = []
        for step, rate in enumerate(rates):
            for group, share in zip(optimiser.param_groups, [1.0, 0.1]):
                group["lr"] = share * rate
            for name, param in params.items():
                param.grad = torch.from_numpy(gradients[name][step].copy())
            optimiser.step()
            rows.append(np.concatenate([param.detach().numpy().copy() for param in params.values()]))
        out[f"optimiser.{case}"] = np.stack(rows)
    return out


def schedules():
    steps, of_epoch = 70, 7

    def rates(make, warm=0):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimiser, steps - warm)
        if warm:
            first = lr_scheduler.LinearLR(optimiser, start_factor=0.01, total_iters=warm)
            schedule = lr_scheduler.SequentialLR(optimiser, [first, schedule], milestones=[warm])
        found = [optimiser.param_groups[0]["lr"]]
        for _ in range(steps - 1):
            optimiser.step()
            schedule.step()
            found.append(optimiser.param_groups[0]["lr"])
        return np.array(found)

    def constant(optimiser, _):
        return lr_scheduler.ConstantLR(optimiser, factor=1.0)

    def step(optimiser, _):
        return lr_scheduler.StepLR(optimiser, step_size=3 * of_epoch, gamma=0.1)

    def cosine(optimiser, left):
        return lr_scheduler.CosineAnnealingLR(optimiser, T_max=left)

    def one_cycle(rise):
        def make(optimiser, left):
            return lr_scheduler.OneCycleLR(
                optimiser, max_lr=1.0, total_steps=left, pct_start=rise, cycle_momentum=False
            )

        return make

    return {
        "schedule.constant.warm": rates(constant, 7),
        "schedule.step": rates(step),
        # 0.15 of 70 steps, rounded.
        "schedule.step.warm": rates(step, 11),
        "schedule.cosine": rates(cosine),
        "schedule.cosine.warm": rates(cosine, 7),
        "schedule.one-cycle": rates(one_cycle(0.3)),
        "schedule.one-cycle.early": rates(one_cycle(0.1)),
    }


def losses(random):
    photos, classes = 12, 7
    logits = (4 * random.normal(size=(photos, classes))).astype(np.float32)
    # What overflows without care.
    logits[3] += 200
    logits[4] *= 50
    labels = random.randint(classes, size=photos)
    labels[:4] = logits[:4].argmax(1)
    partners = random.permutation(photos)
    weights = random.uniform(0.2, 3, size=classes)
    out = {
        "loss.logits": logits,
        "loss.labels": labels.astype(np.uint32),
        "loss.partners": partners.astype(np.uint32),
        "loss.weights": weights,
    }
    y = torch.from_numpy(labels)
    for smoothing, smoothed in [(0.0, "plain"), (0.1, "smooth")]:
        for weight, weighed in [(None, "even"), (torch.from_numpy(weights), "weighed")]:
            for lam, mixture in [(1.0, "one"), (0.7, "mixed")]:
                x = torch.from_numpy(logits).double().requires_grad_()
                of = lambda labels: cross_entropy(x, labels, weight=weight, label_smoothing=smoothing)
                loss = lam * of(y) + (1 - lam) * of(y[torch.from_numpy(partners)])
                loss.backward()
                name = f"loss.{smoothed}.{weighed}.{mixture}"
                out[name], out[f"{name}.gradient"] = np.array(loss.item()), x.grad.numpy().astype(np.float32)
    x = torch.from_numpy(logits).double()
    right = (x.argmax(1) == y).sum().item()
    out["loss.judged"] = np.array([cross_entropy(x, y, reduction="sum").item(), right])
    return out


def cutmix(random):
    """Rows: lambda, centre (y, x), height, width, the region's rows (from, to) and columns, lambda by its area."""
    rows = []
    for height, width in [(7, 7), (14, 14), (7, 10), (224, 224), (75, 101), (1, 3)]:
        for _ in range(40):
            lam = random.beta(0.6, 0.6)
            y, x = random.randint(height), random.randint(width)
            transform = v2.CutMix(num_classes=2)
            transform._dist = mock.Mock(sample=lambda _, lam=lam: torch.tensor(lam, dtype=torch.float64))
            # torchvision draws x first.
            with mock.patch("torch.randint", side_effect=[torch.tensor([x]), torch.tensor([y])]):
                found = transform.make_params([torch.zeros(2, 3, height, width)])
            x1, y1, x2, y2 = found["box"]
            rows.append([lam, y, x, height, width, y1, y2, x1, x2, found["lam_adjusted"]])
    return {"cutmix": np.array(rows, dtype=np.float64)}


def beta():
    alphas, parts = np.array([0.1, 0.2, 0.4, 1.0, 2.0, 8.0]), np.array([0.05, 0.25, 0.4, 0.5, 0.7, 0.95])
    return {
        "beta.alphas": alphas,
        "beta.parts": parts,
        "beta.quantiles": np.array([stats.beta.ppf(parts, alpha, alpha) for alpha in alphas]),
        "beta.variances": np.array([stats.beta.var(alpha, alpha) for alpha in alphas]),
    }


def clipping(random):
    shapes = [(17, 3), (18_000,), (1,)]
    gradients = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    out = {f"clip.{part}": gradient for part, gradient in enumerate(gradients)}
    for name, most in [("clip.tight", 0.5), ("clip.loose", 1e6)]:
        params = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
        for param, gradient in zip(params, gradients):
            param.grad = torch.from_numpy(gradient).double()
        out[f"{name}.norm"] = np.array(torch.nn.utils.clip_grad_norm_(params, most).item())
        if most < out[f"{name}.norm"]:
            out[name] = np.concatenate([param.grad.numpy().flatten() for param in params]).astype(np.float32)
    return out


def average(random):
    """Of a BatchNorm: parameters and running statistics. The decay is TensorFlow's for a number of updates."""
    length = 6
    model = torch.nn.BatchNorm1d(length)
    names = ["weight", "bias", "running_mean", "running_var"]
    state = model.state_dict()
    values = {name: [] for name in names}
    found = {name: [] for name in names}

    def move():
        for name in names:
            state[name] += torch.from_numpy(random.normal(size=length).astype(np.float32))
            values[name].append(state[name].numpy().copy())

    move()
    ema = ModelEmaV3(model)
    for step in range(STEPS):
        move()
        ema.decay = min(0.6, (1 + step) / (10 + step))
        ema.update(model)
        for name in names:
            found[name].append(ema.module.state_dict()[name].numpy().copy())
    out = {"average.length": np.array([length], dtype=np.uint32)}
    for name in names:
        out[f"average.{name}"], out[f"average.{name}.values"] = np.stack(found[name]), np.stack(values[name])
    return out


def make_arithmetic():
    random = np.random.RandomState(0)
    # SequentialLR and the last steps of schedules warn of each other.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rates = schedules()
    out = optimisers(random) | rates | losses(random) | cutmix(random) | beta() | clipping(random) | average(random)
    save_file(dict(sorted(out.items())), HERE / "arithmetic.safetensors")
    print(f"{HERE / 'arithmetic.safetensors'}: {len(out)} tensors")
