"""HEIC and AVIF photos with the pixels that pillow-heif and Pillow read.

`files/` has the photos, `expected.safetensors` the upright pixels `[H, W, 3]` by file name, over white where there is
transparency.
"""

import pathlib
import shutil
import struct

import numpy as np
import PIL
import pillow_heif
from PIL import Image, ImageOps
from safetensors.numpy import save_file

pillow_heif.register_heif_opener()

HERE = pathlib.Path(__file__).parent
FILES = HERE / "files"
expected = {}


def picture(mode="RGB", width=48, height=32):
    bands = len(mode)
    y, x, c = np.mgrid[:height, :width, :bands]
    pixels = 127.5 + 110 * np.sin(x / 9 + y / 13 * (c - 1) + 2.1 * c) * np.cos(y / 11)
    pixels = np.rint(pixels).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(pixels[:, :, 0])
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def keep(name):
    with Image.open(FILES / name) as image:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
            alpha = rgba[:, :, 3:]
            pixels = ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        else:
            pixels = np.asarray(image.convert("RGB"))
    expected[name] = np.ascontiguousarray(pixels)


def box(data, kind):
    """The start and the end of the first box of this kind."""
    at = data.index(kind) - 4
    return at, at + struct.unpack(">I", data[at : at + 4])[0]


def rotated(data, quarters, mirror=None):
    """A HEIC whose primary image has the property `irot`, and possibly `imir`, as telephones write them."""
    properties = [struct.pack(">I4sB", 9, b"irot", quarters)]
    if mirror is not None:
        properties.append(struct.pack(">I4sB", 9, b"imir", mirror))
    primary = struct.unpack(">H", data[box(data, b"pitm")[0] + 12 :][:2])[0]
    start, end = box(data, b"ipco")
    known, at = 0, start + 8
    while at < end:
        known, at = known + 1, at + struct.unpack(">I", data[at : at + 4])[0]
    # `ipma` follows: version 0, entries of an item, a number of properties and a byte for each.
    associations, _ = box(data, b"ipma")
    at = associations + 16
    while struct.unpack(">H", data[at : at + 2])[0] != primary:
        at += 3 + data[at + 2]
    count, insert_at = at + 2, at + 3 + data[at + 2]
    added = b"".join(properties)
    indices = bytes(0x80 | (known + 1 + i) for i in range(len(properties)))
    delta = len(added) + len(indices)
    result = bytearray(data)
    result[count] += len(properties)
    # `iloc` of version 0: of each item its number, a reference, the base offset, and one extent; `mdat` moves.
    location, location_end = box(data, b"iloc")
    assert data[location + 8] == 0 and data[location + 12 : location + 14] == b"\x44\x40"
    for at in range(location + 16, location_end, 18):
        assert data[at + 8 : at + 10] == b"\0\1"
        result[at + 4 : at + 8] = struct.pack(">I", struct.unpack(">I", data[at + 4 : at + 8])[0] + delta)
    for kind, growth in [(b"meta", delta), (b"iprp", delta), (b"ipco", len(added)), (b"ipma", len(indices))]:
        place, place_end = box(data, kind)
        result[place : place + 4] = struct.pack(">I", place_end - place + growth)
    assert end <= associations
    return bytes(result[:end]) + added + bytes(result[end:insert_at]) + indices + bytes(result[insert_at:])


def save(name, image, **options):
    image.save(FILES / name, **options)
    keep(name)


def main():
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    with Image.open(HERE.parent / "color" / "files" / "p3.png") as image:
        profile = image.info["icc_profile"]
    for value in [1, 2, 3, 4, 5, 6, 7, 8]:
        exif = Image.Exif()
        exif[0x0112] = value
        save(f"orientation_{value}.avif", picture(width=24, height=16), quality=80, subsampling="4:4:4", exif=exif, speed=8)
    # The properties of the container count; the orientation that EXIF also has is not applied.
    upright = picture(width=24, height=16)
    exif = Image.Exif()
    exif[0x0112] = 1
    upright.save(FILES / "exif_only.heic", quality=80, chroma=444, exif=exif)
    keep("exif_only.heic")
    data = (FILES / "exif_only.heic").read_bytes()
    orientation = struct.pack(">HHI", 0x0112, 3, 1)
    assert data.count(orientation + b"\0\1") == 1
    data = data.replace(orientation + b"\0\1", orientation + b"\0\6")
    (FILES / "exif_only.heic").write_bytes(data)
    for quarters, mirror in [(1, None), (2, None), (3, None), (0, 0), (0, 1), (1, 0), (3, 1)]:
        name = f"rotated_{quarters}{'' if mirror is None else f'_mirrored_{mirror}'}.heic"
        (FILES / name).write_bytes(rotated(data, quarters, mirror))
        # Rotation is counterclockwise; an axis of 0 exchanges top and bottom.
        pixels = np.rot90(expected["exif_only.heic"], quarters)
        if mirror is not None:
            pixels = pixels[::-1] if mirror == 0 else pixels[:, ::-1]
        expected[name] = np.ascontiguousarray(pixels)
        with Image.open(FILES / name) as image:
            assert (np.asarray(image.convert("RGB")) == expected[name]).all(), name
    save("rgb.heic", picture(), quality=90, chroma=444)
    save("chroma_420.heic", picture(), quality=90, chroma=420)
    save("odd_size.heic", picture(width=37, height=29), quality=90, chroma=444)
    save("gray.heic", picture("L"), quality=90)
    save("alpha.heic", picture("RGBA"), quality=90, chroma=444)
    save("profile.heic", picture(), quality=90, chroma=444, icc_profile=profile)
    save("second_of_two.heic", picture(), quality=60, chroma=444, save_all=True, append_images=[ImageOps.invert(picture())], primary_index=1)
    save("rgb.avif", picture(), quality=90, subsampling="4:4:4", speed=8)
    save("chroma_420.avif", picture(), quality=90, subsampling="4:2:0", speed=8)
    save("chroma_420_odd_size.avif", picture(width=37, height=29), quality=90, subsampling="4:2:0", speed=8)
    save("chroma_420_one_row.avif", picture(width=37, height=1), quality=90, subsampling="4:2:0", speed=8)
    save("chroma_420_alpha.avif", picture("RGBA"), quality=90, subsampling="4:2:0", speed=8)
    save("chroma_420_limited_range.avif", picture(), quality=90, subsampling="4:2:0", speed=8, range="limited")
    save("chroma_422.avif", picture(), quality=90, subsampling="4:2:2", speed=8)
    exif = Image.Exif()
    exif[0x0112] = 6
    save("chroma_420_rotated.avif", picture(), quality=90, subsampling="4:2:0", speed=8, exif=exif)
    save("odd_size.avif", picture(width=37, height=29), quality=90, subsampling="4:4:4", speed=8)
    save("gray.avif", picture("L"), quality=90, subsampling="4:0:0", speed=8)
    save("alpha.avif", picture("RGBA"), quality=90, subsampling="4:4:4", speed=8)
    deep = (np.asarray(picture()).astype(np.uint16) * 257).astype("<u2")
    heif = pillow_heif.from_bytes(mode="RGB;16", size=(48, 32), data=deep.tobytes())
    heif.save(FILES / "ten_bits.heic", quality=90, chroma=444)
    keep("ten_bits.heic")
    save_file(dict(sorted(expected.items())), HERE / "expected.safetensors",
              {"made_by": f"pillow-heif {pillow_heif.__version__}, Pillow {PIL.__version__}"})
    sizes = [path.stat().st_size for path in FILES.iterdir()]
    print(f"reference/heif: {len(sizes)} files, {sum(sizes)} bytes")


main()
