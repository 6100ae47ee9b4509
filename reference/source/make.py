"""Shards as others write them: Parquet by the `datasets` library and by pyarrow, tar archives by `webdataset` and tarfile.

Each photo is 4 x 3 pixels of one grey, the number that its expected row gives.
"""

import gzip
import io
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

HERE = Path(__file__).parent
NAMES = ["pug", "akita", "boxer"]


def photo(grey, form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(out, form)
    return out.getvalue()


def hub(path, rows, group_size):
    """As `Dataset.push_to_hub` writes it: a struct of bytes and path, a ClassLabel with -1 where there is none."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "dog": datasets.Value("string")}
    )
    data = {
        "image": [{"bytes": photo(grey), "path": f"{grey}.png"} for grey, _ in rows],
        "label": [label for _, label in rows],
        "dog": [f"dog {grey % 4}" for grey, _ in rows],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(path, batch_size=group_size)


def plain(path, rows, **options):
    """Bytes and text in flat columns, as other programs write them."""
    table = pa.table(
        {
            "picture": pa.array([photo(grey) for grey, _ in rows], pa.binary()),
            "class": pa.array([None if label < 0 else NAMES[label] for _, label in rows]),
            "use": pa.array(["test" if grey % 3 == 0 else "train" for grey, _ in rows]),
            "boxes": pa.array([[1, 2]] * len(rows), pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, path, **options)


def shards():
    first = [(i, i % 3) for i in range(25)] + [(25, -1)]
    hub(HERE / "train-00000-of-00002.parquet", first, 10)
    hub(HERE / "train-00001-of-00002.parquet", [(i, (i + 1) % 3) for i in range(26, 30)], 10)
    hub(HERE / "test-00000-of-00001.parquet", [(i, i % 3) for i in range(30, 36)], 10)
    rows = [(i, -1 if i == 44 else i % 3) for i in range(40, 52)]
    # A page a row, no dictionary: what is passed over is not unpacked.
    plain(HERE / "plain.parquet", rows, compression="zstd", use_dictionary=False, data_page_size=1, write_batch_size=1)
    plain(HERE / "dictionary.parquet", rows, compression="gzip", data_page_version="2.0", row_group_size=5)

    for shard in range(2):
        with webdataset.TarWriter(str(HERE / f"numbers-{shard:03}.tar"), mtime=0) as out:
            for i in range(8):
                out.write({"__key__": f"sub/{i:04}", "png": photo(60 + 8 * shard + i), "cls": i % 2})
    with webdataset.TarWriter(str(HERE / "records.tar.gz"), compress=True, mtime=0) as out:
        for i in range(6):
            record = {"label": NAMES[i % 3], "dog": i // 2, "use": "val" if i == 0 else "train"}
            out.write({"__key__": f"{i:04}", "jpg": photo(90 + i, "JPEG"), "json": record, "txt": "a caption"})
    # What else archives hold: long names, folders, links, files of other kinds, a sample without a class.
    with tarfile.open(HERE / "odd.tar", "w", format=tarfile.GNU_FORMAT) as out:

        def add(name, data=None, **kinds):
            info = tarfile.TarInfo(name)
            for key, value in kinds.items():
                setattr(info, key, value)
            info.size = len(data or b"")
            out.addfile(info, io.BytesIO(data or b""))

        add("cats", type=tarfile.DIRTYPE)
        add("cats/" + "long" * 50 + ".jpeg", photo(80, "JPEG"))
        add("cats/" + "long" * 50 + ".txt", b"cat\n")
        add("link.png", type=tarfile.SYMTYPE, linkname="../../etc/passwd")
        add("./b.PNG", photo(81))
        add("./b.cls", b" dog ")
        add("./b.depth.npy", b"...")
        add("c.png", photo(82))
        add("README", b"...")


def path_of(grey):
    return f"photos/{grey}.png"


def forms():
    """Other codecs, other names of columns, and photos that are files beside the table."""
    rows = [(i, i % 3) for i in range(100, 106)]
    for codec in ["brotli", "lz4"]:
        plain(HERE / f"{codec}.parquet", rows, compression=codec)
    features = datasets.Features(
        {"photo": datasets.Image(), "note": datasets.Value("string"), "labels": datasets.ClassLabel(names=NAMES)}
    )
    data = {
        "photo": [{"bytes": photo(grey), "path": None} for grey, _ in rows],
        "note": ["a note"] * len(rows),
        "labels": [label for _, label in rows],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(HERE / "labels.parquet")
    (HERE / "paths/photos").mkdir(parents=True, exist_ok=True)
    for grey, _ in rows:
        (HERE / "paths" / path_of(grey)).write_bytes(photo(grey))
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = pa.array([NAMES[label] for _, label in rows])
    # In the second row group, the photos with even numbers are in the table.
    for name, is_in_table in [("paths", lambda index, grey: False), ("mixed", lambda index, grey: index > 2 and grey % 2 == 0)]:
        images = [
            {"bytes": photo(grey), "path": "elsewhere.png"} if is_in_table(index, grey) else {"bytes": None, "path": path_of(grey)}
            for index, (grey, _) in enumerate(rows)
        ]
        table = pa.table({"image": pa.array(images, image), "label": labels})
        pq.write_table(table, HERE / "paths" / f"{name}.parquet", row_group_size=3)
    texts = pa.array([path_of(grey) for grey, _ in rows])
    pq.write_table(pa.table({"image": texts, "label": labels}), HERE / "paths" / "text.parquet")


shards()
forms()
for name in ["records.tar.gz"]:
    # The header of gzip holds the time.
    path = HERE / name
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data, mtime=0))
