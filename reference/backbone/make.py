"""Golden files for headstock-backbone, from torchvision, transformers and timm.

No weights are stored: they, and the pixels, come from a formula (formula.py), which backbone/tests/backbone/formula.rs
computes to the same bits.

taps.safetensors     for each depth, size and layer: 256 values at positions from the same formula, the largest
                     magnitude and the mean; for avgpool every value
names.json           shapes of every tensor of torchvision's and of transformers' ResNets, by the names of each
lookalikes.json      types and shapes of tensors of timm's networks that look like a ResNet: of the stem and of each stage's
                     first block, which is where they differ
gradients.safetensors  what gradients.py says
batchnorm.json       what batchnorm.py says
defaults.json        records of timm's with a key left out or another, and the transform that timm builds
records.json         config.json as timm writes it for each pretrained ResNet, and the transform that timm builds from it;
                     transformers' configs
"""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from batchnorm import make_batchnorm
from formula import draws, pixels
from gradients import make_gradients
from networks import BLOCKS, load_formula, normalised, torchvisions
from safetensors.numpy import save_file
from timm.data import create_transform, resolve_data_config
from transformers import ResNetConfig, ResNetForImageClassification

HERE = Path(__file__).parent
# photos, height, width
SIZES = [(1, 224, 224), (1, 256, 256), (2, 160, 160), (1, 193, 129)]
LAYERS = ["stem", "layer1", "layer2", "layer3", "layer4", "avgpool"]
SAMPLES = 256


def transformers_config(depth):
    bottleneck = depth >= 50
    return ResNetConfig(
        depths=BLOCKS[depth],
        layer_type="bottleneck" if bottleneck else "basic",
        hidden_sizes=[width * (4 if bottleneck else 1) for width in (64, 128, 256, 512)],
    )


def transformers(depth):
    last = ".layer.2.normalization." if depth >= 50 else ".layer.1.normalization."
    return load_formula(ResNetForImageClassification(transformers_config(depth)), last)


def taps(model, photos):
    modules = {"stem": model.maxpool, "avgpool": model.avgpool}
    modules |= {name: getattr(model, name) for name in LAYERS[1:5]}
    found = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: found.update({name: output}))
        for name, module in modules.items()
    ]
    model(normalised(photos))
    for hook in hooks:
        hook.remove()
    return found


def make_taps():
    golden = {}
    for depth in BLOCKS:
        model = torchvisions(depth)
        for photos, height, width in SIZES:
            for layer, output in taps(model, pixels(photos, height, width)).items():
                key = f"resnet{depth}/{photos}x{height}x{width}/{layer}"
                values = output.flatten().numpy()
                at = draws(key, SAMPLES) % np.uint64(values.size)
                golden[f"{key}/values"] = values.copy() if layer == "avgpool" else values[at]
                largest, mean = np.abs(values).max(), values.mean(dtype=np.float64)
                golden[f"{key}/shape"] = np.array(output.shape[: 2 if layer == "avgpool" else 4], dtype=np.int64)
                golden[f"{key}/largest_and_mean"] = np.array([largest, mean], dtype=np.float64)
            print(key, f"largest {largest:.3g} mean {mean:.3g}")
    for depth in (18, 50):
        size = (1, 193, 129)
        pooled = transformers(depth).resnet(normalised(pixels(*size))).pooler_output
        golden[f"transformers-resnet{depth}/1x193x129/avgpool"] = pooled.flatten().numpy()
    save_file(golden, HERE / "taps.safetensors")


def make_names():
    table = {}
    for depth in BLOCKS:
        with torch.device("meta"):
            models = {
                f"resnet{depth}": getattr(torchvision.models, f"resnet{depth}")(weights=None),
                f"transformers-resnet{depth}": ResNetForImageClassification(transformers_config(depth)),
            }
        for name, model in models.items():
            table[name] = {tensor: list(value.shape) for tensor, value in model.state_dict().items()}
    write_lines("names.json", table)


LOOKALIKES = """
    resnet50c resnet50d resnet50s resnet50t resnet18d resnet26t resnetrs50 resnet50_gn seresnet50 seresnet50t ecaresnet50d
    ecaresnet26t ecaresnetlight resnext50_32x4d resnext101_64x4d resnext50d_32x4d seresnext50_32x4d wide_resnet50_2
    wide_resnet101_2 resnetv2_50 resnetv2_50x1_bit resnetv2_50d_gn resnetaa50 resnetblur50 resnet10t resnet14t resnet26
    resnet50_clip resnest50d res2net50_26w_4s skresnet18 cspresnet50 gcresnet50t vgg11_bn convnext_tiny
    """.split()


def make_lookalikes():
    later_block = re.compile(r"^(layer|stages\.)\d\.(blocks\.)?[1-9]\d*\.")
    table = {}
    for name in LOOKALIKES:
        with torch.device("meta"):
            state = timm.create_model(name, pretrained=False).state_dict()
        table[name] = {
            tensor: [str(value.dtype).removeprefix("torch."), list(value.shape)]
            for tensor, value in state.items()
            if not later_block.match(tensor)
        }
        print(name, len(table[name]), "of", len(state), "tensors")
    write_lines("lookalikes.json", table)


def make_records():
    table = {"transformers": {}}
    for depth in BLOCKS:
        table["transformers"][f"resnet{depth}"] = transformers_config(depth).to_diff_dict()
        for name in timm.list_pretrained(f"resnet{depth}.*"):
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
            with tempfile.NamedTemporaryFile("r") as file:
                timm.models._hub.save_config_for_hf(model, file.name)
                config = json.load(file)
            resize, crop, _, normalize = create_transform(**resolve_data_config(config["pretrained_cfg"])).transforms
            table[name] = {
                "config": config,
                "resize": resize.size,
                "interpolation": resize.interpolation.value,
                "crop": list(crop.size),
                "mean": normalize.mean.tolist(),
                "std": normalize.std.tolist(),
            }
    write_lines("records.json", table)


def make_defaults():
    whole = {"input_size": [3, 160, 160], "crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.5, 0.25, 0.125],
             "std": [0.5, 1.0, 2.0]}
    changes = {"whole": {}, "nothing": dict.fromkeys(whole)} | {f"no {key}": {key: None} for key in whole}
    changes |= {f"interpolation {name}": {"interpolation": name} for name in ("nearest", "bicubic", "lanczos")}
    # The test_ ones are not what a transform takes; the crop's share of 1 leaves nothing to crop.
    changes |= {"test sizes": {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}, "crop_pct 1": {"crop_pct": 1.0}}
    table = {}
    for name, change in changes.items():
        record = {"tag": "test"} | {key: value for key, value in (whole | change).items() if value is not None}
        resize, crop, _, normalize = create_transform(**resolve_data_config({}, pretrained_cfg=record)).transforms
        table[name] = {
            "config": {"architecture": "resnet18", "pretrained_cfg": record},
            "resize": resize.size,
            "interpolation": resize.interpolation.value,
            "crop": list(crop.size),
            "mean": normalize.mean.tolist(),
            "std": normalize.std.tolist(),
        }
    write_lines("defaults.json", table)


def write_lines(name, table):
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    make_taps()
    make_names()
    make_lookalikes()
    make_records()
    make_defaults()
    make_batchnorm()
    make_gradients()
    for path in sorted(HERE.glob("*.[js]*")):
        print(path.name, path.stat().st_size, "bytes")
