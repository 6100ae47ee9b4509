"""Golden augmentation: torchvision's transforms, version 2, on PIL images, over photos made by formulas (also in the tests).

`cases.json` has what was asked for, `results.safetensors` what came out, `draws.json` how torchvision draws.
"""

import inspect
import itertools
import json
import pathlib
from unittest import mock

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

HERE = pathlib.Path(__file__).parent
DRAWS = 20000
MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def photo(kind, width, height):
    """Waves, edges and noise; the same with little contrast, and mostly white; one colour."""
    x = np.arange(width, dtype=np.int64)[None, :, None]
    y = np.arange(height, dtype=np.int64)[:, None, None]
    c = np.arange(3, dtype=np.int64)[None, None, :]
    wave = (x * (3 + c) + y * (5 - c)) % 256
    edge = np.where((x // 5 + y // 3 + c) % 2 == 0, 255, 0)
    noise = ((x * 73856093) ^ (y * 19349663) ^ (c * 83492791)) % 256
    values = (2 * wave + edge + noise) // 4
    if kind == "pale":
        values = values // 5 + 90
    if kind == "bright":
        values = np.minimum(4 * values, 255)
    if kind == "flat":
        values = np.broadcast_to(np.array([200, 90, 17]), values.shape)
    return Image.fromarray(values.astype(np.uint8))


PHOTOS = [
    ("full", 31, 23),
    ("pale", 18, 25),
    ("flat", 5, 4),
    ("full", 1, 1),
    ("full", 1, 7),
    ("pale", 9, 1),
    ("full", 2, 3),
    ("bright", 32, 24),
]
USUAL = PHOTOS[:2]

AFFINES = [
    # degrees, translate, scale, shear
    (0.0, (0, 0), 1.0, (0.0, 0.0)),
    (30.0, (0, 0), 1.0, (0.0, 0.0)),
    (-77.25, (3, -2), 1.0, (0.0, 0.0)),
    (0.0, (5, 4), 1.0, (0.0, 0.0)),
    (0.0, (0, 0), 0.7, (0.0, 0.0)),
    (0.0, (-2, 3), 1.3, (0.0, 0.0)),
    (0.0, (0, 0), 1.0, (20.0, 0.0)),
    (0.0, (0, 0), 1.0, (-12.5, 33.0)),
    (13.0, (-4, 1), 0.81, (7.0, -5.0)),
    (180.0, (0, 0), 2.5, (0.0, 0.0)),
    (90.0, (0, 0), 1.0, (0.0, 0.0)),
]


def corners(width, height, share):
    """A quadrilateral whose corners have moved in by parts of `share`."""
    x, y = (width - 1) * share, (height - 1) * share
    right, bottom = width - 1, height - 1
    places = [(x, 0.3 * y), (right - 0.5 * x, y), (right - x, bottom), (0.2 * x, bottom - 0.7 * y)]
    return [[int(a), int(b)] for a, b in places]


def erase(image, top, left, height, width, value):
    return F.erase(image, top, left, height, width, torch.tensor(value)[:, None, None].float())


def operations():
    """Each operation with its parameters: the photo's, its name, what the test reads, what torchvision does."""
    for kind, width, height in PHOTOS:
        small = (kind, width, height) not in USUAL
        image = photo(kind, width, height)

        def case(name, function, **parameters):
            return [kind, width, height], {"name": name} | parameters, function(image)

        yield case("flip_horizontal", F.hflip)
        yield case("flip_vertical", F.vflip)
        yield case("grayscale", lambda i: F.rgb_to_grayscale(i, 3))
        yield case("equalize", F.equalize)
        yield case("autocontrast", F.autocontrast)
        yield case("invert", F.invert)
        for bits in [1, 2, 3, 5, 7, 8]:
            yield case("posterize", lambda i: F.posterize(i, bits), bits=bits)
        for threshold in [0.0, 17.0, 100.3, 127.5, 128.0, 255.0]:
            yield case("solarize", lambda i: F.solarize(i, threshold), threshold=threshold)
        for name, function in {
            "brightness": F.adjust_brightness,
            "contrast": F.adjust_contrast,
            "saturation": F.adjust_saturation,
            "sharpness": F.adjust_sharpness,
        }.items():
            for factor in [0.0, 0.13, 0.7, 1.0] if small else [0.0, 0.13, 0.5, 0.7, 1.0, 1.21, 1.99, 3.7]:
                yield case(name, lambda i: function(i, factor), factor=factor)
        for turns in [-0.5, 0.31] if small else [-0.5, -0.31, -0.004, 0.0, 0.003, 0.1, 0.25, 0.49, 0.5]:
            yield case("hue", lambda i: F.adjust_hue(i, turns), turns=turns)
        for mode in MODES:
            affines = AFFINES[8:9] if small else AFFINES
            for degrees, translate, scale, shear in affines if mode != "bicubic" else affines[-3:]:
                parameters = {"degrees": degrees, "translate": translate, "scale": scale, "shear": shear}
                yield case(
                    "affine",
                    lambda i: F.affine(i, degrees, translate, scale, shear, interpolation=MODES[mode]),
                    interpolation=mode,
                    **parameters,
                )
            for degrees in [33.0] if small or mode == "bicubic" else [0.0, -12.345, 33.0, 90.0, 180.0]:
                yield case("rotate", lambda i: F.rotate(i, degrees, MODES[mode]), degrees=degrees, interpolation=mode)
            for share in [] if small else [0.0, 0.2, 0.45]:
                ends = corners(width, height, share)
                starts = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
                yield case(
                    "perspective", lambda i: F.perspective(i, starts, ends, MODES[mode]), corners=ends, interpolation=mode
                )
        for kernel, sigma in [((3, 3), 0.1), ((3, 3), 0.8), ((5, 9), 2.0), ((23, 23), 1.7), ((1, 7), 4.0)]:
            if kernel[0] // 2 < width and kernel[1] // 2 < height:
                yield case("gaussian_blur", lambda i: F.gaussian_blur(i, kernel, [sigma] * 2), kernel=kernel, sigma=sigma)
        for top, left, h, w, value in [(0, 0, height, width, [0.0] * 3), (height // 2, width // 3, 1, 1, [255.0, 3.7, 90.0])]:
            yield case(
                "erase",
                lambda i: erase(i, top, left, h, w, value),
                area=[top, left, h, w],
                value=[int(v) for v in value],
            )


class Recorded:
    """A policy that notes what it draws, and does it unless `idle`."""

    idle = False

    def _apply_image_or_video_transform(self, image, transform_id, magnitude, interpolation, fill):
        self.drawn.append((id(image), transform_id, magnitude))
        if self.idle:
            return image.clone() if isinstance(image, torch.Tensor) else image
        return super()._apply_image_or_video_transform(image, transform_id, magnitude, interpolation, fill)

    def _sample_dirichlet(self, params):
        weights = super()._sample_dirichlet(params)
        self.weights.append(weights[0].tolist())
        return weights

    def record(self, image):
        self.drawn, self.weights = [], []
        return self(image)

    def chain(self):
        return [[name, magnitude] for _, name, magnitude in self.drawn]

    def chains(self):
        """AugMix begins each chain at the same image."""
        chains = []
        for image, name, magnitude in self.drawn:
            if image == self.drawn[0][0]:
                chains.append([])
            chains[-1].append([name, magnitude])
        return chains


class RandAugment(Recorded, v2.RandAugment):
    pass


class TrivialAugmentWide(Recorded, v2.TrivialAugmentWide):
    pass


class AutoAugment(Recorded, v2.AutoAugment):
    pass


class AugMix(Recorded, v2.AugMix):
    pass


def policy_operations():
    """Each operation of a policy at several magnitudes, on PIL images and on tensors."""
    policy = v2.AutoAugment()
    shape = ("full", 23, 17)
    for name, (magnitudes, signed) in (v2.TrivialAugmentWide._AUGMENTATION_SPACE | {"Invert": (lambda *_: None, False)}).items():
        scale = magnitudes(31, 17, 23)
        for i, step in enumerate([0] if scale is None else [1, 9, 17, 24, 30]):
            magnitude = 0.0 if scale is None else float(scale[step]) * (-1 if signed and i % 2 else 1)
            for where in ["pil", "tensor"]:
                for mode in ["nearest", "bilinear"] if where == "pil" else ["bilinear"]:
                    if mode == "bilinear" and where == "pil" and name not in ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]:
                        continue
                    image = photo(*shape)
                    if where == "tensor":
                        image = F.pil_to_tensor(image)
                    image = policy._apply_image_or_video_transform(image, name, magnitude, MODES[mode], {})
                    if where == "tensor":
                        image = F.to_pil_image(image)
                    yield list(shape), {"name": name, "magnitude": magnitude, "on": where, "interpolation": mode}, image


def policies():
    """Whole policies, with what they drew."""
    shape = ("full", 31, 23)
    image = photo(*shape)
    for name, policy, count in [
        ("rand-augment", RandAugment(), 12),
        ("rand-augment", RandAugment(num_ops=4, magnitude=20, interpolation="bilinear"), 6),
        ("trivial-augment-wide", TrivialAugmentWide(), 12),
        ("auto-augment", AutoAugment(), 25),
    ]:
        torch.manual_seed(1)
        for _ in range(count):
            result = policy.record(image)
            yield list(shape), {"policy": name, "interpolation": policy.interpolation, "chain": policy.chain()}, result
    torch.manual_seed(2)
    for policy in [AugMix(), AugMix(severity=10, mixture_width=2, chain_depth=2), AugMix(alpha=0.3, all_ops=False)]:
        for _ in range(8):
            result = policy.record(image)
            (photo_weight, mixed), weights = policy.weights
            chains = [[np.float32(w) * np.float32(mixed), chain] for w, chain in zip(weights, policy.chains(), strict=True)]
            chains = [[float(w), chain] for w, chain in chains]
            yield list(shape), {"policy": "aug-mix", "original": photo_weight, "chains": chains}, result


def scales():
    """What each step of each scale is."""
    result = []
    for policy, space, bins in [
        ("searched", v2.AutoAugment._AUGMENTATION_SPACE, 10),
        ("searched", v2.RandAugment._AUGMENTATION_SPACE, 31),
        ("searched", v2.RandAugment._AUGMENTATION_SPACE, 2),
        ("wide", v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31),
        ("wide", v2.TrivialAugmentWide._AUGMENTATION_SPACE, 8),
        ("mixed", v2.AugMix._AUGMENTATION_SPACE, 10),
    ]:
        width, height = 224, 160
        for name, (magnitudes, signed) in space.items():
            values = magnitudes(bins, height, width)
            values = [0.0] * bins if values is None else [float(v) for v in values]
            result.append({"scale": policy, "size": [width, height], "name": name, "signed": signed, "steps": values})
    return result


def defaults():
    """What each transform takes where a parameter is left out."""
    wanted = {
        "RandomResizedCrop": ["scale", "ratio"],
        "RandomAffine": ["translate", "scale", "shear", "interpolation"],
        "RandomPerspective": ["distortion_scale", "p", "interpolation"],
        "GaussianBlur": ["sigma"],
        "RandomAdjustSharpness": ["p"],
        "RandomPosterize": ["p"],
        "RandomSolarize": ["p"],
        "RandomErasing": ["p", "scale", "ratio", "value"],
        "RandAugment": ["num_ops", "magnitude", "num_magnitude_bins", "interpolation"],
        "TrivialAugmentWide": ["num_magnitude_bins", "interpolation"],
        "AutoAugment": ["interpolation"],
        "AugMix": ["severity", "mixture_width", "chain_depth", "alpha", "all_ops"],
    }

    def default(name, key):
        value = inspect.signature(getattr(v2, name)).parameters[key].default
        return value.value if isinstance(value, InterpolationMode) else value

    return {name: {key: default(name, key) for key in keys} for name, keys in wanted.items()}


def spread(values):
    """Points of the distribution: values, and the share of draws up to them."""
    values = np.sort(np.asarray(values, dtype=float))
    points = np.unique(np.quantile(values, np.linspace(0.025, 0.975, 39), method="inverted_cdf"))
    return {"at": points.tolist(), "share": (np.searchsorted(values, points, side="right") / len(values)).tolist()}


def counts(names):
    names, numbers = np.unique(list(names), return_counts=True)
    return dict(zip(names.tolist(), numbers.tolist()))


def draws():
    """How torchvision draws, for views of 40 x 30."""
    torch.manual_seed(0)
    image = Image.new("RGB", (40, 30))
    spreads, choices = {}, {}

    def many(transform):
        return [transform.make_params([image]) for _ in range(DRAWS)]

    affine = many(v2.RandomAffine(25, translate=(0.2, 0.4), scale=(0.6, 1.5), shear=(-10, 5, -3, 8)))
    spreads["affine.degrees"] = spread([p["angle"] for p in affine])
    spreads["affine.translate_x"] = spread([p["translate"][0] for p in affine])
    spreads["affine.translate_y"] = spread([p["translate"][1] for p in affine])
    spreads["affine.scale"] = spread([p["scale"] for p in affine])
    spreads["affine.shear_x"] = spread([p["shear"][0] for p in affine])
    spreads["affine.shear_y"] = spread([p["shear"][1] for p in affine])

    with mock.patch("torchvision.transforms.v2._geometry._get_perspective_coeffs", lambda starts, ends: ends):
        perspective = many(v2.RandomPerspective(0.6))
    for corner, axis in itertools.product(range(4), range(2)):
        values = [p["coefficients"][corner][axis] for p in perspective]
        spreads[f"perspective.{corner}.{'xy'[axis]}"] = spread(values)

    jitter = many(v2.ColorJitter(0.4, (0.2, 1.1), 1.5, 0.3))
    for name in ["brightness", "contrast", "saturation", "hue"]:
        spreads[f"color_jitter.{name}"] = spread([p[f"{name}_factor"] for p in jitter])
    choices["color_jitter.order"] = counts("".join(str(int(i)) for i in p["fn_idx"]) for p in jitter)

    spreads["gaussian_blur.sigma"] = spread([p["sigma"][0] for p in many(v2.GaussianBlur(3))])

    erasing = many(v2.RandomErasing(scale=(0.3, 1.0)))
    choices["erasing.found"] = counts("no" if p["v"] is None else "yes" for p in erasing)
    erasing = [p for p in erasing if p["v"] is not None]
    for short, name in {"i": "top", "j": "left", "h": "height", "w": "width"}.items():
        spreads[f"erasing.{name}"] = spread([p[short] for p in erasing])

    inverted = Image.new("RGB", (1, 1))
    choices["invert"] = counts("yes" if v2.RandomInvert(0.3)(inverted).getpixel((0, 0))[0] else "no" for _ in range(DRAWS))

    def named(chain):
        return " ".join(f"{name} {magnitude:.4f}" for name, magnitude in chain)

    for name, policy in {
        "rand-augment": RandAugment(num_ops=1),
        "trivial-augment-wide": TrivialAugmentWide(num_magnitude_bins=5),
        "auto-augment": AutoAugment(),
    }.items():
        policy.idle = True
        chains = []
        for _ in range(DRAWS):
            policy.record(image)
            chains.append(named(policy.chain()))
        choices[name] = counts(chains)

    mix = AugMix(alpha=0.7)
    mix.idle = True
    photo_weight, first, depths, chosen = [], [], [], []
    for _ in range(DRAWS):
        mix.record(image)
        (photo, mixed), weights = mix.weights
        photo_weight.append(photo)
        first.append(mixed * weights[0])
        chains = mix.chains()
        depths.append(str(len(chains[1])))
        chosen.append(named(chains[2][:1]))
    spreads["aug-mix.photo"] = spread(photo_weight)
    spreads["aug-mix.first"] = spread(first)
    choices["aug-mix.depth"] = counts(depths)
    choices["aug-mix"] = counts(chosen)

    # Ranges that are not the same both ways, and other forms of a parameter.
    tall = [p for p in many(v2.RandomErasing(scale=(0.05, 0.2), ratio=(0.3, 0.5))) if p["v"] is not None]
    for short, name in {"i": "top", "j": "left", "h": "height", "w": "width"}.items():
        spreads[f"erasing.wide.{name}"] = spread([p[short] for p in tall])
    for name, affine in {
        "number": many(v2.RandomAffine(30, shear=12)),
        "range": many(v2.RandomAffine((10, 40), shear=(-5, 15))),
    }.items():
        assert all(p["shear"][1] == 0 for p in affine)
        spreads[f"affine.{name}.degrees"] = spread([p["angle"] for p in affine])
        spreads[f"affine.{name}.shear_x"] = spread([p["shear"][0] for p in affine])
    for name, policy in {
        "rand-augment.weak": RandAugment(num_ops=1, magnitude=3, num_magnitude_bins=11),
        "aug-mix.strong": AugMix(severity=7, mixture_width=1, chain_depth=1, all_ops=False),
    }.items():
        policy.idle = True
        chains = []
        for _ in range(DRAWS):
            policy.record(image)
            chains.append(named(policy.chain()))
        choices[name] = counts(chains)
    return {"draws": DRAWS, "spreads": spreads, "choices": choices}


def write(name, value):
    with open(HERE / name, "w", newline="\n") as file:
        json.dump(value, file, separators=(",", ":"))
        file.write("\n")


def main():
    made_by = f"torchvision {torchvision.__version__.split('+')[0]}, Pillow {PIL.__version__}"
    cases, results = {"made_by": made_by}, {}
    for group, made in {"op": operations(), "policy_op": policy_operations(), "policy": policies()}.items():
        cases[group] = []
        for shape, parameters, image in made:
            name = f"{group}{len(cases[group])}"
            results[name] = np.ascontiguousarray(np.asarray(image))
            cases[group].append({"photo": shape, "result": name} | parameters)
    cases["scale"] = scales()
    cases["defaults"] = defaults()
    write("cases.json", cases)
    save_file(results, HERE / "results.safetensors")
    write("draws.json", {"made_by": made_by} | draws())
    for name in ["cases.json", "results.safetensors", "draws.json"]:
        print(f"reference/augment/{name}: {(HERE / name).stat().st_size} bytes")


main()
