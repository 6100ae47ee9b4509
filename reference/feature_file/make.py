"""Archives of features as numpy writes them, of every kind that is read, and some that are not."""

from pathlib import Path

import numpy as np

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
np.savez(HERE / "short_groups.npz", features=features, labels=labels, groups=groups[:4])
np.savez(HERE / "text_groups.npz", features=features, labels=labels, groups=groups.astype(str))
broken = features.copy()
broken[2, 1] = np.nan
np.savez(HERE / "nan.npz", features=broken, labels=labels)
# Two classes that a line divides, for the example in the documentation.
apart = np.random.RandomState(0).randn(40, 3).astype(np.float32)
apart[::2, 1] += 8
np.savez(HERE / "separable.npz", features=apart, labels=np.arange(40) % 2)
print("reference/feature_file:", len(list(HERE.glob("*.npz"))), "archives")
