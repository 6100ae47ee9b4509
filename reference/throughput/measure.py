"""Photos a second of one engine on an ONNX trunk, as `headstock bench --json` says it: a line of JSON ends the output.

usage: measure.py MODEL.onnx ENGINE [--precision f32] [--batch 16] [--threads 2] [--seconds 4]

openvino keeps several batches in flight, which is its fastest way; openvino-latency, like onnxruntime, runs one at a time.
An engine that would compute in another precision than asked is an error. `isa` is what the engine tells of it: for OpenVINO
the kernel of most convolutions, for ONNX Runtime nothing.
"""

import argparse
import json
import sys
import time
from collections import Counter

import numpy as np

SIZE = 224
IN_FLIGHT = 4


def onnxruntime(model, precision, threads, x):
    import onnxruntime

    if precision != "f32":
        sys.exit(f"ONNX Runtime's CPU provider has no {precision} convolutions")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run():
        session.run(None, {"x": x})
        return len(x)

    return run, {"version": onnxruntime.__version__}


def openvino_network(model, precision, threads, x, hint):
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape(list(x.shape))
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint}
    compiled = core.compile_model(network, "CPU", settings)
    computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if computes_in != precision:
        sys.exit(f"OpenVINO computes in {computes_in} on this machine when asked for {precision}")
    nodes = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    convolutions = [node for node in nodes if node["layerType"].astype(str) == "Convolution"]
    kernels = Counter(node["primitiveType"].astype(str) for node in convolutions)
    return compiled, {"version": openvino.__version__.split("-")[0], "isa": kernels.most_common(1)[0][0]}


def openvino(model, precision, threads, x):
    from openvino import AsyncInferQueue

    compiled, about = openvino_network(model, precision, threads, x, "THROUGHPUT")
    queue = AsyncInferQueue(compiled)

    def run():
        for _ in range(IN_FLIGHT):
            queue.start_async({0: x})
        queue.wait_all()
        return IN_FLIGHT * len(x)

    return run, about


def openvino_latency(model, precision, threads, x):
    compiled, about = openvino_network(model, precision, threads, x, "LATENCY")
    request = compiled.create_infer_request()

    def run():
        request.infer({0: x})
        return len(x)

    return run, about


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino, "openvino-latency": openvino_latency}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4)
    a = parser.parse_args()
    x = np.random.default_rng(0).random((a.batch, 3, SIZE, SIZE), np.float32)
    run, about = ENGINES[a.engine](a.model, a.precision, a.threads, x)
    run(), run()
    done, started, seconds = 0, time.perf_counter(), 0
    while seconds < a.seconds:
        done += run()
        seconds = time.perf_counter() - started
    print(json.dumps({"images_per_second": done / seconds, "precision": a.precision, **about}))


if __name__ == "__main__":
    main()
