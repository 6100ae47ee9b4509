"""Weights and pixels from a formula: SplitMix64 over a hash of the tensor's name and the element's index.

backbone/tests/backbone/formula.rs computes the same bits.
"""

import numpy as np

MEAN, STD = [0.5, 0.45, 0.4], [0.25, 0.2, 0.3]


def draws(name, count):
    """`count` 64-bit numbers that belong to `name`: SplitMix64 seeded with the FNV-1a hash of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, count):
    """Numbers in [-1, 1), exact in float32."""
    return (draws(name, count) >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)


def tensor(name, shape, last):
    """`last`: the BatchNorm of a block whose output is added to the shortcut. Kept small there, so that activations do
    not grow through 50 blocks."""
    u = uniform(name, int(np.prod(shape)))
    if len(shape) == 4:
        values = u * np.float32(np.sqrt(6.0 / (shape[1] * shape[2] * shape[3])))
    elif name.endswith(".weight"):
        values = (np.float32(1) + np.float32(0.25) * u) * np.float32(0.125 if last else 1)
    elif name.endswith(".running_var"):
        values = np.float32(1) + np.float32(0.5) * u
    else:
        values = np.float32(0.125) * u
    return values.astype(np.float32).reshape(shape)


def torchvisions_last(depth):
    """What the name of such a BatchNorm contains in torchvision's ResNet of that depth."""
    return ".bn3." if depth >= 50 else ".bn2."


def pixels(photos, height, width):
    shape = (photos, height, width, 3)
    return (draws("pixels", int(np.prod(shape))) >> np.uint64(56)).astype(np.uint8).reshape(shape)
