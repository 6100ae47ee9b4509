"""Photos a second that PyTorch tunes a ResNet-50 with, as `headstock bench --tune STAGE --json` says it: a line of JSON.

usage: throughput.py WEIGHTS WAY [--batch 16] [--threads 2] [--seconds 4] [--layout channels-last]

WAY is `kept` (layer4 and the head from layer3's activations in memory), `usual` (the same, with the frozen part run at every
step, without gradients) or `all` (everything). SGD with momentum, frozen BatchNorm statistics.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

CLASSES = 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.add_argument("way", choices=["kept", "usual", "all"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--layout", choices=["channels-last", "contiguous"], default="channels-last")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if options.layout == "channels-last" else torch.contiguous_format

    network = torchvision.models.resnet50()
    network.fc = nn.Linear(2048, CLASSES)
    tensors = {name: tensor.float() for name, tensor in load_file(Path(options.weights) / "model.safetensors").items()}
    network.load_state_dict(tensors, strict=False)
    del tensors
    network = network.eval().to(memory_format=layout)
    tuned = network if options.way == "all" else nn.ModuleList([network.layer4, network.fc])
    network.requires_grad_(False)
    tuned.requires_grad_(True)

    size = (1024, 14, 14) if options.way == "kept" else (3, 224, 224)
    batch = torch.rand(options.batch, *size).to(memory_format=layout)
    labels = torch.arange(options.batch) % CLASSES
    optimiser = torch.optim.SGD(tuned.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def features(x):
        if options.way == "kept":
            return network.layer4(x)
        with torch.set_grad_enabled(options.way == "all"):
            x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
            x = network.layer3(network.layer2(network.layer1(x)))
        return network.layer4(x)

    def step():
        loss = nn.functional.cross_entropy(network.fc(features(batch).mean((2, 3))), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    step()
    started, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - started < options.seconds:
        step()
        steps += 1
    seconds = time.perf_counter() - started
    print(
        json.dumps({
            "images_per_second": steps * options.batch / seconds,
            "steps": steps,
            "seconds": seconds,
            "layout": options.layout,
            "version": torch.__version__,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        })
    )


if __name__ == "__main__":
    main()
