"""Photos a second, one core: ours beside Pillow's, from the bytes of a file to 224 x 224 pixels.

usage: photos.py PHOTO_SPEED FOLDER [--rounds 5] [--every 1]

PHOTO_SPEED is the built example of `headstock-loader`. Both have the files in memory before the clock starts, decode, turn
upright, make the short side 256 (bilinear) and take the middle 224 x 224; or, a quarter of the photo, take the middle half
along both axes and make its short side 224. They run in turn, once a round; a ratio is the median of the rounds' ratios.
The last rows' photo has 12 megapixels: mirrored copies of one of the folder, enlarged threefold with grain, quality 90,
4:2:0. Prints a table in Markdown and a line of JSON.
"""

import argparse
import io
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, ImageOps

LARGE = (4000, 3000)
PHOTOS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def ready(data, way):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = image.size
    short = 256
    if way == "quarter":
        left, top = width // 4, height // 4
        image = image.crop((left, top, left + width // 2, top + height // 2))
        (width, height), short = image.size, 224
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return image.crop((left, top, left + 224, top + 224))


def pillows(photos, way, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        for data in photos:
            ready(data, way).tobytes()
    return repeats * len(photos) / (time.perf_counter() - start)


def ours(binary, folder, way, repeats, every):
    words = [binary, str(folder), way, str(repeats), str(every)]
    rates = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["photos_per_second"]
    return statistics.harmonic_mean(rates)


def large(path):
    """A photo of 12 megapixels with a camera's share of detail: tiles of another, so that no part is empty."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    tile = small.resize((small.width * 3, small.height * 3), Image.Resampling.BICUBIC)
    row = [tile, ImageOps.mirror(tile)]
    whole = Image.new("RGB", LARGE)
    for y in range(0, LARGE[1], tile.height):
        for x in range(0, LARGE[0], tile.width):
            part = row[(x // tile.width) % 2]
            whole.paste(part if (y // tile.height) % 2 == 0 else ImageOps.flip(part), (x, y))
    grain = np.random.default_rng(0).normal(0, 3, (LARGE[1], LARGE[0], 1))
    return Image.fromarray(np.clip(np.asarray(whole) + grain, 0, 255).astype(np.uint8))


def compare(what, binary, folder, photos, way, rounds, repeats, every=1):
    rates = []
    for _ in range(rounds):
        rates.append((ours(binary, folder, way, repeats, every), pillows(photos, way, repeats)))
    ratios = [a / b for a, b in rates]
    middle = [statistics.median(column) for column in zip(*rates)]
    return {
        "what": what, "way": way, "headstock": middle[0], "pillow": middle[1], "ratio": statistics.median(ratios),
        "lowest": min(ratios), "highest": max(ratios),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in PHOTOS)[:: options.every]
    photos = [path.read_bytes() for path in paths]
    rows = []
    for way in ["exact", "scaled", "quarter"]:
        rows.append(compare(f"{len(photos)} photos", options.binary, options.folder, photos, way, options.rounds, 1, options.every))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "large.jpg"
        large(paths[0]).save(path, quality=90, subsampling="4:2:0")
        data = path.read_bytes()
        what = f"a JPEG of 12 megapixels, {len(data) / 1e6:.1f} MB"
        for way in ["exact", "scaled", "quarter"]:
            rows.append(compare(what, options.binary, path, [data], way, options.rounds, 5))
    print(f"| photos/s, one core, Pillow {PIL.__version__} | way | headstock | Pillow | ratio | lowest to highest |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['way']} | {row['headstock']:.1f} | {row['pillow']:.1f} | {row['ratio']:.2f} "
              f"| {row['lowest']:.2f} to {row['highest']:.2f} |")
    print()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
