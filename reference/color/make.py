"""Photos with color profiles, and what Pillow's ImageCms (LittleCMS) converts them to: sRGB, relative colorimetric.

`files/` has the photos, `expected.safetensors` the pixels `[H, W, 3]` by file name: converted, then over white where there
is transparency. The profiles are made here from the published primaries and curves of their color spaces.
"""

import io
import pathlib
import shutil
import struct

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
FILES = HERE / "files"
expected = {}


def s15(value):
    return struct.pack(">i", round(value * 65536))


def xyz(*values):
    return b"XYZ \0\0\0\0" + b"".join(s15(value) for value in values)


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


# The curve of sRGB and Display P3: g, a, b, c, d of the type 3.
SRGB_CURVE = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(
    s15(value) for value in [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])


def text(value):
    encoded = value.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(encoded), 28) + encoded


def profile(name, space, tags):
    """An ICC profile of a display, version 4."""
    tags = {b"desc": text(name), b"cprt": text("none"), b"wtpt": xyz(0.9642, 1, 0.8249), **tags}
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for signature, value in tags.items():
        table += signature + struct.pack(">II", start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x04200000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def rgb_profile(name, red, green, blue, curve):
    colorants = {b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue)}
    return profile(name, b"RGB ", {**colorants, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


P3 = rgb_profile("Display P3", (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), SRGB_CURVE)
ADOBE = rgb_profile("Adobe RGB (1998)", (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087),
                    (0.14919, 0.06322, 0.74457), gamma(2.19921875))
SRGB = rgb_profile("sRGB again", (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141), SRGB_CURVE)
GRAY = profile("Gray Gamma 1.8", b"GRAY", {b"kTRC": gamma(1.8)})


def picture(mode="RGB", width=37, height=29):
    """Saturated colors of all hues."""
    bands = len(mode)
    y, x, c = np.mgrid[:height, :width, :bands]
    pixels = 127.5 + 127.5 * np.sin(x / 6 + y / 9 * (c - 1) + 2.1 * c) * np.cos(y / 7)
    pixels = np.rint(pixels).astype(np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def converted(path, source):
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        assert image.info["icc_profile"] == source
        alpha = np.asarray(image.getchannel("A")).astype(np.int64)[:, :, None] if image.mode in ("RGBA", "LA") else None
        image = image.convert("L" if image.mode in ("L", "LA") else "RGB")
        # A gray photo may have a profile for colors.
        if image.mode == "L" and source != GRAY:
            image = image.convert("RGB")
        if source is not None:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(source))
            srgb = ImageCms.createProfile("sRGB")
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            image = ImageCms.profileToProfile(image, opened, srgb, renderingIntent=intent, outputMode="RGB")
        pixels = np.asarray(image)
        if alpha is not None:
            pixels = ((pixels.astype(np.int64) * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return np.ascontiguousarray(pixels)


def save(name, image, source, **options):
    image.save(FILES / name, icc_profile=source, **options)
    expected[name] = converted(FILES / name, source)


def main():
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, source in [("p3", P3), ("adobe", ADOBE)]:
        save(f"{name}.jpg", picture(), source, quality=92)
        save(f"{name}.png", picture(), source)
        save(f"{name}.webp", picture(), source, lossless=True)
        save(f"{name}.tif", picture(), source)
    save("p3_progressive.jpg", picture(), source=P3, quality=90, progressive=True)
    save("p3_orientation_6.jpg", picture(), source=P3, quality=90, exif=exif)
    save("p3_alpha.png", picture("RGBA"), P3)
    save("p3_of_a_gray_photo.jpg", picture("L"), P3, quality=90)
    save("gray.jpg", picture("L"), GRAY, quality=90)
    save("gray.png", picture("L"), GRAY)
    save("gray_alpha.png", picture("LA"), GRAY)
    save("srgb.jpg", picture(), SRGB, quality=90)
    # Profiles that do not fit, or are none, are ignored.
    for name, source in [("gray_of_a_color_photo.jpg", GRAY), ("no_profile.jpg", b"\0" * 400), ("cut_profile.jpg", P3[:300])]:
        picture().save(FILES / name, quality=90, icc_profile=source)
        with Image.open(FILES / name) as image:
            expected[name] = np.ascontiguousarray(np.asarray(image.convert("RGB")))
    save_file(dict(sorted(expected.items())), HERE / "expected.safetensors", {"made_by": f"Pillow {PIL.__version__}"})
    sizes = [path.stat().st_size for path in FILES.iterdir()]
    print(f"reference/color: {len(sizes)} files, {sum(sizes)} bytes")


main()
