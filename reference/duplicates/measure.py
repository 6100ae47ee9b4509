"""How many near-duplicates are found among photos of yours, and how many of the reported pairs are false.

    python reference/duplicates/measure.py PHOTOS [--count 200] [--seed 0] [--same FILE] [--montage FILE]

copies PHOTOS, makes a near-duplicate of `--count` of them with Pillow, runs `loader/examples/duplicates.rs` on all, and counts.
A photo is compressed anew (quality 50 to 90), resized (0.4 to 0.9 of each side), cropped (5 % of each side, anywhere),
mirrored, or all four, a fifth each. Photos may have near-duplicates of their own: pairs that a person has looked at and
found to be the same picture are listed in the CSV `--same` (a,b: paths below PHOTOS) and are not false. `--montage` draws the
reported pairs that are neither injected nor listed.
"""

import argparse
import csv
import io
import pathlib
import random
import shutil
import subprocess
import tempfile

from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ["encoded", "resized", "cropped", "mirrored", "all"]


def near_duplicate(path, kind, chance):
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if kind in ("mirrored", "all"):
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind in ("cropped", "all"):
        width, height = (round(side * 0.95) for side in photo.size)
        x, y = chance.randint(0, photo.width - width), chance.randint(0, photo.height - height)
        photo = photo.crop((x, y, x + width, y + height))
    if kind in ("resized", "all"):
        scale = chance.uniform(0.4, 0.9)
        photo = photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.BICUBIC)
    quality = chance.randint(50, 90) if kind in ("encoded", "all") else 92
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return file.getvalue()


def reported(folder, similarity):
    command = ["cargo", "run", "--release", "-q", "-p", "headstock-loader", "--example", "duplicates", "--", str(folder)]
    done = subprocess.run(command + similarity, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return list(csv.DictReader(io.StringIO(done.stdout)))


def montage(pairs, folder, path):
    side, across = 160, 5
    sheet = Image.new("RGB", (across * (2 * side + 12), (len(pairs) + across - 1) // across * (side + 8)), "red")
    for at, (a, b) in enumerate(pairs):
        for half, name in enumerate((a, b)):
            photo = ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB").resize((side, side))
            sheet.paste(photo, (at % across * (2 * side + 12) + half * side, at // across * (side + 8)))
    sheet.save(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--similarity", nargs=1, default=[], help="the least one; else the example's")
    parser.add_argument("--same", type=pathlib.Path)
    parser.add_argument("--montage", type=pathlib.Path)
    options = parser.parse_args()

    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(options.photos, folder / "photos", copy_function=shutil.copyfile)
        (folder / "injected").mkdir()
        names = sorted(str(p.relative_to(options.photos)) for p in options.photos.rglob("*.[jp][pn]*g"))
        injected = {}
        for at, name in enumerate(chance.sample(names, options.count)):
            kind = KINDS[at % len(KINDS)]
            copy = folder / "injected" / f"{at}.jpg"
            copy.write_bytes(near_duplicate(options.photos / name, kind, chance))
            injected[str(copy)] = (name, kind)

        same = set()
        if options.same:
            same = {frozenset((row["a"], row["b"])) for row in csv.DictReader(options.same.open())}
        found, of_their_own, false, others = {kind: 0 for kind in KINDS}, 0, 0, {}
        pairs = reported(folder, options.similarity)
        for pair in pairs:
            of = [injected.get(pair[side], (None,))[0] for side in "ab"]
            photo = [of[at] or str(pathlib.Path(pair[side]).relative_to(folder / "photos")) for at, side in enumerate("ab")]
            if photo[0] == photo[1]:
                found[next(injected[pair[side]][1] for side in "ab" if pair[side] in injected)] += 1
            elif frozenset(photo) in same:
                of_their_own += 1
            else:
                false += 1
                others.setdefault(tuple(sorted(photo)), float(pair["similarity"]))

    for at, kind in enumerate(KINDS):
        print(f"{kind}: {found[kind]} of {len(range(at, options.count, len(KINDS)))}")
    print(f"recall {sum(found.values()) / options.count:.3f} of {options.count} injected")
    print(f"{len(pairs)} pairs reported: {of_their_own} of the photos' own, {false} false ({false / max(1, len(pairs)):.4f})")
    others = sorted(others, key=others.get)
    for pair in others:
        print(*pair, sep=",")
    if options.montage and others:
        montage(others, options.photos, options.montage)


main()
