"""Which files of a data set are in which split: the `configs` of README.md as the `datasets` library reads them.

Each case has the README.md and the files of a repository, all empty Parquet shards. The library builds each config
offline from a folder with these files; nothing is read from them.
"""

import json
import tempfile
from pathlib import Path

import datasets
from datasets.load import LocalDatasetModuleFactory, get_dataset_builder_class

HERE = Path(__file__).parent
SHARDS = [
    "data/test-00000-of-00001.parquet",
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "data/validation-00000-of-00001.parquet",
]
PARTS = ["part-a/0.parquet", "part-a/1.parquet", "part-b/0.parquet", "part-b/deep/1.parquet", "part-c/test/0.parquet"]

CASES = {
    "splits by pattern": (
        SHARDS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
""",
    ),
    "splits that contradict the names": (
        PARTS,
        """
license: mit
configs:
  - config_name: default
    data_files:
      - split: train
        path: [part-a/*.parquet, "part-c/**"]
      - split: test
        path:
          - part-b/0.parquet
""",
    ),
    "a string is one pattern for train": (
        SHARDS,
        """
configs:
- config_name: default
  data_files: "data/*.parquet"
""",
    ),
    "a list is train": (
        SHARDS,
        """
configs:
- config_name: all
  data_files:
  - data/test-*
  - data/train-*
""",
    ),
    "a folder that all patterns are relative to": (
        PARTS,
        """
configs:
- config_name: a
  data_dir: part-a
- config_name: b
  data_dir: part-b
  default: true
  data_files:
  - split: train
    path: "*.parquet"
  - split: validation
    path: "deep/*"
""",
    ),
    "several configs and none by default": (
        PARTS,
        """
configs:
- config_name: a
  data_files: part-a/*
- config_name: b
  data_files: part-b/**
""",
    ),
    "the config with the name default": (
        PARTS,
        """
configs:
- config_name: a
  data_files: part-a/*
- config_name: default
  data_files: part-b/*
""",
    ),
    "two defaults": (
        PARTS,
        """
configs:
- config_name: a
  default: true
  data_files: part-a/*
- config_name: default
  data_files: part-b/*
""",
    ),
    "two configs of one name: the last counts": (
        PARTS,
        """
configs:
- config_name: a
  data_files: part-a/*
- config_name: a
  data_files: part-b/*
""",
    ),
    "a config without files has the files of the repository": (
        SHARDS,
        """
configs:
- config_name: default
  description: no files
""",
    ),
    "the splits of dataset_info assign no files": (
        PARTS,
        """
dataset_info:
  features:
  - name: label
    dtype: int64
  splits:
  - name: test
    num_examples: 1
  - name: validation
    num_examples: 1
""",
    ),
    "stars, question marks and sets": (
        ["a/0.parquet", "a/1.parquet", "a/b/2.parquet", "a/b/c/3.parquet", "x{1,2}.parquet", "x1.parquet", "x[3].parquet"],
        """
configs:
- config_name: star
  data_files: a/*
- config_name: folders
  data_files: a/**
- config_name: folders between
  data_files: a/**/*.parquet
- config_name: any folder
  data_files: "**/2.parquet"
- config_name: question
  data_files: a/?.parquet
- config_name: set
  data_files: a/[!0].parquet
- config_name: braces
  data_files: "x{1,2}.parquet"
""",
    ),
    "hidden and special folders": (
        ["a/0.parquet", "a/.hidden/0.parquet", "a/.0.parquet", "a/__x__/0.parquet"],
        """
configs:
- config_name: all
  data_files: "**"
- config_name: hidden
  data_files: a/.hidden/*
- config_name: special
  data_files: a/__x__/*
""",
    ),
    "one file in two splits": (
        SHARDS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*
  - split: test
    path: data/test-*
""",
    ),
    "a pattern of several that matches nothing": (
        SHARDS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: [data/train-*, data/extra-*]
""",
    ),
    "a file that is not there": (
        SHARDS,
        """
configs:
- config_name: default
  data_files: [data/train-00000-of-00002.parquet, data/none.parquet]
""",
    ),
    "a split without files": (
        SHARDS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/holdout-*
""",
    ),
    "a folder instead of a pattern": (
        PARTS,
        """
configs:
- config_name: default
  data_files: part-a
""",
    ),
    "a path that begins with a dot": (
        PARTS,
        """
configs:
- config_name: default
  data_files: ./part-a/*
""",
    ),
    "an entry with a third key": (
        PARTS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: part-a/*
    note: x
""",
    ),
    "a split twice": (
        PARTS,
        """
configs:
- config_name: default
  data_files:
  - split: train
    path: part-a/*
  - split: train
    path: part-b/*
""",
    ),
    "a split name with a dash": (
        PARTS,
        """
configs:
- config_name: default
  data_files:
  - split: train-a
    path: part-a/*
""",
    ),
    "a config without a name": (
        PARTS,
        """
configs:
- data_files: part-a/*
""",
    ),
    "anchors and other styles": (
        PARTS,
        """
configs: [{config_name: "b", data_files: [{split: test, path: &b 'part-b/*'}, {"split": train, "path": [part-a/*]}]},
  {config_name: c, data_files: *b}]
""",
    ),
    "no configs": (SHARDS, "license: mit\n"),
}


def read(folder):
    """For each config the files of its splits; the name of the default; what `datasets` refuses is an error."""
    module = LocalDatasetModuleFactory(str(folder)).get_module()
    builder = get_dataset_builder_class(module)
    names = list(builder.builder_configs) or [None]
    configs = {}
    for name in names:
        try:
            found = builder(config_name=name, cache_dir=str(folder / "cache"), **module.builder_kwargs).config.data_files
        except Exception as error:
            configs[str(name)] = type(error).__name__
            continue
        base = f"{folder.resolve()}/"
        configs[str(name)] = {
            str(split): sorted(file.removeprefix(base) for file in files) for split, files in found.items()
        }
    return {"configs": configs, "default": builder.DEFAULT_CONFIG_NAME}


def main():
    datasets.logging.set_verbosity_error()
    cases = []
    for name, (files, front) in CASES.items():
        readme = f"---{front if front.startswith(chr(10)) else chr(10) + front}---\n\n# Photos\n"
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "photos"
            for file in [*files, "README.md"]:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(readme if file == "README.md" else "")
            try:
                expected = read(folder)
            except Exception as error:
                expected = {"error": f"{type(error).__name__}"}
        cases.append({"name": name, "readme": readme, "files": sorted(files), **expected})
    (HERE / "configs.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


main()
