"""Features that both sides fit and test on."""

import csv
import json
from pathlib import Path

import numpy as np

MIB = 1024


class Features:
    """An .npz and the config that has headstock train on it; and its two parts, as headstock splits it."""

    def __init__(self, program, file, test, load=True):
        self.config = f"{Path(file).stem}.toml"
        self.runs = 0
        text = f'version = 1\n[data]\nfeatures = "{file}"\n[split]\ntest_size = {test}\n'
        Path(self.config).write_text(text)
        # The fit alone is compared: no probabilities are calibrated.
        plain = ["--set", "calibration=none"]
        self.plain = plain if program.accepts("split", "--config", self.config, "--out", "probe.csv", *plain) else []
        self.kib = np.prod(shape_of(file), dtype=np.int64) * 4 / 1024
        if not load:
            return
        program("split", "--config", self.config, "--out", "split.csv")
        self.is_test = np.array([row["split"] == "test" for row in csv.DictReader(open("split.csv"))])
        with np.load(file) as archive:
            features, labels = archive["features"], archive["labels"]
        self.x, self.y = features[~self.is_test], labels[~self.is_test]
        self.x_test, self.y_test = features[self.is_test], labels[self.is_test]
        self.classes = int(labels.max()) + 1
        self.exact = self.x.astype(np.float64)

    def train(self, program, head, settings):
        """The run's folder, and how it went."""
        self.runs += 1
        run = f"{Path(self.config).stem}-{self.runs}"
        # Strings and lists are JSON as they are TOML.
        words = [word for key, value in settings.items() for word in ("--set", f"head.{key}={json.dumps(value)}")]
        return run, program("train", "--config", self.config, "--head", head, "--run", run, *words, *self.plain)

    def predictions(self, run):
        """What a run predicts for the test part, in its order."""
        with open(Path(run) / "predictions.csv") as file:
            rows = csv.reader(file)
            next(rows)
            predicted = {int(row[0]): int(row[2]) for row in rows}
        return np.array([predicted[row] for row in np.flatnonzero(self.is_test)])

    def multiple(self, peak_kib):
        return peak_kib / self.kib

    def times(self, peak_kib):
        return f"{peak_kib / MIB:.0f} MiB, {self.multiple(peak_kib):.1f} x"


def shape_of(file):
    with np.load(file) as archive, archive.zip.open("features.npy") as header:
        np.lib.format.read_magic(header)
        return np.lib.format.read_array_header_1_0(header)[0]


def of_photos(program, config):
    """The features of a config's photos, and how extracting them went. The test part is as large as the config's."""
    cache = ["--config", config, "--set", f"features.cache={Path.cwd() / 'cache'}"]
    extracted = program("extract", "--out", "photos.npz", *cache)
    program("split", "--out", "photos.split.csv", *cache)
    with open("photos.split.csv") as file:
        test = sum(row["split"] == "test" for row in csv.DictReader(file))
    return Features(program, "photos.npz", test), extracted
