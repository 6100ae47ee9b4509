"""What image processors of transformers make of an image: the config file that each one writes, and the pixels.

The processors are those on Pillow. Where an uneven number of pixels is cropped, they round down, and those on
torchvision, which transformers prefers, round as `round` does: the script checks that no case depends on it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = Path(__file__).parent
SIZES = [(90, 70), (64, 100), (50, 50), (33, 200)]

# The processor, its settings, and the keys that a config file has in place of those that the processor writes.
CASES = {
    "vit, both sides": (ViTImageProcessorPil, {"size": {"height": 40, "width": 56}}, {}),
    "vit, a number is both sides": (ViTImageProcessorPil, {"size": 48}, {"size": 48}),
    "vit, a list is both sides": (ViTImageProcessorPil, {"size": (40, 56)}, {"size": [40, 56]}),
    "vit, an old config": (
        ViTImageProcessorPil,
        {"size": 48, "resample": 2},
        {"size": 48, "feature_extractor_type": "ViTFeatureExtractor", "image_processor_type": None},
    ),
    "vit, nearest": (ViTImageProcessorPil, {"size": {"height": 36, "width": 36}, "resample": 0}, {}),
    "vit, lanczos": (ViTImageProcessorPil, {"size": {"height": 36, "width": 60}, "resample": 1}, {}),
    "deit, both sides and a crop": (
        DeiTImageProcessorPil,
        {"size": {"height": 44, "width": 50}, "crop_size": {"height": 40, "width": 36}},
        {},
    ),
    "deit, both sides and no crop": (
        DeiTImageProcessorPil,
        {"size": {"height": 44, "width": 50}, "do_center_crop": False},
        {},
    ),
    "bit, the short side and a crop": (BitImageProcessorPil, {"size": {"shortest_edge": 40}, "crop_size": 40}, {}),
    "bit, numbers": (BitImageProcessorPil, {"size": 40, "crop_size": 36}, {"size": 40, "crop_size": 36}),
    "clip, numbers": (
        CLIPImageProcessorPil,
        {"size": 40, "crop_size": 36},
        {"size": 40, "crop_size": 36, "image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"},
    ),
    "mobilenet, another shape of the crop": (
        MobileNetV2ImageProcessorPil,
        {"size": {"shortest_edge": 44}, "crop_size": {"height": 36, "width": 40}},
        {},
    ),
    "convnext below 384": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 40}}, {}),
    "convnext, a number and crop_pct": (ConvNextImageProcessorPil, {"size": 44, "crop_pct": 0.95}, {"size": 44}),
    "convnext from 384 on": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}, "resample": 2}, {}),
}


def image(height, width):
    y, x, c = np.mgrid[:height, :width, :3]
    return ((x * 7 + y * 13 + c * 29 + (x * y) % 17 * 5) % 256).astype(np.uint8)


def crop_depends_on_rounding(processor, height, width):
    """Whether the processor crops 3, 7, 11 ... pixels of a side."""
    size, crop = processor.size, processor.crop_size
    if isinstance(processor, ConvNextImageProcessorPil):
        edge = size["shortest_edge"]
        if edge >= 384:
            return False
        size, crop = {"shortest_edge": int(edge / processor.crop_pct)}, {"height": edge, "width": edge}
    elif not processor.do_center_crop:
        return False
    edge = size["shortest_edge"]
    if edge:
        short, long = sorted((height, width))
        resized = (edge, int(edge * long / short))
        resized = resized if height <= width else resized[::-1]
    else:
        resized = (size["height"], size["width"])
    return any((side - kept) % 4 == 3 for side, kept in zip(resized, (crop["height"], crop["width"])))


def main():
    cases = []
    for name, (processor_class, settings, replaced) in CASES.items():
        processor = processor_class(**settings)
        config = json.loads(processor.to_json_string())
        config |= replaced
        views = []
        for height, width in SIZES:
            if crop_depends_on_rounding(processor, height, width):
                continue
            pixels = processor(image(height, width), do_rescale=False, do_normalize=False)["pixel_values"][0]
            pixels = np.ascontiguousarray(np.asarray(pixels).transpose(1, 2, 0))
            assert pixels.dtype == np.uint8, (name, pixels.dtype)
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            views.append({"image": [height, width], "view": list(pixels.shape[:2]), "sha256": digest})
        assert len(views) > 1, name
        cases.append({"name": name, "config": config, "views": views})
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


main()
