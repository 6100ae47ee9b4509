"""Golden transforms: torchvision's on PIL images, over photos made by a formula (`photo`, also in the tests).

Of a large result only every 32nd row is kept.
"""

import json
import pathlib

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, RandomResizedCrop, Resize
from torchvision.transforms import functional as F

HERE = pathlib.Path(__file__).parent
FILTERS = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}


def photo(width, height):
    """Waves, edges and noise."""
    x = np.arange(width, dtype=np.int64)[None, :, None]
    y = np.arange(height, dtype=np.int64)[:, None, None]
    c = np.arange(3, dtype=np.int64)[None, None, :]
    wave = (x * (3 + c) + y * (5 - c)) % 256
    edge = np.where((x // 5 + y // 3 + c) % 2 == 0, 255, 0)
    noise = ((x * 73856093) ^ (y * 19349663) ^ (c * 83492791)) % 256
    return Image.fromarray(((2 * wave + edge + noise) // 4).astype(np.uint8))


EVAL = [
    # width, height, resize, crop (height, width)
    (97, 61, 40, (32, 32)),  # down
    (61, 97, 40, (32, 28)),
    (64, 64, 31, (30, 29)),
    (45, 62, 33, (24, 26)),
    (100, 75, 50, (33, 47)),
    (1500, 1003, 36, (32, 32)),  # far down
    (13, 17, 40, (32, 32)),  # up
    (7, 5, 33, (31, 29)),
    (30, 31, 32, (31, 32)),
    (1, 1, 16, (16, 16)),
    (2, 3, 24, (24, 23)),
    (40, 40, 40, (32, 32)),  # as it is
    (40, 57, 40, (32, 35)),
    (57, 40, 40, (40, 40)),
    (50, 50, 32, (32, 32)),
    (60, 45, 20, (32, 30)),  # a crop larger than the photo
    (200, 30, 16, (25, 20)),
    (30, 200, 16, (20, 25)),
    (9, 9, 5, (12, 11)),
    (40, 40, 40, (47, 51)),
    (300, 4, 24, (24, 24)),  # long and thin
    (3, 310, 24, (24, 24)),
    (1, 50, 8, (8, 8)),
    (700, 2, 12, (8, 40)),
    (400, 533, 256, (224, 224)),  # as weights ask for
    (533, 400, 235, (224, 224)),
]

CROPS = [
    # width, height, top, left, height, width, size (height, width)
    (61, 47, 3, 5, 30, 41, (24, 24)),
    (61, 47, 0, 0, 47, 61, (24, 24)),
    (61, 47, 20, 30, 7, 9, (24, 24)),
    (61, 47, 46, 60, 1, 1, (16, 16)),
    (61, 47, 10, 10, 24, 24, (24, 24)),
    (61, 47, 10, 10, 24, 30, (24, 24)),
    (61, 47, 10, 10, 30, 24, (20, 24)),
]

TURNS = [
    (size, degrees)
    for size in [(24, 24), (25, 25), (23, 31), (32, 18)]
    for degrees in [0.0, 1e-9, 0.5, -12.345, 29.97, -30.0, 30.0, 45.0, 90.0, -90.0, 135.5, 179.99, 180.0, -180.0]
]

VIEWS = [
    # width, height, (top, left, height, width) or None, mirrored, degrees, filter
    (61, 47, (3, 5, 30, 41), True, 17.5, "bilinear"),
    (61, 47, (3, 5, 30, 41), False, -29.0, "bicubic"),
    (61, 47, None, True, None, "bilinear"),
    (61, 47, None, False, 30.0, "lanczos"),
    (47, 61, (0, 1, 60, 46), True, None, "nearest"),
]
VIEW_SIZE = (26, 24)

FALLBACKS = [
    # width, height, scale, ratio: no draw fits, so that the middle is taken
    (300, 4, (0.9, 1.0), (0.75, 4 / 3)),
    (5, 300, (0.9, 1.0), (0.75, 4 / 3)),
    (101, 7, (0.5, 1.0), (1.0, 1.0)),
    (7, 102, (0.5, 1.0), (0.9, 1.1)),
    (1, 99, (0.9, 1.0), (0.75, 4 / 3)),
]


def draws(width, height, scale, ratio, count):
    torch.manual_seed(0)
    image = Image.new("RGB", (width, height))
    return np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)], dtype=float)


def distribution(width, height, scale, ratio):
    top, left, h, w = draws(width, height, scale, ratio, 20000).T
    share = h * w / (width * height)
    quantities = {
        "share": share,
        "log_ratio": np.log(w / h),
        "height": h,
        "width": w,
        "top": top,
        "left": left,
    }
    return {
        "width": width,
        "height": height,
        "scale": scale,
        "ratio": ratio,
        "mean": {name: float(values.mean()) for name, values in quantities.items()},
        "deviation": {name: float(values.std()) for name, values in quantities.items()},
    }


def main():
    cases = {"eval": [], "crop": [], "turn": [], "view": [], "fallback": [], "distribution": []}
    results = {}

    def keep(kind, case, image):
        name = f"{kind}{len(cases[kind])}"
        pixels = np.asarray(image)
        step = 32 if pixels.shape[0] > 64 else 1
        results[name] = np.ascontiguousarray(pixels[::step])
        cases[kind].append(case | {"result": name, "every": step})

    for width, height, resize, crop in EVAL:
        for name, mode in FILTERS.items():
            transform = Compose([Resize(resize, mode), CenterCrop(crop)])
            case = {"width": width, "height": height, "resize": resize, "crop": crop, "filter": name}
            keep("eval", case, transform(photo(width, height)))
    for width, height, top, left, h, w, size in CROPS:
        for name, mode in FILTERS.items():
            case = {"width": width, "height": height, "crop": [top, left, h, w], "size": size, "filter": name}
            keep("crop", case, F.resized_crop(photo(width, height), top, left, h, w, size, mode))
    for (width, height), degrees in TURNS:
        case = {"width": width, "height": height, "degrees": degrees}
        keep("turn", case, F.rotate(photo(width, height), degrees))
    for width, height, crop, mirrored, degrees, name in VIEWS:
        image = photo(width, height)
        if crop is None:
            image = CenterCrop(VIEW_SIZE)(Resize(28, FILTERS[name])(image))
        else:
            image = F.resized_crop(image, *crop, VIEW_SIZE, FILTERS[name])
        if mirrored:
            image = F.hflip(image)
        if degrees is not None:
            image = F.rotate(image, degrees)
        case = {"width": width, "height": height, "crop": crop, "mirrored": mirrored, "degrees": degrees}
        keep("view", case | {"filter": name}, image)
    for width, height, scale, ratio in FALLBACKS:
        drawn = np.unique(draws(width, height, scale, ratio, 50), axis=0)
        assert len(drawn) == 1
        case = {"width": width, "height": height, "scale": scale, "ratio": ratio, "crop": drawn[0].astype(int).tolist()}
        cases["fallback"].append(case)
    for arguments in [(400, 533, (0.08, 1.0), (0.75, 4 / 3)), (640, 300, (0.3, 0.9), (0.5, 1.0))]:
        cases["distribution"].append(distribution(*arguments))

    made_by = f"torchvision {torchvision.__version__.split('+')[0]}, Pillow {PIL.__version__}"
    with open(HERE / "cases.json", "w", newline="\n") as file:
        json.dump({"made_by": made_by} | cases, file, separators=(",", ":"))
        file.write("\n")
    save_file(results, HERE / "results.safetensors")
    for name in ["cases.json", "results.safetensors"]:
        print(f"reference/transform/{name}: {(HERE / name).stat().st_size} bytes")


main()
