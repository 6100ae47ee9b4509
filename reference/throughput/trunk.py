"""A ResNet's trunk, photos to avgpool features, as an ONNX file for the engines that headstock is compared with.

usage: trunk.py CHECKPOINT.safetensors OUT.onnx

The checkpoint has torchvision's names; ResNet-18, 34, 50, 101 and 152 are told apart by them. Input `x` is float32
[N, 3, H, W], already normalised; output `y` is float32 [N, 512 or 2048]. BatchNorm stays a node of its own: the engines
fold it themselves.

Before anything is written, the same code builds all five with the weights of the golden files' formula, and ONNX Runtime's
features of them must agree with PyTorch's in ../backbone/taps.safetensors.
"""

import json
import sys
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

BACKBONE = Path(__file__).parent.parent / "backbone"
sys.path.insert(0, str(BACKBONE))
from formula import MEAN, STD, pixels, tensor, torchvisions_last  # noqa: E402

DEPTHS = [18, 34, 50, 101, 152]
# The golden size with odd sides: a wrong padding shows there.
GOLDEN_SIZE = (1, 193, 129)
TOLERANCE = 1e-4


class Trunk:
    def __init__(self, tensors):
        self.tensors, self.nodes, self.weights = tensors, [], {}

    def node(self, op, inputs, output=None, **attributes):
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def weight(self, name):
        self.weights[name] = numpy_helper.from_array(self.tensors[name].astype(np.float32), name)
        return name

    def convolution(self, x, conv, norm, stride=1):
        """A convolution that keeps the size, or halves it, and its BatchNorm."""
        padding = self.tensors[f"{conv}.weight"].shape[2] // 2
        x = self.node("Conv", [x, self.weight(f"{conv}.weight")], strides=[stride] * 2, pads=[padding] * 4)
        affine = [self.weight(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", [x, *affine], epsilon=1e-5)

    def block(self, x, name, stride):
        bottleneck = f"{name}.conv3.weight" in self.tensors
        # torchvision's bottleneck strides in its 3x3 convolution, the basic block in its first.
        strides = [1, stride, 1] if bottleneck else [stride, 1]
        y = x
        for i, s in enumerate(strides, 1):
            y = self.convolution(y, f"{name}.conv{i}", f"{name}.bn{i}", s)
            y = y if i == len(strides) else self.node("Relu", [y])
        if f"{name}.downsample.0.weight" in self.tensors:
            x = self.convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return self.node("Relu", [self.node("Add", [y, x])])


def build(tensors):
    trunk = Trunk(tensors)
    x = trunk.node("Relu", [trunk.convolution("x", "conv1", "bn1", 2)])
    x = trunk.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(1, 5):
        names = (f"layer{stage}.{i}" for i in count())
        for i, name in enumerate(takewhile(lambda name: f"{name}.conv1.weight" in tensors, names)):
            x = trunk.block(x, name, 2 if stage > 1 and i == 0 else 1)
    trunk.node("Flatten", [trunk.node("GlobalAveragePool", [x])], "y")
    graph = helper.make_graph(
        trunk.nodes,
        "trunk",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "f"])],
        list(trunk.weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def check(depth, shapes, golden):
    """That the trunk of that depth gives PyTorch's features."""
    last = torchvisions_last(depth)
    weights = {name: tensor(name, shape, last in name) for name, shape in shapes.items() if not name.startswith("fc.")}
    session = onnxruntime.InferenceSession(build(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    x = (pixels(*GOLDEN_SIZE) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    (features,) = session.run(None, {"x": x.transpose(0, 3, 1, 2)})
    error = np.abs(features.ravel() - golden).max() / np.abs(golden).max()
    print(f"ResNet-{depth}: {error:.1e} from PyTorch's features")
    if not error <= TOLERANCE:
        sys.exit(f"the ONNX trunk of ResNet-{depth} is not PyTorch's: relative error {error:.1e}, over {TOLERANCE:.0e}")


def main(checkpoint, out):
    names = json.loads((BACKBONE / "names.json").read_text())
    golden = load_file(BACKBONE / "taps.safetensors")
    size = "x".join(map(str, GOLDEN_SIZE))
    for depth in DEPTHS:
        check(depth, names[f"resnet{depth}"], golden[f"resnet{depth}/{size}/avgpool/values"])
    onnx.save(build(load_file(checkpoint)), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
