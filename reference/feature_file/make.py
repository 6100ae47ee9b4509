"""Files of features as numpy, safetensors and pyarrow write them, of every kind that is read, and some that are not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).parent
features = (np.arange(24, dtype=np.float32).reshape(6, 4) - 10) / 4
labels = np.array([7, -1, 7, 300, -1, 300])

np.savez(HERE / "plain.npz", features=features, labels=labels)
np.savez_compressed(HERE / "compressed.npz", features=features, labels=labels.astype(np.int16))
np.savez(HERE / "double.npz", features=features.astype(np.float64), labels=labels.astype(">i4"), more=np.zeros(3))
np.savez(HERE / "fortran.npz", features=np.asfortranarray(features), labels=labels)
np.savez(HERE / "text.npz", features=features, labels=labels.astype(str))
np.savez(HERE / "flat.npz", features=features.ravel(), labels=labels)
np.savez(HERE / "short.npz", features=features, labels=labels[:5])
np.savez(HERE / "unnamed.npz", features, labels)
groups = np.array([3, 3, -5, 0, 0, -5], dtype=np.int32)
np.savez(HERE / "grouped.npz", features=features, labels=labels, groups=groups)
names = np.array(["akita", "pug", "Šarplaninac"])
paths = np.array([f"photos/{i}.jpg" for i in range(6)])
parts = np.array(["train", "train", "val", "test", "train", "test"])
numbers = np.array([1, 0, 1, 2, 0, 2])
np.savez(HERE / "described.npz", features=features, labels=numbers, classes=names, paths=paths, splits=parts)
np.savez(HERE / "too_few_classes.npz", features=features, labels=numbers, classes=names[:2])
np.savez(HERE / "no_split.npz", features=features, labels=numbers, splits=np.array(["fold 1"] * 6))
np.savez(HERE / "short_groups.npz", features=features, labels=labels, groups=groups[:4])
np.savez(HERE / "text_groups.npz", features=features, labels=labels, groups=groups.astype(str))
broken = features.copy()
broken[2, 1] = np.nan
np.savez(HERE / "nan.npz", features=broken, labels=labels)
# Two classes that a line divides, for the example in the documentation.
apart = np.random.RandomState(0).randn(40, 3).astype(np.float32)
apart[::2, 1] += 8
np.savez(HERE / "separable.npz", features=apart, labels=np.arange(40) % 2)

np.save(HERE / "plain.npy", features)
np.save(HERE / "double.npy", features.astype(np.float64))
np.save(HERE / "whole.npy", labels)
(HERE / "plain.csv").write_text("label\n" + "".join(f"{label}\n" for label in labels))
names = {7: "pug", -1: "akita, \"big\"", 300: "Šarplaninac"}
classes = [names[label] for label in labels.tolist()]
patients = ["P7", "P7", "P10", "P8", "P8", "P10"]
(HERE / "double.csv").write_text(
    "group,class,row\n" + "".join(f'{g},"{c.replace(chr(34), 2 * chr(34))}",{i}\n' for i, (g, c) in enumerate(zip(patients, classes)))
)

save_file({"features": features, "labels": labels, "groups": groups}, HERE / "plain.safetensors")
save_file({"features": features.astype(np.float64), "labels": labels.astype(np.int16)}, HERE / "double.safetensors")
half = {"features": torch.from_numpy(features), "labels": torch.from_numpy(labels % 256).to(torch.uint8)}
save_torch(half | {"features": half["features"].half()}, HERE / "f16.safetensors")
save_torch(half | {"features": half["features"].bfloat16()}, HERE / "bf16.safetensors")
save_file({"features": features}, HERE / "unlabelled.safetensors")
save_file({"features": features, "labels": labels.astype(np.float32)}, HERE / "float_labels.safetensors")
save_file({"features": features, "labels": labels[:5]}, HERE / "short.safetensors")
save_file({"features": features.ravel(), "labels": labels}, HERE / "flat.safetensors")
save_file({"features": broken, "labels": labels}, HERE / "nan.safetensors")


def table(name, features=list(features), kind=pa.list_(pa.float32()), more=(), **columns):
    columns = {"features": pa.array(features, kind), **columns}
    pq.write_table(pa.table(columns), HERE / f"{name}.parquet", **dict(more))


table("plain", label=labels, group=groups)
# Two row groups, several pages in each.
small = {"compression": "zstd", "row_group_size": 4, "data_page_size": 16, "write_batch_size": 1, "data_page_version": "2.0"}
table("double", kind=pa.list_(pa.float64()), more=small, labels=labels.astype(np.int16), **{"class": classes}, group=patients)
table("fixed", kind=pa.list_(pa.float32(), 4), more={"compression": "gzip"}, label=labels)
dictionary = pa.array(classes).dictionary_encode()
table("named", kind=pa.large_list(pa.float32()), **{"class": dictionary})
rows = features.tolist()
table("ragged", [*rows[:3], rows[3][:3], *rows[4:]], label=labels)
table("null_value", [*rows[:2], [1.0, None, 2.0, 3.0], *rows[3:]], label=labels)
table("null_list", [*rows[:5], None], label=labels)
table("empty_list", [rows[0], [], *rows[2:]], label=labels)
table("no_list", features[:, 0], pa.float32(), label=labels)
table("nested", [[row] for row in rows], pa.list_(pa.list_(pa.float32())), label=labels)
table("whole", [[1, 2]] * 6, pa.list_(pa.int64()), label=labels)
table("nan", list(broken), label=labels)
table("unlabelled", group=patients)
table("text", label=classes)
table("null_label", label=pa.array([7, None, 7, 300, -1, 300]))
table("two_names", label=labels, **{"class": [*classes[:5], "pug"]})
table("two_labels", label=[0, 1, 0, 2, 1, 3], **{"class": classes})
table("none", [], label=pa.array([], pa.int64()))
pq.write_table(pa.table({"feature": list(features), "label": labels}), HERE / "unnamed.parquet")
kinds = ("npz", "npy", "safetensors", "parquet")
print("reference/feature_file:", sum(len(list(HERE.glob(f"*.{kind}"))) for kind in kinds), "files")
