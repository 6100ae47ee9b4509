"""Golden splits by scikit-learn, over labels and groups made by formulas (`label` and `group`, also in the tests).

stratified_shuffle.json, StratifiedShuffleSplit: a split of up to 100 samples is kept whole; of a larger one the sha256 of
its indices (u32, little-endian: train, then test) and the first eight of each part.
group_shuffle.json, GroupShuffleSplit: kept likewise.
hash.json: which keys a split by SHA-256 tests on, computed with hashlib.
folds.json, StratifiedKFold and StratifiedGroupKFold, shuffled: the fold that each sample is tested in, of up to 100
samples; of more the sha256 of the folds (a byte each) and the first sixteen.
settings.json: what is tested on of one data set by settings of `[split]`, as a config writes them.
"""

import hashlib
import json
import pathlib
import warnings

import numpy as np
import sklearn
from sklearn.model_selection import (
    GroupShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

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


def group(shape, groups, i, label):
    v = (i * 2246822519 + 374761393) % 2**32
    if shape == "alone":
        return i
    if shape == "runs":
        return i // 6 % groups
    if shape == "pure":  # every group is of one class
        return label * groups + (v * groups >> 32)
    if shape == "skewed":  # many small groups, a few large ones
        return ((v * v >> 32) * groups >> 32) * 5 + 2
    return v * groups >> 32


def folded(y, groups, n_splits, seed):
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=n_splits, shuffle=True, random_state=seed)
    folds = np.full(len(y), 255)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The (least populated|number of unique) class")
        for fold, (train, test) in enumerate(splitter.split(np.zeros(len(y)), y, groups)):
            assert (folds[test] == 255).all() and (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
            folds[test] = fold
    return folds


FOLDS = [
    # shape, classes, samples, backwards, group shape, groups, n_splits, seed
    ("turns", 2, 10, False, None, 0, 2, 0),
    ("turns", 2, 10, False, None, 0, 5, 1),
    ("turns", 3, 11, True, None, 0, 3, 7),
    ("skewed", 3, 50, False, None, 0, 5, 42),
    ("steep", 5, 100, True, None, 0, 10, 0),
    ("gaps", 5, 64, True, None, 0, 4, 11),
    ("blocks", 7, 99, False, None, 0, 3, 2**32 - 1),
    ("turns", 10, 95, False, None, 0, 9, 3),
    ("skewed", 10, 2761, False, None, 0, 5, 0),
    ("skewed", 10, 2761, True, None, 0, 5, 1),
    ("steep", 10, 2761, False, None, 0, 7, 2),
    ("scattered", 37, 1000, True, None, 0, 20, 5),  # classes smaller than the number of folds
    ("steep", 50, 2000, False, None, 0, 30, 6),
    ("scattered", 120, 9199, False, None, 0, 5, 0),
    ("skewed", 120, 9199, True, None, 0, 10, 42),
    ("gaps", 200, 19999, False, None, 0, 3, 9),
    ("turns", 2, 12, False, "even", 5, 2, 0),
    ("turns", 2, 20, False, "alone", 0, 4, 0),
    ("turns", 2, 30, True, "runs", 5, 5, 1),
    ("turns", 3, 40, False, "pure", 3, 3, 2),
    ("skewed", 3, 50, False, "skewed", 20, 5, 42),
    ("steep", 5, 100, True, "even", 30, 4, 0),
    ("gaps", 5, 100, False, "runs", 17, 6, 11),
    ("blocks", 7, 99, False, "alone", 0, 3, 2**32 - 1),
    ("turns", 1, 40, False, "even", 20, 9, 4),  # one class: numpy sums over the folds in another order
    ("turns", 1, 400, False, "skewed", 90, 17, 4),
    ("skewed", 10, 2761, False, "even", 400, 5, 0),
    ("skewed", 10, 2761, True, "skewed", 400, 5, 1),
    ("steep", 10, 2761, False, "runs", 461, 7, 2),
    ("turns", 10, 2761, False, "alone", 0, 5, 3),
    ("scattered", 10, 2761, False, "pure", 40, 5, 4),
    ("turns", 12, 1200, False, "runs", 150, 10, 8),  # many ties
    ("scattered", 37, 1000, True, "even", 90, 20, 5),
    ("steep", 50, 2000, False, "skewed", 300, 12, 6),
    ("scattered", 120, 9199, False, "even", 800, 5, 0),
    ("skewed", 120, 9199, True, "skewed", 1500, 10, 42),
    ("turns", 150, 6000, False, "pure", 4, 5, 1),  # sums over more than 128 classes
    ("scattered", 300, 6000, True, "runs", 900, 4, 2),
]

REFUSED_FOLDS = [
    # labels, groups, n_splits, kind
    ([0, 0, 1, 1], None, 1, "too few folds"),
    ([0, 0, 1, 1], None, 0, "too few folds"),
    ([0, 0, 1, 1], None, 5, "more folds than samples"),
    ([0, 0, 1, 1], None, 3, "more folds than any class"),
    ([5], None, 2, "more folds than samples"),
    ([0, 0, 1, 1], [0, 1, 2, 3], 1, "too few folds"),
    ([0, 0, 1, 1], [0, 1, 2, 3], 5, "more folds than samples"),
    ([0, 0, 1, 1], [0, 1, 2, 3], 3, "more folds than any class"),
    ([0, 0, 0, 1, 1, 1], [4, 4, 4, 2, 2, 2], 3, "more folds than groups"),
    ([0, 0, 0, 1, 1, 1], [0, 1, 2], 2, "another number of groups"),
]

SAYS_OF_FOLDS = {
    "too few folds": "requires at least one train/test split",
    "more folds than samples": "greater than the number of samples",
    "more folds than any class": "cannot be greater than the number of members in each class",
    "more folds than groups": "greater than the number of groups",
    "another number of groups": "inconsistent numbers of samples",
}


def refusal_of_folds(y, groups, n_splits, kind):
    try:
        folded(np.array(y), groups and np.array(groups), n_splits, 0)
    except ValueError as error:
        assert SAYS_OF_FOLDS[kind] in str(error), (y, groups, n_splits, kind, str(error))
        return {"labels": y, "groups": groups, "n_splits": n_splits, "kind": kind, "scikit_learn": str(error)}
    raise AssertionError(f"scikit-learn folds {y} by {n_splits}")


def kept_folds(folds):
    if len(folds) <= WHOLE:
        return {"folds": folds.tolist()}
    sha256 = hashlib.sha256(folds.astype(np.uint8).tobytes()).hexdigest()
    return {"first": folds[:16].tolist(), "sha256": sha256}


def write_folds():
    cases = []
    for shape, classes, samples, backwards, of_groups, groups, n_splits, seed in FOLDS:
        y = labels(shape, classes, samples)[:: -1 if backwards else 1]
        g = None if of_groups is None else np.array([group(of_groups, groups, i, int(y[i])) for i in range(samples)])
        case = {
            "shape": shape,
            "classes": classes,
            "samples": samples,
            "backwards": backwards,
            "group_shape": of_groups,
            "groups": groups,
            "n_splits": n_splits,
            "seed": seed,
        }
        cases.append(case | kept_folds(folded(y, g, n_splits, seed)))
    write("folds.json", {"cases": cases, "refused": [refusal_of_folds(*case) for case in REFUSED_FOLDS]})


def split_groups(groups, n_splits, test_size, seed):
    splitter = GroupShuffleSplit(n_splits, test_size=test_size, random_state=seed)
    return [[part.tolist() for part in parts] for parts in splitter.split(np.zeros(len(groups)), groups=groups)]


GROUPS = [
    # group shape, groups, samples, n_splits, test_size, seed
    ("alone", 0, 10, 1, 0.2, 0),
    ("alone", 0, 99, 3, 0.1, 2**32 - 1),
    ("alone", 0, 9199, 1, 0.1, 0),
    ("runs", 2, 12, 2, 0.5, 1),
    ("runs", 5, 30, 4, 2, 2),
    ("runs", 17, 100, 1, 0.1, 11),
    ("runs", 461, 2761, 5, 0.2, 42),
    ("even", 5, 23, 1, 0.3, 3),
    ("even", 30, 100, 2, 7, 0),
    ("even", 400, 2761, 1, 0.1, 0),
    ("even", 800, 9199, 2, 1 / 3, 77),
    ("skewed", 20, 50, 3, 0.25, 4),
    ("skewed", 90, 400, 1, 0.9, 5),
    ("skewed", 400, 2761, 1, 0.1, 1),
    ("skewed", 1500, 9199, 2, 500, 1234567890),
    ("skewed", 1500, 9199, 1, 0.001, 6),
]

REFUSED_GROUPS = [
    # groups, test_size, kind
    ([], 0.5, "no samples"),
    ([4, 4, 9, 9], 2, "size out of range"),
    ([4, 4, 9, 9], 0, "size out of range"),
    ([4, 4, 9, 9], 1.0, "size out of range"),
    ([4, 4, 9, 9], 0.6, "empty training part"),
    ([4, 4, 4, 4], 0.5, "empty training part"),
    ([4, 4, 4, 4], 1, "size out of range"),
]


def refusal_of_groups(groups, test_size, kind):
    try:
        split_groups(np.array(groups, dtype=int), 1, test_size, 0)
    except ValueError as error:
        assert SAYS[kind] in str(error), (groups, test_size, kind, str(error))
        return {"groups": groups, "test_size": test_size, "kind": kind, "scikit_learn": str(error)}
    raise AssertionError(f"scikit-learn splits groups {groups} by {test_size}")


def write_group_shuffle():
    cases = []
    for shape, groups, samples, n_splits, test_size, seed in GROUPS:
        g = np.array([group(shape, groups, i, 0) for i in range(samples)])
        case = {
            "shape": shape,
            "groups": groups,
            "samples": samples,
            "n_splits": n_splits,
            "test_size": test_size,
            "seed": seed,
        }
        splits = [kept(*parts) for parts in split_groups(g, n_splits, test_size, seed)]
        cases.append(case | {"splits": splits})
    write("group_shuffle.json", {"cases": cases, "refused": [refusal_of_groups(*case) for case in REFUSED_GROUPS]})


def hashed_below(key, fraction, seed):
    digest = hashlib.sha256(seed.to_bytes(4, "little") + key.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53 < fraction


def write_hash():
    keys = [f"dress/{i}.jpg" for i in range(40)] + ["", "Müller", "patient 7"]
    sizes = [(0.1, 3), (0.25, 0), (0.5, 1), (0.9, 2**32 - 1)]
    cases = [
        {"test_size": size, "seed": seed, "test": [i for i, key in enumerate(keys) if hashed_below(key, size, seed)]}
        for size, seed in sizes
    ]
    write("hash.json", {"made_by": "Python's hashlib", "keys": keys, "cases": cases, "refused": []})


def write(name, golden):
    path = HERE / name
    with open(path, "w", newline="\n") as file:
        json.dump({"made_by": f"scikit-learn {sklearn.__version__}"} | golden, file, separators=(",", ":"))
        file.write("\n")
    counts = f"{len(golden['cases'])} cases, {len(golden['refused'])} refused"
    print(f"{path.relative_to(HERE.parent.parent)}: {counts}, {path.stat().st_size} bytes")


def write_shuffle():
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
    write("stratified_shuffle.json", {"cases": cases, "refused": [refusal(*case) for case in REFUSED]})


write_shuffle()
write_folds()
write_group_shuffle()
write_hash()


# The data set of settings.json: the class, the group and the picture of each photo. Photos of one picture are copies.
CLASS = [[0, 0, 1, 0, 2, 1, 0, 1][i % 8] for i in range(40)]
GROUP = [i // 3 * 5 % 14 for i in range(40)]
PICTURE = [i // 4 if i < 24 else 6 + (i - 24) // 2 for i in range(40)]


def joined(*kinds):
    """Samples share a number where a chain of groups of any kind leads from one to the other."""
    numbers = list(range(len(kinds[0])))
    for kind in kinds:
        for a in range(len(kind)):
            for b in range(a):
                if kind[a] == kind[b]:
                    old, new = max(numbers[a], numbers[b]), min(numbers[a], numbers[b])
                    numbers = [new if number == old else number for number in numbers]
    return numbers


def photo_name(i):
    return f"{i:02}.png"


def group_name(group):
    return f"dog {group:02}"


def tested(method="stratified-shuffle", test_size=0.1, seed=0, folds=None, fold=0, groups=None, keys=None):
    """The photos that settings test on. `groups` are given where they are kept together."""
    y, x = np.array(CLASS), np.zeros(len(CLASS))
    if method == "hash":
        return [i for i in range(len(y)) if hashed_below(keys[i], test_size, seed)]
    if method == "group" and folds is None:
        splitter = GroupShuffleSplit(1, test_size=test_size, random_state=seed)
    elif method == "stratified-shuffle" and folds is None:
        splitter = StratifiedShuffleSplit(1, test_size=test_size, random_state=seed)
    elif groups is None:
        splitter = StratifiedKFold(folds or 5, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(folds or 5, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        return list(splitter.split(x, y, groups))[fold][1].tolist()


def write_settings():
    both = joined(GROUP, PICTURE)
    assert len(set(both)) == 5
    by_name = [group_name(group) for group in GROUP]
    first = [photo_name(PICTURE.index(picture)) for picture in PICTURE]
    folded, hashed, group, copies = (
        "split.method=stratified-k-fold",
        "split.method=hash",
        "split.method=group",
        "split.group_duplicates=true",
    )
    cases = [  # settings, whether `data.group` is set, what is tested on
        ([], False, tested()),
        ([], True, tested()),
        (["split.seed=7"], False, tested(seed=7)),
        (["split.test_size=0.3"], False, tested(test_size=0.3)),
        (["split.test_size=11", "split.seed=3"], False, tested(test_size=11, seed=3)),
        (["split.method=stratified-shuffle", "split.test_size=0.2"], False, tested(test_size=0.2)),
        ([folded], True, tested("fold")),
        (["split.test_size=0.15", "split.seed=4", copies], False, tested(folds=7, seed=4, groups=PICTURE)),
        ([hashed, "split.test_size=0.3"], False, tested("hash", 0.3, keys=[photo_name(i) for i in range(40)])),
        ([hashed, "split.test_size=0.3"], True, tested("hash", 0.3, keys=by_name)),
        ([hashed, "split.seed=9", "split.test_size=0.2"], True, tested("hash", 0.2, 9, keys=by_name)),
        ([hashed, "split.test_size=0.3", copies], False, tested("hash", 0.3, keys=first)),
        ([group], True, tested("group", groups=GROUP)),
        ([group, "split.test_size=0.4", "split.seed=5"], True, tested("group", 0.4, 5, groups=GROUP)),
        ([group, "split.test_size=3"], True, tested("group", 3, groups=GROUP)),
        ([group, "split.test_size=0.5", "split.seed=1", copies], True, tested("group", 0.5, 1, groups=both)),
        ([group, "split.folds=2", "split.fold=1", copies], True, tested("group", folds=2, fold=1, groups=both)),
        (["split.test_size=0.5", copies], True, tested(folds=2, groups=both)),
        ([folded, "split.folds=4", "split.fold=3", copies], False, tested("fold", folds=4, fold=3, groups=PICTURE)),
    ]
    for fold in range(5):
        settings = [folded, "split.seed=2", f"split.fold={fold}"]
        cases.append((settings, False, tested("fold", seed=2, fold=fold)))
    for fold in range(3):
        settings = [folded, "split.folds=3", f"split.fold={fold}"]
        cases.append((settings, False, tested("fold", folds=3, fold=fold)))
        settings = [group, "split.folds=3", "split.seed=1", f"split.fold={fold}"]
        cases.append((settings, True, tested("group", folds=3, seed=1, fold=fold, groups=GROUP)))
    # A share of the photos is a fold of as many as come nearest to it, but of two at least.
    for size, folds in [(0.1, 10), (0.3, 3), (0.9, 2), (6, 7)]:
        settings = [f"split.test_size={size}", copies]
        cases.append((settings, False, tested(folds=folds, groups=PICTURE)))
    data = {"class": CLASS, "group": GROUP, "picture": PICTURE}
    cases = [{"set": settings, "grouped": grouped, "test": test} for settings, grouped, test in cases]
    write("settings.json", data | {"cases": cases, "refused": []})


write_settings()
