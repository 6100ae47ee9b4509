"""Tunes layer4 in PyTorch as `headstock train` does with the same settings, for docs/tuning.md: a line of JSON a seed.

usage: pytorch.py WEIGHTS TRAIN TEST FOLDER [--seeds 3] [--views 2] [--epochs 6] [--threads 2]

The head is fitted on the frozen features of all renderings by scikit-learn; then it and layer4 are tuned from layer3's
activations, kept in FOLDER in half precision: SGD with momentum, the head ten times faster than layer4, along a cosine, frozen
BatchNorm statistics, label smoothing. In an epoch each photo comes once, in a rendering drawn anew.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchvision.transforms import v2

BATCH = 16
LR, HEAD_LR, MOMENTUM, SMOOTHING = 1e-3, 1e-2, 0.9, 0.1
PLAIN = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
AUGMENTED = v2.Compose([v2.RandomResizedCrop(224, scale=(0.35, 1.0)), v2.RandomHorizontalFlip()])
PIXELS = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def trunk(weights):
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    tensors = {name: tensor.float() for name, tensor in load_file(Path(weights) / "model.safetensors").items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    return network.eval().to(memory_format=torch.channels_last)


def prefix(network, x):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return network.layer3(network.layer2(network.layer1(x)))


def activations(network, folder, views, place):
    """layer3's outputs of each photo, plain and in `views` augmented renderings, and the labels."""
    photos = torchvision.datasets.ImageFolder(folder)
    labels = torch.tensor([label for _, label in photos.samples])
    if place.exists():
        return np.load(place, mmap_mode="r"), labels
    torch.manual_seed(0)
    kept = np.lib.format.open_memmap(
        place.with_suffix(".part"), mode="w+", dtype=np.float16, shape=(len(photos), 1 + views, 1024, 14, 14)
    )
    with torch.inference_mode():
        for first in range(0, len(photos), BATCH):
            rows = range(first, min(first + BATCH, len(photos)))
            rendered = []
            for photo in (photos[row][0] for row in rows):
                rendered += [PIXELS(PLAIN(photo)), *(PIXELS(AUGMENTED(photo)) for _ in range(views))]
            batch = torch.stack(rendered).contiguous(memory_format=torch.channels_last)
            kept[rows.start : rows.stop] = prefix(network, batch).half().numpy().reshape(len(rows), *kept.shape[1:])
    kept.flush()
    place.with_suffix(".part").rename(place)
    return kept, labels


def features(layer4, kept, view):
    with torch.inference_mode():
        parts = [
            layer4(torch.from_numpy(kept[first : first + 64, view]).float()).mean((2, 3))
            for first in range(0, len(kept), 64)
        ]
    return torch.cat(parts)


def score(head, features, labels):
    with torch.inference_mode():
        logits = head(features)
        loss = nn.functional.cross_entropy(logits, labels).item()
        return {"accuracy": (logits.argmax(1) == labels).float().mean().item(), "log_loss": loss}


def main():
    parser = argparse.ArgumentParser()
    for name in ["weights", "train", "test", "folder"]:
        parser.add_argument(name)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    network = trunk(options.weights)
    train, labels = activations(network, options.train, options.views, folder / f"train-{options.views}.npy")
    test, test_labels = activations(network, options.test, 0, folder / "test.npy")
    classes = int(labels.max()) + 1

    fitted_on = [features(network.layer4, train, view) for view in range(1 + options.views)]
    fit = LogisticRegression(C=1.0, max_iter=1000).fit(torch.cat(fitted_on), labels.repeat(1 + options.views))
    frozen = features(network.layer4, test, 0)
    for seed in range(options.seeds):
        layer4 = trunk(options.weights).layer4
        head = nn.Linear(2048, classes)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fit.coef_))
            head.bias.copy_(torch.from_numpy(fit.intercept_))
        before = score(head, frozen, test_labels)
        groups = [{"params": layer4.parameters(), "lr": LR}, {"params": head.parameters(), "lr": HEAD_LR}]
        optimiser = torch.optim.SGD(groups, momentum=MOMENTUM)
        steps = options.epochs * -(-len(labels) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        generator = np.random.default_rng(seed)
        losses, started = [], time.perf_counter()
        for _ in range(options.epochs):
            total = 0.0
            for rows in np.array_split(generator.permutation(len(labels)), -(-len(labels) // BATCH)):
                views = generator.integers(0, 1 + options.views, len(rows))
                batch = torch.from_numpy(np.stack([train[row, view] for row, view in zip(rows, views)])).float()
                logits = head(layer4(batch.contiguous(memory_format=torch.channels_last)).mean((2, 3)))
                loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=SMOOTHING)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item() * len(rows)
            losses.append(total / len(labels))
        seconds = time.perf_counter() - started
        after = score(head, features(layer4, test, 0), test_labels)
        print(json.dumps({"seed": seed, "before": before, "after": after, "losses": losses, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
