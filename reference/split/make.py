"""Golden splits: scikit-learn's StratifiedShuffleSplit over labels made by a formula (`label`, also in the test).

A split of up to 100 samples is kept whole; of a larger one the sha256 of its indices (u32, little-endian: train, then
test) and the first eight of each part.
"""

import hashlib
import json
import pathlib

import numpy as np
import sklearn
from sklearn.model_selection import StratifiedShuffleSplit

HERE = pathlib.Path(__file__).parent
WHOLE = 100


def label(shape, classes, i):
    u = i * 2654435761 % 2**32  # scattered over 32 bits
    squared = u * u >> 32
    if i < 2 * classes or shape == "turns":  # every class has two samples at least
        number = i % classes
    elif shape == "blocks":
        number = i // 7 % classes
    elif shape == "scattered":
        number = u * classes >> 32
    elif shape == "steep":
        number = (squared * squared >> 32) * classes >> 32
    else:
        number = squared * classes >> 32
    return number * 3 + 1 if shape == "gaps" else number  # gaps: numbers that no sample has


def labels(shape, classes, samples):
    return np.array([label(shape, classes, i) for i in range(samples)])


def split(y, n_splits, test_size, seed):
    splitter = StratifiedShuffleSplit(n_splits, test_size=test_size, random_state=seed)
    return [[part.tolist() for part in parts] for parts in splitter.split(np.zeros(len(y)), y)]


def kept(train, test):
    if len(train) + len(test) <= WHOLE:
        return {"train": train, "test": test}
    indices = np.array(train + test, dtype="<u4").tobytes()
    return {
        "train_first": train[:8],
        "test_first": test[:8],
        "test_len": len(test),
        "sha256": hashlib.sha256(indices).hexdigest(),
    }


CASES = [
    # shape, classes, samples, n_splits, test_size, seed
    ("turns", 2, 10, 1, 0.2, 0),
    ("turns", 2, 10, 1, 0.5, 1),
    ("turns", 2, 10, 5, 2, 2),
    ("turns", 2, 10, 1, 8, 3),
    ("skewed", 2, 11, 3, 0.3, 4),
    ("skewed", 2, 13, 1, 5, 2**32 - 1),
    ("turns", 3, 10, 1, 0.3, 0),
    ("turns", 3, 11, 4, 0.34, 7),
    ("turns", 3, 12, 1, 0.25, 42),
    ("scattered", 3, 50, 2, 0.1, 42),
    ("skewed", 3, 50, 1, 0.9, 5),
    ("steep", 3, 60, 1, 0.05, 6),
    ("turns", 5, 10, 1, 5, 0),
    ("turns", 5, 10, 3, 0.5, 123),
    ("turns", 5, 23, 2, 0.33, 8),
    ("turns", 5, 24, 1, 7, 9),
    ("blocks", 5, 37, 1, 0.2, 10),
    ("gaps", 5, 64, 2, 0.15, 11),
    ("steep", 5, 100, 1, 0.1, 0),
    ("turns", 7, 99, 1, 0.1, 0),
    ("turns", 7, 100, 10, 0.1, 0),
    ("turns", 10, 100, 1, 0.11, 1),
    ("turns", 10, 100, 3, 0.15, 2),
    ("turns", 10, 95, 1, 13, 3),
    ("skewed", 10, 97, 2, 0.2, 4),
    ("steep", 10, 200, 1, 0.1, 1234567890),
    ("scattered", 10, 300, 1, 0.1, 0),
    ("skewed", 10, 300, 1, 0.5, 0),
    ("gaps", 10, 333, 2, 0.25, 17),
    ("turns", 10, 3068, 1, 0.1, 0),
    ("skewed", 10, 3068, 1, 0.1, 0),
    ("skewed", 10, 3068, 1, 0.1, 1),
    ("skewed", 10, 3068, 1, 0.1, 2**31),
    ("skewed", 10, 3068, 5, 0.2, 42),
    ("turns", 16, 48, 2, 16, 0),
    ("turns", 16, 48, 2, 17, 0),
    ("turns", 16, 48, 2, 24, 0),
    ("turns", 16, 48, 1, 31, 0),
    ("turns", 16, 48, 1, 32, 0),
    ("steep", 20, 500, 2, 0.1, 99),
    ("scattered", 20, 1000, 1, 0.123, 99),
    ("scattered", 37, 1000, 3, 0.1, 0),
    ("blocks", 37, 1000, 1, 0.2, 2**32 - 1),
    ("turns", 50, 100, 1, 50, 0),
    ("turns", 50, 149, 1, 0.35, 0),
    ("turns", 50, 151, 3, 75, 5),
    ("skewed", 50, 2000, 1, 0.07, 3),
    ("steep", 50, 2000, 1, 0.4, 4),
    ("gaps", 50, 2001, 2, 500, 5),
    ("turns", 100, 1000, 1, 0.1, 0),
    ("turns", 100, 1037, 2, 0.1, 0),
    ("scattered", 100, 5000, 1, 0.02, 0),
    ("scattered", 100, 5000, 1, 0.98, 0),
    ("skewed", 100, 9999, 1, 1 / 3, 77),
    ("skewed", 120, 10222, 1, 0.1, 0),  # the size of the tutorial's dog breeds
    ("scattered", 120, 10222, 1, 0.1, 0),
    ("scattered", 120, 10222, 3, 0.25, 1),
    ("steep", 120, 10222, 1, 1023, 7),
    ("turns", 200, 400, 1, 200, 0),
    ("turns", 200, 401, 1, 0.5, 0),
    ("turns", 200, 599, 2, 0.5, 1),
    ("skewed", 200, 20000, 1, 0.1, 0),
    ("scattered", 200, 20000, 2, 0.2, 2**32 - 1),
    ("steep", 200, 20000, 1, 0.1, 31337),
    ("blocks", 200, 20000, 1, 4001, 0),
    ("gaps", 200, 20000, 1, 0.01, 12),
    ("turns", 199, 19999, 2, 0.1, 13),
    ("turns", 2, 20000, 1, 0.001, 14),
    ("skewed", 3, 19993, 2, 0.999, 15),
]

REFUSED = [
    ([0, 0, 1, 1, 2], 0.4, "lone sample"),
    ([0, 1, 2, 3], 2, "lone sample"),
    ([0], 0.5, "empty training part"),
    ([7, 7, 7, 7, 3, 9, 9, 9], 4, "lone sample"),
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 2, "test part too small"),
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 0.1, "test part too small"),
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 7, "training part too small"),
    ([0, 0, 0, 1, 1, 1, 2, 2, 2], 0.8, "training part too small"),
    ([0, 0, 0, 1, 1, 1], 0, "size out of range"),
    ([0, 0, 0, 1, 1, 1], -1, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 6, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 7, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 0.0, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 1.0, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 1.5, "size out of range"),
    ([0, 0, 0, 1, 1, 1], -0.1, "size out of range"),
    ([0, 0, 0, 1, 1, 1], 0.99, "empty training part"),
    ([], 0.5, "no samples"),
    ([], 1, "no samples"),
]

SAYS = {
    "lone sample": "The least populated classes in y have only 1 member",
    "test part too small": "The test_size = ",
    "training part too small": "The train_size = ",
    "size out of range": "should be either positive and smaller than the number of samples",
    "empty training part": "the resulting train set will be empty",
    "no samples": "Found array with 0 sample(s)",
}


def refusal(y, test_size, kind):
    try:
        split(np.array(y, dtype=int), 1, test_size, 0)
    except ValueError as error:
        assert SAYS[kind] in str(error), (y, test_size, kind, str(error))
        return {"labels": y, "test_size": test_size, "kind": kind, "scikit_learn": str(error)}
    raise AssertionError(f"scikit-learn splits {y} by {test_size}")


def main():
    cases = []
    for shape, classes, samples, n_splits, test_size, seed in CASES:
        y = labels(shape, classes, samples)
        assert len(np.unique(y)) == classes
        cases.append(
            {
                "shape": shape,
                "classes": classes,
                "samples": samples,
                "n_splits": n_splits,
                "test_size": test_size,
                "seed": seed,
                "splits": [kept(*parts) for parts in split(y, n_splits, test_size, seed)],
            }
        )
    golden = {
        "made_by": f"scikit-learn {sklearn.__version__}",
        "cases": cases,
        "refused": [refusal(*case) for case in REFUSED],
    }
    path = HERE / "stratified_shuffle.json"
    with open(path, "w", newline="\n") as file:
        json.dump(golden, file, separators=(",", ":"))
        file.write("\n")
    print(f"{path.relative_to(HERE.parent.parent)}: {len(cases)} cases, {len(REFUSED)} refused, {path.stat().st_size} bytes")


main()
