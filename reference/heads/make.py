"""Golden files for the heads: scikit-learn's linear models and PyTorch's optimisers on small data sets.

Writes scikit-learn.safetensors, pytorch.safetensors and closed_form.safetensors beside this file. The names of the
tensors are the cases: SET.features, SET.labels, and SET.CASE.weight and so on.
"""

from pathlib import Path

import numpy as np
import torch
from closed_form import closed_form
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

HERE = Path(__file__).parent


def samples(seed, counts, width):
    """Features as from a ReLU, of unequal scales, in classes that overlap."""
    random = np.random.RandomState(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), width))
    scales = np.exp(random.normal(size=width))
    features = np.maximum(0, (centres[labels] + 2 * random.normal(size=(len(labels), width)) + 1) * scales)
    return features.astype(np.float32), labels.astype(np.uint32)


SETS = {
    "two": samples(0, [33, 27], 20),
    "three": samples(1, [20, 20, 20], 20),
    "five": samples(2, [12, 12, 12, 12, 12], 20),
    "wide": samples(3, [8, 9, 10], 40),
    "unbalanced": samples(4, [55, 12, 5], 20),
    "two-unbalanced": samples(5, [50, 10], 15),
}


def put(out, case, **values):
    for name, value in values.items():
        out[f"{case}.{name}"] = np.ascontiguousarray(value)


def linear(out, name, features, labels, C, class_weight=None, standardize=False):
    # Newton's method in float64: another way to the optimum than L-BFGS, and closer to it.
    x = features.astype(np.float64)
    scaler = StandardScaler().fit(x) if standardize else None
    z = scaler.transform(x) if scaler else x
    model = LogisticRegression(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(z, labels)
    case = f"{name}.linear-{C}-{class_weight or 'none'}{'-standardize' if standardize else ''}"
    put(out, case, weight=model.coef_, bias=model.intercept_, probabilities=model.predict_proba(z))


def svm(out, name, features, labels, C, loss, class_weight=None, intercept_scaling=1.0):
    # Of the squared hinge, LIBLINEAR solves the primal by Newton's method; the hinge has the dual only.
    model = LinearSVC(
        C=C,
        loss=loss,
        class_weight=class_weight,
        intercept_scaling=intercept_scaling,
        dual=loss == "hinge",
        tol=1e-10,
        max_iter=10_000_000,
        random_state=0,
    )
    x = features.astype(np.float64)
    model.fit(x, labels)
    kind = loss.replace("_", "-")
    case = f"{name}.svm-{C}-{kind}-{class_weight or 'none'}-{intercept_scaling}"
    put(out, case, weight=model.coef_, bias=model.intercept_, predictions=model.predict(x).astype(np.uint32))


def scikit_learn():
    out = {}
    for name, (features, labels) in SETS.items():
        put(out, name, features=features, labels=labels)
        for C in (0.01, 1.0):
            linear(out, name, features, labels, C)
        linear(out, name, features, labels, 1.0, class_weight="balanced")
        linear(out, name, features, labels, 1.0, standardize=True)
        for loss in ("squared_hinge", "hinge"):
            for C in (0.01, 1.0):
                svm(out, name, features, labels, C, loss)
            svm(out, name, features, labels, 0.1, loss, class_weight="balanced")
        svm(out, name, features, labels, 0.1, "squared_hinge", intercept_scaling=10.0)
    return out


def numpy_of(parameters):
    return {name: value.detach().numpy().copy() for name, value in parameters}


def pytorch():
    """Full-batch steps, so that the order of the samples does not matter."""
    out = {}
    features, labels = SETS["unbalanced"]
    put(out, "set", features=features, labels=labels)
    x, y = torch.from_numpy(features), torch.from_numpy(labels.astype(np.int64))
    counts = torch.bincount(y)
    balanced = len(y) / (len(counts) * counts)

    torch.manual_seed(0)
    layers = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Linear(20, 16), torch.nn.Linear(16, 8), torch.nn.Linear(8, 3)])}
    )

    def mlp(x):
        first, second, third = layers["layers"]
        return third(torch.relu(second(torch.relu(first(x)))))

    put(out, "mlp.initial", **numpy_of(layers.named_parameters()))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        loss = (torch.nn.functional.cross_entropy(mlp(x), y, reduction="none") * balanced[y]).mean()
        loss.backward()
        if step == 0:
            put(out, "mlp.gradient", **{n: p.grad.numpy().copy() for n, p in layers.named_parameters()})
            put(out, "mlp", logits=mlp(x).detach().numpy())
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            put(out, "mlp.after-1", **numpy_of(layers.named_parameters()))
    put(out, "mlp.after-20", **numpy_of(layers.named_parameters()))
    put(out, "mlp", losses=np.array(losses))

    # The tutorial's loop, on the objective C * sum(loss) + |w|^2 / 2 divided by C * n, from zeros.
    layer = torch.nn.Linear(20, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        penalty = (layer.weight**2).sum() / (2 * 0.1 * len(y))
        (torch.nn.functional.cross_entropy(layer(x), y) + penalty).backward()
        optimizer.step()
    put(out, "adam", **numpy_of(layer.named_parameters()))
    return out


FILES = {
    "scikit-learn.safetensors": scikit_learn(),
    "pytorch.safetensors": pytorch(),
    "closed_form.safetensors": closed_form(SETS),
}
for file, tensors in FILES.items():
    save_file(dict(sorted(tensors.items())), HERE / file)
    print(f"{HERE / file}: {len(tensors)} tensors, {(HERE / file).stat().st_size} bytes")
