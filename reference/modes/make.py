"""Small images in the color modes and compressions that Pillow writes beside those of `reference/decode`, and what it reads.

`files/` has the images, `expected.safetensors` the pixels `[H, W, 3]` by file name: `convert("RGB")`, over white where there
is transparency. Of floating point, which Pillow clips, the pixels are by the rule of the module `decode`: values clamped to 0
to 1. Of 16-bit gray, `v / 257` rounded, as with `gray16 = "scale"`. Deliberately small: 11 x 9.
"""

import pathlib
import shutil
import struct

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
FILES = HERE / "files"
WIDTH, HEIGHT = 11, 9
expected = {}


def samples(bands):
    y, x, c = np.mgrid[:HEIGHT, :WIDTH, :bands]
    return ((x * 23 + y * 17 * (c + 1) + c * 60) % 256).astype(np.uint8)


def image(mode):
    bands = len(mode) if mode in ("RGB", "RGBA", "LA", "CMYK") else 3
    if mode == "L":
        return Image.fromarray(samples(1)[:, :, 0])
    if mode in ("RGB", "RGBA", "LA", "CMYK"):
        return Image.frombytes(mode, (WIDTH, HEIGHT), samples(bands).tobytes())
    if mode in ("YCbCr", "LAB"):
        return Image.frombytes(mode, (WIDTH, HEIGHT), samples(3).tobytes())
    if mode == "1":
        return image("L").convert("1")
    if mode == "P":
        return image("RGB").quantize(16)
    if mode == "PA":
        return image("RGBA").quantize(16).convert("PA")
    raise ValueError(mode)


def over_white(rgba):
    pixels = np.asarray(rgba).astype(np.int64)
    alpha = pixels[:, :, 3:]
    return ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def gray(values):
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def keep(name, pixels=None):
    if pixels is None:
        with Image.open(FILES / name) as opened:
            pixels = over_white(opened.convert("RGBA")) if opened.has_transparency_data else np.asarray(opened.convert("RGB"))
    expected[name] = np.ascontiguousarray(pixels)


def save(name, picture, pixels=None, **options):
    picture.save(FILES / name, **options)
    keep(name, pixels)


def tiff(tags, data):
    """A little-endian TIFF with these tags (number, type, values) and one strip or several tiles of `data`."""
    parts = [data] if isinstance(data, bytes) else data
    offsets, position = [], 8
    for part in parts:
        offsets.append(position)
        position += len(part)
    place, count = (324, 325) if any(tag == 322 for tag, _, _ in tags) else (273, 279)
    tags = sorted(tags + [(256, 4, [WIDTH]), (257, 4, [HEIGHT]), (place, 4, offsets), (count, 4, [len(p) for p in parts])])
    size = {3: 2, 4: 4}
    extra, entries = b"", b""
    start = position + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            entries += struct.pack("<HHII", tag, kind, len(values), start + len(extra))
            extra += packed
        else:
            entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
        assert size[kind]
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", position) + b"".join(parts) + directory + extra


def write(name, data, pixels=None):
    (FILES / name).write_bytes(data)
    keep(name, pixels)


def tiffs():
    for mode in ["LA", "P", "PA", "YCbCr", "LAB"]:
        save(f"{mode.lower()}.tif", image(mode))
    for compression in ["group3", "group4"]:
        save(f"{compression}.tif", image("1"), compression=compression)
    save("jpeg_in_tiff.tif", image("RGB"), compression="jpeg", quality=90)
    save("grey_jpeg_in_tiff.tif", image("L"), compression="jpeg", quality=90)
    save("zstd.tif", image("RGB"), compression="zstd")
    save("lzma.tif", image("RGB"), compression="lzma")
    levels = samples(1)[:, :, 0]
    save("i.tif", Image.fromarray(levels.astype(np.int32) * 1000))
    save("f.tif", Image.fromarray(levels.astype(np.float32) / 200), gray(np.minimum(levels / 200, 1) * 255 + 0.5))
    deep = levels.astype(np.uint16) * 257 + 100
    rounded = gray((deep.astype(np.int64) + 128) // 257)
    plain = [(259, 3, [1]), (277, 3, [1]), (262, 3, [1])]
    write("i16_signed.tif", tiff(plain + [(258, 3, [16]), (339, 3, [2])], (deep // 2).tobytes()), gray(levels))
    for bits in [2, 4]:
        rows = [np.packbits(np.unpackbits((row >> (8 - bits)).astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]) for row in levels]
        write(f"grey_{bits}_bits.tif", tiff(plain + [(258, 3, [bits])], b"".join(row.tobytes() for row in rows)))
    white = [(259, 3, [1]), (277, 3, [1]), (262, 3, [0])]
    write("min_is_white.tif", tiff(white + [(258, 3, [8])], levels.tobytes()))
    write("min_is_white_16_bits.tif", tiff(white + [(258, 3, [16])], deep.tobytes()), 255 - rounded)
    colors = samples(3)
    rgb = [(259, 3, [1]), (277, 3, [3]), (262, 3, [2]), (258, 3, [8, 8, 8])]
    write("planar.tif", tiff(rgb + [(284, 3, [2]), (278, 4, [HEIGHT])], [colors[:, :, c].tobytes() for c in range(3)]))
    padded = np.zeros((16, 16, 3), np.uint8)
    padded[:HEIGHT, :WIDTH] = colors
    write("tiled.tif", tiff(rgb + [(322, 4, [16]), (323, 4, [16])], padded.tobytes()))
    four = samples(4)
    extra = [(259, 3, [1]), (277, 3, [4]), (262, 3, [2]), (258, 3, [8] * 4)]
    write("extra_sample.tif", tiff(extra + [(338, 3, [0])], four.tobytes()))
    write("associated_alpha.tif", tiff(extra + [(338, 3, [1])], four.tobytes()))


def others():
    for mode in ["L", "P", "RGB", "RGBA", "1"]:
        save(f"{mode.lower()}.webp", image(mode), lossless=True, exact=True)
    for mode in ["L", "P", "1", "RGB"]:
        save(f"{mode.lower()}.gif", image(mode))
    save("i.png", Image.fromarray(samples(1)[:, :, 0].astype(np.uint16) * 257))
    expected["i.png"] = np.ascontiguousarray(gray(samples(1)[:, :, 0]))
    for mode in ["1", "L", "P", "RGB"]:
        save(f"{mode.lower()}.bmp", image(mode))
    save("l.jpg", image("L"))
    # BMPs of 16 bits a pixel and with run-length encoding, which Pillow reads but does not write.
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 0, 0, 0, 0, 0, 0)
    words = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) * 331 % 32768).astype("<u2")
    rows = b"".join(row.tobytes() + b"\0" * (-2 * WIDTH % 4) for row in words)
    write("rgb_5_bits.bmp", struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54) + header + rows)
    palette = b"".join(bytes([v, 255 - v, v // 2, 0]) for v in range(256))
    runs = b"".join(bytes([6, y * 20, 5, y * 7]) + b"\0\0" for y in range(HEIGHT)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(runs), 0, 0, 256, 0)
    write("run_lengths.bmp", struct.pack("<2sIHHI", b"BM", 1078 + len(runs), 0, 0, 1078) + header + palette + runs)


def main():
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    for make in [tiffs, others]:
        make()
    save_file(dict(sorted(expected.items())), HERE / "expected.safetensors", {"made_by": f"Pillow {PIL.__version__}"})
    sizes = [path.stat().st_size for path in FILES.iterdir()]
    print(f"reference/modes: {len(sizes)} files, {sum(sizes)} bytes")


main()
