"""Photos in every format that is read, written by Pillow (or by hand where it cannot), and the pixels that it reads.

Expected pixels: `ImageOps.exif_transpose`, RGB; where there is transparency, over white, a value as
(v * a + 255 * (255 - a) + 127) // 255. `photos/` holds the files, `expected.safetensors`
the pixels `[H, W, 3]` by file name, `reduced.safetensors` those of `Image.draft` at a half, a quarter and an eighth of the size,
by file name and factor. `larger/` holds JPEGs of which renderings are made from drafts: `rendered.json` says which, and
`rendered.safetensors` has what `Image.resize` makes of the part of a draft. `gray16/` holds 16-bit gray files, and
`gray16.safetensors` their pixels by `clip/NAME`, as Pillow converts them to RGB, and by `scale/NAME`, v / 257 rounded. `refused/` holds files that are no photos, or claim to be too large ones.
"""

import itertools
import json
import math
import pathlib
import shutil
import struct
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
PHOTOS = HERE / "photos"
LARGER = HERE / "larger"
REFUSED = HERE / "refused"
GRAY16 = HERE / "gray16"
SIZE = (37, 29)
expected = {}
reduced = {}
gray16 = {}


def scene(width, height, bands=3):
    """Soft slopes, a disc with a hard edge and a little grain, in 0..255."""
    x = np.arange(width)[None, :, None] / width
    y = np.arange(height)[:, None, None] / height
    c = np.arange(bands)[None, None, :]
    slope = 128 + 80 * np.sin(3 * x + 2 * c) * np.cos(4 * y - c)
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.06) * (60 - 40 * c)
    grain = (np.arange(width)[None, :, None] * 7 + np.arange(height)[:, None, None] * 13) % 5
    return np.clip(slope + disc + grain, 0, 255)


def picture(width=SIZE[0], height=SIZE[1], bands=3):
    pixels = np.rint(scene(width, height, bands)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[bands])


def ink(width=SIZE[0], height=SIZE[1]):
    return Image.frombytes("CMYK", (width, height), np.rint(scene(width, height, 4)).astype(np.uint8).tobytes())


def deep(bands):
    """16 bits, with the values next to where rounding changes among them."""
    pixels = np.rint(scene(*SIZE, bands) * 257).astype(np.uint16)
    steps = np.arange(SIZE[0], dtype=np.int64)
    pixels[0, :, :] = (steps * 257 + 128)[:, None]
    pixels[1, :, :] = (steps * 257 + 129)[:, None]
    pixels[2, :2, :] = np.array([0, 65535])[:, None]
    return pixels


def over_white(rgba):
    pixels = np.asarray(rgba).astype(np.int64)
    alpha = pixels[:, :, 3:]
    return ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def pillows_pixels(path):
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            return over_white(image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def keep(name, pixels=None):
    expected[name] = np.ascontiguousarray(pillows_pixels(PHOTOS / name) if pixels is None else pixels)


def save(name, image, pixels=None, **options):
    image.save(PHOTOS / name, **options)
    keep(name, pixels)


def write(name, data, pixels=None):
    (PHOTOS / name).write_bytes(data)
    keep(name, pixels)


def resampled(name, side, subsampling, factors):
    """A JPEG whose header tells other sampling factors than Pillow writes, for a photo of as many blocks."""
    data = picture(side, side)
    data.save(PHOTOS / name, quality=90, subsampling=subsampling)
    data = bytearray((PHOTOS / name).read_bytes())
    data[data.index(b"\xff\xc0") + 11] = factors
    write(name, bytes(data))


def drafts():
    """What Pillow gives of JPEGs when asked for less."""
    for path in sorted(PHOTOS.glob("*.jpg")):
        for factor in [2, 4, 8]:
            with Image.open(path) as image:
                width, height = image.size
                image.draft("RGB", (max(width // factor, 1), max(height // factor, 1)))
                if image.mode == "CMYK" or image.size != (-(-width // factor), -(-height // factor)):
                    continue
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            reduced[f"{path.name}/{factor}"] = np.ascontiguousarray(pixels)


def jpegs():
    save("baseline_420.jpg", picture(), quality=90, subsampling="4:2:0")
    save("baseline_422.jpg", picture(), quality=90, subsampling="4:2:2")
    save("baseline_444.jpg", picture(), quality=90, subsampling="4:4:4")
    save("progressive_420.jpg", picture(), quality=90, subsampling="4:2:0", progressive=True)
    save("progressive_444.jpg", picture(), quality=90, subsampling="4:4:4", progressive=True)
    save("low_quality.jpg", picture(), quality=10)
    save("optimised_tables.jpg", picture(), quality=75, optimize=True)
    save("restart_rows.jpg", picture(), quality=85, restart_marker_rows=1)
    save("restart_blocks.jpg", picture(), quality=85, subsampling="4:4:4", restart_marker_blocks=2)
    save("progressive_restart.jpg", picture(), quality=85, progressive=True, restart_marker_rows=1)
    save("grey.jpg", picture(bands=1), quality=90)
    save("grey_progressive.jpg", picture(bands=1), quality=90, progressive=True)
    save("as_rgb.jpg", picture(), quality=90, keep_rgb=True)
    for width, height in [(1, 1), (7, 3), (8, 8), (16, 16), (17, 16), (16, 17), (33, 1), (1, 33)]:
        save(f"size_{width}x{height}.jpg", picture(width, height), quality=90)
    # Up to two samples of colour across are not filtered.
    for subsampling, width in itertools.product(["4:2:0", "4:2:2"], range(1, 7)):
        name = f"narrow_{subsampling.replace(':', '')}_{width}.jpg"
        save(name, picture(width, 5), quality=90, subsampling=subsampling)
    resampled("sampled_440.jpg", 48, "4:2:2", 0x12)
    resampled("sampled_411.jpg", 64, "4:2:0", 0x41)
    save("comment_and_profile.jpg", picture(), quality=90, comment="hello", icc_profile=b"\0" * 400)

    save("cmyk.jpg", ink(), quality=90)
    data = (PHOTOS / "cmyk.jpg").read_bytes()
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    write("cmyk_no_adobe.jpg", data[:at] + data[at + 16 :])
    ycck = bytearray(data)
    ycck[at + 15] = 2
    write("ycck.jpg", bytes(ycck))

    data = (PHOTOS / "baseline_420.jpg").read_bytes()
    end = data.index(b"\xff\xdb")
    write("bytes_between_segments.jpg", data[:end] + b"\0\1\2\3\4\5\6" + data[end:])
    write("fill_before_segment.jpg", data[:end] + b"\xff\xff\xff" + data[end:])
    write("bytes_behind_the_end.jpg", data + b"whatever a camera adds" * 3)
    write("two_pictures.jpg", data + (PHOTOS / "low_quality.jpg").read_bytes())
    app13 = b"\xff\xed\x00\x14Photoshop 3.0 Adobe"
    write("cmyk_adobe_elsewhere.jpg", (lambda d: d[:2] + app13[:2] + struct.pack(">H", 21) + app13[4:] + d[2:])(
        (PHOTOS / "cmyk_no_adobe.jpg").read_bytes()))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, depth, kind, interlaced=False):
    """A PNG of `[H, W, C]` samples; of less than 8 bits, C is 1."""
    height, width, _ = pixels.shape

    def scanlines(part):
        for row in part:
            if depth == 16:
                yield b"\0" + row.astype(">u2").tobytes()
            elif depth == 8:
                yield b"\0" + row.astype(np.uint8).tobytes()
            else:
                bits = "".join(format(int(value), f"0{depth}b") for value in row[:, 0])
                bits += "0" * (-len(bits) % 8)
                yield b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))

    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in adam7] if interlaced else [pixels]
    data = b"".join(line for part in passes if part.size for line in scanlines(part))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def pngs():
    save("rgb.png", picture())
    save("rgba.png", picture(bands=4))
    save("grey.png", picture(bands=1))
    save("grey_alpha.png", picture(bands=2))
    save("one_bit.png", picture(bands=1).convert("1"))
    for bits in [1, 2, 4, 8]:
        save(f"palette_{bits}_bits.png", picture().quantize(2**bits if bits < 8 else 200), bits=bits)
    palette = picture().quantize(16)
    save("palette_one_transparent.png", palette, transparency=3)
    save("palette_alpha.png", palette, transparency=bytes(range(0, 256, 16)))
    save("rgb_one_transparent.png", picture(), transparency=picture().getpixel((5, 5)))
    save("grey_one_transparent.png", picture(bands=1), transparency=picture(bands=1).getpixel((5, 5)))
    write("interlaced_rgb.png", png(np.asarray(picture()), 8, 2, interlaced=True))
    write("interlaced_1x1.png", png(np.asarray(picture(1, 1)), 8, 2, interlaced=True))
    write("interlaced_grey_2_bits.png", png(np.asarray(picture(bands=1))[:, :, None] >> 6, 2, 0, interlaced=True))
    write("grey_4_bits.png", png(np.asarray(picture(bands=1))[:, :, None] >> 4, 4, 0))
    write("rgb_16_bits.png", png(deep(3), 16, 2))
    write("rgb_16_bits_interlaced.png", png(deep(3), 16, 2, interlaced=True))
    write("rgba_16_bits.png", png(deep(4), 16, 6))
    write("grey_alpha_16_bits.png", png(deep(2), 16, 4))
    frames = [picture(), picture().rotate(180)]
    save("animated.png", frames[0], save_all=True, append_images=frames[1:], duration=100)


def webps():
    save("lossy.webp", picture(), quality=80)
    save("lossy_alpha.webp", picture(bands=4), quality=80)
    save("lossless.webp", picture(), lossless=True, exact=True)
    save("lossless_alpha.webp", picture(bands=4), lossless=True, exact=True)
    save("lossless_palette.webp", picture().quantize(7).convert("RGB"), lossless=True)
    save("size_1x1.webp", picture(1, 1), lossless=True)
    save("animated.webp", picture(), save_all=True, append_images=[picture().rotate(180)], lossless=True, duration=100)


def gifs():
    palette = picture().quantize(64)
    save("plain.gif", palette, interlace=0)
    save("interlaced.gif", palette, interlace=1)
    save("transparent.gif", palette, transparency=5)
    save("grey.gif", picture(bands=1))
    save("animated.gif", palette, save_all=True, append_images=[picture().rotate(180).quantize(64)], duration=100)


def bmps():
    save("rgb.bmp", picture())
    save("grey.bmp", picture(bands=1))
    save("one_bit.bmp", picture(bands=1).convert("1"))
    save("palette.bmp", picture().quantize(100))
    save("rgba.bmp", picture(bands=4), np.asarray(picture(bands=4).convert("RGB")))


def tiff(pixels, order):
    """An uncompressed TIFF of `[H, W, 3]` 16-bit samples."""
    height, width, _ = pixels.shape
    data = pixels.astype(order + "u2").tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 + len(data)), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data))]

    def entry(tag, kind, count, value):
        packed = struct.pack(order + "HH", value, 0) if (kind, count) == (3, 1) else struct.pack(order + "I", value)
        return struct.pack(order + "HHI", tag, kind, count) + packed

    bits = struct.pack(order + "HHH", 16, 16, 16) + b"\0\0"
    ifd = struct.pack(order + "H", len(entries)) + b"".join(entry(*e) for e in entries) + b"\0\0\0\0"
    mark = {"<": b"II", ">": b"MM"}[order]
    return mark + struct.pack(order + "HI", 42, 8 + len(data) + len(bits)) + data + bits + ifd


def tiffs():
    save("rgb.tif", picture())
    save("rgb_lzw.tif", picture(), compression="tiff_lzw")
    save("rgb_deflate.tif", picture(), compression="tiff_adobe_deflate")
    save("rgb_packbits.tif", picture(), compression="packbits")
    save("grey.tif", picture(bands=1))
    save("grey_lzw.tif", picture(bands=1), compression="tiff_lzw")
    save("one_bit.tif", picture(bands=1).convert("1"))
    save("rgba.tif", picture(bands=4), compression="tiff_lzw")
    save("cmyk.tif", ink())
    write("rgb_16_bits.tif", tiff(deep(3), "<"))
    write("rgb_16_bits_big_endian.tif", tiff(deep(3), ">"))
    save("big.tif", picture(), big_tiff=True)
    save("two_pages.tif", picture(), save_all=True, append_images=[picture().rotate(180)])


def ascii_pnm(header, pixels):
    """A PNM in text, with a comment and lines of different length."""
    words = " ".join(str(value) for value in pixels.reshape(-1)).replace(" 1", "\n1")
    return f"{header} # a comment\n{SIZE[0]}\t{SIZE[1]}\n".encode(), words.encode() + b"\n"


def pnms():
    save("rgb.ppm", picture())
    save("grey.pgm", picture(bands=1))
    save("one_bit.pbm", picture(bands=1).convert("1"))
    for name, kind, top, pixels in [("ascii.ppm", "P3", 255, np.asarray(picture())), ("ascii.pgm", "P2", 255, np.asarray(picture(bands=1)))]:
        header, words = ascii_pnm(kind, pixels)
        write(name, header + f"{top}\n".encode() + words)
    header, words = ascii_pnm("P1", 1 - np.asarray(picture(bands=1).convert("1")).astype(np.uint8))
    write("ascii.pbm", header + words)
    size = f"{SIZE[0]} {SIZE[1]}"
    write("values_to_100.ppm", f"P6\n{size}\n100\n".encode() + (np.asarray(picture()).astype(np.int64) * 100 // 255).astype(np.uint8).tobytes())
    write("values_to_15.pgm", f"P5\n# made by hand\n{size}\n15\n".encode() + (np.asarray(picture(bands=1)) >> 4).tobytes())
    write("rgb_16_bits.ppm", f"P6 {size} 65535\n".encode() + deep(3).astype(">u2").tobytes())
    ten_bits = (deep(3) >> 6).astype(">u2")
    write("rgb_16_bits_to_1023.ppm", f"P6 {size} 1023\n".encode() + ten_bits.tobytes())
    header, words = ascii_pnm("P3", deep(3))
    write("ascii_16_bits.ppm", header + b"65535\n" + words)


def gray16_files():
    pixels = deep(1)
    pixels[3, :, 0] = np.arange(SIZE[0]) * 8  # around 255
    image = Image.fromarray(pixels[:, :, 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(GRAY16 / "rotated.png", exif=exif)
    (GRAY16 / "interlaced.png").write_bytes(png(pixels, 16, 0, interlaced=True))
    image.save(GRAY16 / "plain.tif")
    image.save(GRAY16 / "lzw.tif", compression="tiff_lzw")
    (GRAY16 / "plain.pgm").write_bytes(f"P5 {SIZE[0]} {SIZE[1]} 65535\n".encode() + pixels.astype(">u2").tobytes())
    for path in sorted(GRAY16.iterdir()):
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            gray16[f"clip/{path.name}"] = np.ascontiguousarray(np.asarray(upright.convert("RGB")))
            eight = ((np.asarray(upright).astype(np.int64) + 128) // 257).astype(np.uint8)
            gray16[f"scale/{path.name}"] = np.repeat(eight[:, :, None], 3, axis=2)


def orientations():
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        exif[0x010E] = "a description before it"
        upright = picture(11, 18)
        save(f"orientation_{value}.jpg", upright, quality=95, subsampling="4:4:4", exif=exif)
        save(f"orientation_{value}.png", upright, exif=exif)
        save(f"orientation_{value}.webp", upright, exif=exif, lossless=True)
        save(f"orientation_{value}.tif", upright, tiffinfo={274: value})
    data = (PHOTOS / "orientation_6.png").read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    write("orientation_behind_6.png", data[:at] + data[end:-12] + data[at:end] + data[-12:])
    for value in [0, 9, 65535]:
        exif = Image.Exif()
        exif[0x0112] = value
        save(f"orientation_unknown_{value}.jpg", picture(11, 18), quality=95, exif=exif)
    save("orientation_broken.jpg", picture(11, 18), quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")


# Along which axis of the upright photo (across, down) pixels come in the other order than stored, by EXIF orientation.
FLIPS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
RENDERINGS = [
    # what becomes of the short side; the part (top, left, height, width) of the upright photo and the size (height, width)
    # that it is resized to; the filter
    (60, None, None, "bilinear"),
    (36, None, None, "bilinear"),
    (17, None, None, "bicubic"),
    (9, None, None, "lanczos"),
    (None, (3, 5, 101, 90), (20, 22), "bilinear"),
    (None, (50, 61, 88, 71), (20, 22), "bilinear"),
    (None, (0, 0, 150, 150), (16, 14), "bicubic"),
    (None, (70, 33, 61, 77), (7, 7), "nearest"),
    (None, (41, 40, 40, 43), (20, 20), "bilinear"),
    (None, (41, 40, 30, 33), (24, 24), "bilinear"),
]


def renderings():
    """Parts of drafts, resized."""
    cases, results = [], {}
    for orientation in FLIPS:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = LARGER / f"{orientation}.jpg"
        picture(203, 151).save(path, quality=92, subsampling=orientation % 3, progressive=orientation % 2 == 0, exif=exif)
        for short, part, size, name in RENDERINGS:
            with Image.open(path) as image:
                stored = image.size
                upright = stored if orientation < 5 else stored[::-1]
                if short is not None:
                    part = (0, 0, upright[1], upright[0])
                    size = tuple(short * side // min(upright) for side in upright[::-1])
                top, left, height, width = part
                factor = max(f for f in [1, 2, 4, 8] if f <= max(1, min(height // size[0], width // size[1])))
                image.draft("RGB", tuple(side // factor for side in stored))
                draft = ImageOps.exif_transpose(image)
            assert draft.size == tuple(math.ceil(side / factor) for side in upright)
            shift = [(d - u / factor) * flip for d, u, flip in zip(draft.size, upright, FLIPS[orientation])]
            starts = [left / factor + shift[0], top / factor + shift[1]]
            ends = [starts[0] + width / factor, starts[1] + height / factor]
            corner = [math.floor(start) for start in starts]
            cut = draft.crop((*corner, *(min(math.ceil(end), side) for end, side in zip(ends, draft.size))))
            box = [value - corner[axis] for values in (starts, ends) for axis, value in enumerate(values)]
            box = [min(box[i], cut.size[i % 2]) for i in range(4)]
            resized = cut.resize(size[::-1], Image.Resampling[name.upper()], box=box)
            result = f"{path.name}/{len(cases)}"
            results[result] = np.ascontiguousarray(resized)
            cases.append({"photo": path.name, "resize": short, "crop": None if short else part, "size": size, "filter": name,
                          "factor": factor, "result": result})
    with open(HERE / "rendered.json", "w", newline="\n") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")
    save_file(dict(sorted(results.items())), HERE / "rendered.safetensors", {"made_by": f"Pillow {PIL.__version__}"})


def patched(name, *changes):
    data = bytearray((PHOTOS / name).read_bytes())
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    return bytes(data)


def with_size(extension, side):
    """A photo whose header says `side` x `side` pixels."""
    big, little = struct.pack(">H", side), struct.pack("<H", side)
    if extension == "jpg":
        at = (PHOTOS / "baseline_420.jpg").read_bytes().index(b"\xff\xc0") + 5
        return patched("baseline_420.jpg", (at, big + big))
    if extension == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return patched("rgb.png", (8, png_chunk(b"IHDR", header)))
    if extension == "webp":
        # The extended format counts from 1 in 24 bits.
        return patched("lossy_alpha.webp", (24, struct.pack("<I", side - 1)[:3] * 2)) 
    if extension == "gif":
        return patched("plain.gif", (6, little + little))
    if extension == "bmp":
        return patched("rgb.bmp", (18, struct.pack("<II", side, side)))
    data = tiff(deep(3), "<")
    for tag, value in [(256, SIZE[0]), (257, SIZE[1]), (278, SIZE[1])]:  # width, height, rows in the only strip
        data = data.replace(struct.pack("<HHII", tag, 4, 1, value), struct.pack("<HHII", tag, 4, 1, side))
    return data


def refused():
    (REFUSED / "text.jpg").write_text("This is a text, whatever its name says.\n")
    (REFUSED / "page.png").write_text("<!DOCTYPE html><title>404 Not Found</title>\n")
    (REFUSED / "drawing.webp").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>\n')
    (REFUSED / "sound.webp").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    (REFUSED / "icon.bmp").write_bytes(b"\0\0\1\0\1\0")
    for extension in ["jpg", "png", "webp", "gif", "bmp", "tif"]:
        (REFUSED / f"too_large.{extension}").write_bytes(with_size(extension, 65535 if extension != "webp" else 16384))
        if extension != "webp":
            (REFUSED / f"no_pixels.{extension}").write_bytes(with_size(extension, 0))
    # A small screen with a large frame: the descriptor of the first frame follows the palette of 64 colours.
    at = (PHOTOS / "plain.gif").read_bytes().index(b"\x2c\0\0\0\0" + struct.pack("<HH", *SIZE))
    (REFUSED / "large_frame.gif").write_bytes(patched("plain.gif", (at + 5, b"\xff\xff\xff\xff")))
    picture().quantize(16).save(REFUSED / "palette.tif")
    data = (PHOTOS / "baseline_420.jpg").read_bytes()
    (REFUSED / "arithmetic.jpg").write_bytes(data.replace(b"\xff\xc0", b"\xff\xc9"))
    (REFUSED / "two_colours.jpg").write_bytes(two_components(data))


def two_components(data):
    """The frame and the scan of a JPEG without their third component."""
    frame = data.index(b"\xff\xc0")
    scan = data.index(b"\xff\xda")
    frame_segment = data[frame : frame + 2] + b"\0\x0e" + data[frame + 4 : frame + 9] + b"\2" + data[frame + 10 : frame + 16]
    scan_segment = data[scan : scan + 2] + b"\0\x0a\2" + data[scan + 5 : scan + 9] + data[scan + 11 : scan + 14]
    return data[:frame] + frame_segment + data[frame + 19 : scan] + scan_segment + data[scan + 14 :]


def main():
    warnings.simplefilter("ignore")
    for folder in [PHOTOS, LARGER, REFUSED, GRAY16]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for make in [jpegs, pngs, webps, gifs, bmps, tiffs, pnms, gray16_files, orientations, drafts, renderings, refused]:
        make()
    metadata = {"made_by": f"Pillow {PIL.__version__}"}
    save_file(dict(sorted(expected.items())), HERE / "expected.safetensors", metadata)
    save_file(dict(sorted(reduced.items())), HERE / "reduced.safetensors", metadata)
    save_file(dict(sorted(gray16.items())), HERE / "gray16.safetensors", metadata)
    for folder in [PHOTOS, LARGER, REFUSED, GRAY16]:
        sizes = [path.stat().st_size for path in folder.iterdir()]
        print(f"reference/decode/{folder.name}: {len(sizes)} files, {sum(sizes)} bytes")
    for name in ["expected", "reduced", "rendered", "gray16"]:
        print(f"reference/decode/{name}.safetensors: {(HERE / f'{name}.safetensors').stat().st_size} bytes")


main()
