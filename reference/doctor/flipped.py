"""How well labels that were flipped at random are found among photos of yours, beside cleanlab on the same probabilities.

    python reference/doctor/flipped.py PHOTOS --weights WEIGHTS [--share 0.05] [--seeds 3] [--head linear] [--build target/release]

PHOTOS is a folder per class. For each seed a share of the labels is flipped to another class in a table, `headstock doctor` and
`train/examples/out_of_fold.rs` run on it, and the average precision of rankings of the photos is printed, the flipped ones
being what is to be found: doctor's of all photos (`labels` of `--json`), of those that it lists as suspicious (what it does not list
comes last, as one tie), and on the same probabilities cleanlab's issues and its scores of all photos. Features are kept from seed to seed.
"""

import argparse
import csv
import io
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def listing(photos):
    files = sorted(path.relative_to(photos) for path in photos.rglob("*") if path.suffix.lower() in ENDINGS)
    return [(path.as_posix(), path.parts[0]) for path in files]


def flipped(rows, share, seed):
    """The rows with new labels for a share of them, and which those are."""
    random = np.random.default_rng(seed)
    classes = sorted({label for _, label in rows})
    chosen = set(random.choice(len(rows), round(share * len(rows)), replace=False).tolist())
    others = {label: [other for other in classes if other != label] for label in classes}
    new = [
        (path, str(random.choice(others[label])) if number in chosen else label)
        for number, (path, label) in enumerate(rows)
    ]
    return new, {rows[number][0] for number in chosen}


def first_ranks(paths, ranked):
    """A score of each path that falls with its place among the ranked ones; 0 for others."""
    place = {path: len(ranked) - at for at, path in enumerate(ranked)}
    return [place.get(path, 0) for path in paths]


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(options, folder, seed):
    photos = options.photos.resolve()
    rows, wrong = flipped(listing(photos), options.share, seed)
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *rows])
    (folder / "headstock.toml").write_text(
        f'version = 1\n[data]\ncsv = "labels.csv"\nimages = {json.dumps(str(photos))}\n'
        f"[backbone]\nweights = {json.dumps(str(options.weights.resolve()))}\n"
        f"[features]\ncache = {json.dumps(str((options.cache or folder / 'cache').resolve()))}\n"
        f"[head]\nkind = {json.dumps(options.head)}\n"
    )
    config = folder / "headstock.toml"
    figures = json.loads(run(options.build / "headstock", "doctor", "--json", "--config", config).splitlines()[-1])
    found = [finding for finding in figures["findings"] if finding["kind"] == "suspicious-label"]
    ranked = [item["photos"][0]["path"] for finding in found for item in finding["items"]]

    table = list(csv.reader(io.StringIO(run(options.build / "examples/out_of_fold", config))))
    classes = table[0][2:]
    paths = [row[0] for row in table[1:]]
    labels = np.array([classes.index(row[1]) for row in table[1:]])
    probabilities = np.array([[float(value) for value in row[2:]] for row in table[1:]])
    probabilities /= probabilities.sum(1, keepdims=True)
    truth = [path in wrong for path in paths]

    def precision(scores):
        return average_precision_score(truth, scores)

    def issues(by, rank):
        chosen = find_label_issues(labels, probabilities, filter_by=by, return_indices_ranked_by=rank, n_jobs=1)
        return precision(first_ranks(paths, [paths[sample] for sample in chosen]))

    hits = len(set(ranked) & wrong)
    result = {
        "seed": seed,
        "flipped": len(wrong),
        "listed": len(ranked),
        "precision": hits / max(len(ranked), 1),
        "recall": hits / len(wrong),
        "doctor, all photos": precision(first_ranks(paths, [label["path"] for label in figures["labels"]])),
        "doctor, those listed": precision(first_ranks(paths, ranked)),
    }
    for by in ["confident_learning", "prune_by_noise_rate", "both", "low_self_confidence"]:
        for rank in ["self_confidence", "normalized_margin"]:
            result[f"cleanlab, {by}, {rank}"] = issues(by, rank)
    for method in ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]:
        scores = get_label_quality_scores(labels, probabilities, method=method, adjust_pred_probs=False)
        result[f"all photos by {method}"] = precision(-scores)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--head", default="linear")
    parser.add_argument("--cache", type=Path, help="where features are kept after this")
    parser.add_argument("--build", type=Path, default=Path("target/release"), help="where cargo has put the programs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(options, Path(folder), seed) for seed in range(options.seeds)]
    print("| | " + " | ".join(f"seed {result['seed']}" for result in results) + " | mean |")
    print("|---|" + "---|" * (len(results) + 1))
    for name in list(results[0])[1:]:
        values = [result[name] for result in results]
        shown = [str(value) if isinstance(value, int) else f"{value:.3f}" for value in values]
        print(f"| {name} | " + " | ".join(shown) + f" | {np.mean(values):.3f} |")


main()
