"""Folders with metadata as `imagefolder` of the `datasets` library reads them, and what it reads."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent
datasets.disable_progress_bars()


def photo(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path)


def rows(start):
    names = ["a.png", "sub/b.png", "c c.png", "d.png"]
    for index, name in enumerate(names):
        yield {"file_name": name, "breed": ["pug", "akita"][index % 2], "dog": f"dog {index // 2}"}, start + index


def write(folder, kind, start):
    table = []
    for row, grey in rows(start):
        photo(folder / row["file_name"], grey)
        table.append(row)
    if kind == "csv":
        lines = ["file_name,breed,dog"] + [",".join(row.values()) for row in table]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        pq.write_table(pa.Table.from_pylist(table), folder / "metadata.parquet")


expected = {}
for number, kind in enumerate(["csv", "jsonl", "parquet"]):
    root = HERE / kind
    for part, split in enumerate(["train", "test"]):
        write(root / split, kind, 10 + 40 * number + 20 * part)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(root))
    expected[kind] = [
        [split, row["image"].getpixel((0, 0))[0], row["breed"], row["dog"]]
        for split in ["train", "test"]
        for row in loaded[split]
    ]
(HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
