"""What Pillow reads of JPEGs and PNGs that end too early, with `ImageFile.LOAD_TRUNCATED_IMAGES`.

The files are those of `reference/decode/photos`, cut after some bytes and possibly padded with zeros.
`expected.safetensors` has the pixels `[H, W, 3]` by file name, number of bytes and number of zeros, such as
`baseline_420.jpg/700/0`; transparency over white, as in `reference/decode/make.py`. Where a progressive
JPEG is cut between two scans, Pillow gives black pixels, and the file is left out.
"""

import io
import pathlib

import numpy as np
import PIL
from PIL import Image, ImageFile, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
PHOTOS = HERE.parent / "decode" / "photos"
JPEGS = ["baseline_420", "baseline_422", "baseline_444", "low_quality", "optimised_tables", "restart_rows", "restart_blocks",
         "grey", "as_rgb", "sampled_440", "orientation_6", "progressive_420", "progressive_444", "progressive_restart",
         "grey_progressive"]
PNGS = ["rgb", "rgba", "grey", "grey_alpha", "one_bit", "palette_4_bits", "palette_alpha", "interlaced_rgb",
        "interlaced_grey_2_bits", "rgb_16_bits", "animated", "orientation_6"]


def pixels(data):
    """The pixels, or nothing if Pillow cannot open the file."""
    with Image.open(io.BytesIO(data)) as image:
        image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB"))
        rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
        alpha = rgba[:, :, 3:]
        return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def main():
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    expected = {}

    def keep(name, data, length, zeros):
        found = pixels(data[:length] + b"\0" * zeros)
        if found.any():
            expected[f"{name}/{length}/{zeros}"] = np.ascontiguousarray(found)

    for stem in JPEGS:
        name = f"{stem}.jpg"
        data = (PHOTOS / name).read_bytes()
        start = data.index(b"\xff\xda") + 15
        for share in [0, 0.07, 0.21, 0.4, 0.62, 0.83, 0.96]:
            keep(name, data, start + int((len(data) - 2 - start) * share), 0)
        keep(name, data, len(data) - 2, 0)
        keep(name, data, len(data) - 1, 0)
        keep(name, data, len(data) - 2, 50)
    for stem in PNGS:
        name = f"{stem}.png"
        data = (PHOTOS / name).read_bytes()
        start = data.index(b"IDAT") + 4
        for share in [0.1, 0.35, 0.6, 0.9]:
            keep(name, data, start + int((len(data) - 12 - start) * share), 0)
        # Without the end chunk, with zeros in its place, and with zeros in place of the end of the pixels.
        keep(name, data, len(data) - 12, 0)
        keep(name, data, len(data) - 12, 12)
        keep(name, data, start + (len(data) - 12 - start) // 2, 100)
    save_file(dict(sorted(expected.items())), HERE / "expected.safetensors", {"made_by": f"Pillow {PIL.__version__}"})
    print(f"reference/truncated: {len(expected)} files, {(HERE / 'expected.safetensors').stat().st_size} bytes")


main()
