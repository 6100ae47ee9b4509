"""torchvision's ResNets with weights from the formula, and what they take."""

import torch
import torchvision
from formula import MEAN, STD, tensor, torchvisions_last

BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
CLASSIFIERS = ("fc.", "classifier.")


def load_formula(model, last):
    state = {
        name: torch.from_numpy(tensor(name, tuple(value.shape), last in name))
        for name, value in model.state_dict().items()
        if not name.startswith(CLASSIFIERS) and not name.endswith("num_batches_tracked")
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith(CLASSIFIERS) or "num_batches" in name for name in missing)
    return model.eval()


def torchvisions(depth):
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    return load_formula(model, torchvisions_last(depth))


def normalised(photos):
    return torchvision.transforms.Normalize(MEAN, STD)(torch.from_numpy(photos).permute(0, 3, 1, 2) / 255)
