"""Each head and its counterpart, and the objective that both minimise."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

# What "auto" chooses from, on both sides.
ALPHAS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5]


def logistic(scores, weight, bias, labels, C):
    top = scores.max(axis=1, keepdims=True)
    log_sum = (top + np.log(np.exp(scores - top).sum(axis=1, keepdims=True)))[:, 0]
    return C * (log_sum - scores[np.arange(len(labels)), labels]).sum() + 0.5 * (weight**2).sum()


def margins(scores, weight, bias, labels, C, power):
    signs = np.where(labels[:, None] == np.arange(len(bias)), 1.0, -1.0)
    slack = np.maximum(0, 1 - signs * scores)
    return 0.5 * (weight**2).sum() + 0.5 * (bias**2).sum() + C * (slack**power).sum()


def squared_hinge(*arguments):
    return margins(*arguments, power=2)


def hinge(*arguments):
    return margins(*arguments, power=1)


def crammer_singer(scores, weight, bias, labels, C):
    rows = np.arange(len(labels))
    own, rivals = scores[rows, labels], scores + 1
    rivals[rows, labels] -= 1
    return 0.5 * (weight**2).sum() + 0.5 * (bias**2).sum() + C * (rivals.max(axis=1) - own).sum()


def least_squares(scores, weight, bias, labels, alpha):
    signs = np.where(labels[:, None] == np.arange(len(bias)), 1.0, -1.0)
    return ((signs - scores) ** 2).sum() + alpha * (weight**2).sum()


@dataclass
class Pair:
    """A head with its settings, and a counterpart as it is written in Python."""

    head: str
    counterpart: str
    settings: dict = field(default_factory=dict)
    # Takes scores [N, C], weights [C, F], intercepts [C], labels [N] and the strength.
    objective: Callable | None = None
    # C or alpha; none where the counterpart chooses it.
    strength: float | None = None
    # Whether theirs is fitted in double precision.
    double: bool = False
    # Whether the problem has one solution in closed form, so that coefficients can be compared: with theirs in double
    # precision, which a fit more is made for.
    closed: bool = False
    # Whether predicting is the work.
    predicts: bool = False
    # Whether theirs takes many minutes on the made-up features: measured on photos alone, but for `--slow`.
    slow: bool = False

    @property
    def name(self):
        words = [f"{key} = {value}" for key, value in self.settings.items() if key != "alphas"]
        return ", ".join([f"`{self.head}`", *words])

    def model(self):
        return eval(self.counterpart)


PAIRS = [
    Pair("linear", "LogisticRegression(C=1, max_iter=1000)", {"C": 1.0}, logistic, 1.0),
    Pair("linear", "LogisticRegression(C=1, max_iter=10000, tol=1e-6)", {"C": 1.0}, logistic, 1.0, double=True, slow=True),
    Pair("svm", "LinearSVC(C=0.01)", {"C": 0.01}, squared_hinge, 0.01),
    Pair("svm", "LinearSVC(C=1)", {"C": 1.0}, squared_hinge, 1.0, slow=True),
    Pair("svm", "LinearSVC(C=1, loss='hinge')", {"C": 1.0, "loss": "hinge"}, hinge, 1.0, slow=True),
    Pair(
        "svm",
        "LinearSVC(C=0.01, multi_class='crammer_singer')",
        {"C": 0.01, "multi_class": "crammer-singer"},
        crammer_singer,
        0.01,
        slow=True,
    ),
    Pair("ridge", "RidgeClassifier(alpha=100)", {"alpha": 100.0}, least_squares, 100.0, closed=True),
    Pair(
        "ridge",
        "RidgeClassifierCV(alphas=ALPHAS)",
        {"alpha": "auto", "alphas": ALPHAS},
        least_squares,
        closed=True,
    ),
    Pair("lda", "LinearDiscriminantAnalysis(solver='lsqr', shrinkage='auto')", closed=True),
    Pair("nearest-mean", "NearestCentroid()"),
    Pair("knn", "KNeighborsClassifier(5)", {"k": 5}, predicts=True),
    Pair("mlp", "MLPClassifier((512,), early_stopping=True, max_iter=50, random_state=0)"),
]
