"""How Pillow says that each photo of reference/decode/{photos,gray16} is stored: reference/checks/stored.json."""

import json
import warnings
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
FILES = HERE.parent / "decode"


def stored(path):
    with Image.open(path) as image:
        # Of a TIFF Pillow gives the size once it is upright.
        size = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
        return {
            "format": {"MPO": "JPEG", "PPM": "PNM"}.get(image.format, image.format),
            "size": list(size),
            "mode": image.mode,
            "transparent": image.has_transparency_data,
            "frames": getattr(image, "n_frames", 1),
            "orientation": image.getexif().get(0x0112, 1),
        }


def main():
    warnings.simplefilter("ignore")
    paths = sorted([*(FILES / "photos").iterdir(), *(FILES / "gray16").iterdir()])
    lines = [f"{json.dumps(path.relative_to(FILES).as_posix())}: {json.dumps(stored(path))}" for path in paths]
    (HERE / "stored.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"reference/checks/stored.json: {len(lines)} photos")


main()
