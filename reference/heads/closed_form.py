"""Golden values for the heads in closed form, from scikit-learn: `ridge`, `lda`, `nearest-mean` and `knn`.

make.py writes them to closed_form.safetensors, with the names of its other files: SET.CASE.weight and so on.
"""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeClassifierCV
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize
from sklearn.utils.class_weight import compute_sample_weight

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)


def put(out, case, **values):
    for name, value in values.items():
        out[f"{case}.{name}"] = np.ascontiguousarray(value)


def ridge(out, name, x, labels, class_weight):
    case = f"{name}.ridge-{class_weight or 'none'}"
    for alpha in (0.1, 10.0):
        model = RidgeClassifier(alpha=alpha, class_weight=class_weight).fit(x, labels)
        predictions = model.predict(x).astype(np.uint32)
        put(out, f"{case}-{alpha}", weight=model.coef_, bias=model.intercept_, predictions=predictions)
    model = RidgeClassifierCV(alphas=ALPHAS, class_weight=class_weight, store_cv_results=True).fit(x, labels)
    errors = model.cv_results_.reshape(-1, len(ALPHAS)).mean(axis=0)
    put(out, f"{case}-auto", weight=model.coef_, bias=model.intercept_, alpha=model.alpha_, errors=errors)


def photos(out, name, x, labels, class_weight):
    """Each photo left out by fitting without it; photos of one, two and three views."""
    photo = np.minimum(np.arange(len(x)) // 3, len(x) // 4)
    photo = np.where(np.arange(len(x)) % 5 == 0, 1000 + np.arange(len(x)), photo)
    targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
    targets = targets[:, 1:] if targets.shape[1] == 2 else targets
    weights = compute_sample_weight(class_weight, labels)
    errors = []
    for alpha in ALPHAS:
        sum = 0.0
        for fit, left_out in LeaveOneGroupOut().split(x, groups=photo):
            model = Ridge(alpha=alpha, solver="svd").fit(x[fit], targets[fit], sample_weight=weights[fit])
            found = model.predict(x[left_out]).reshape(len(left_out), -1)
            sum += (weights[left_out, None] * (targets[left_out] - found) ** 2).sum()
        errors.append(sum / targets.size)
    case = f"{name}.ridge-photos-{class_weight or 'none'}"
    put(out, case, photos=photo.astype(np.uint32), errors=np.array(errors))


def lda(out, name, x, labels, shrinkage):
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, labels)
    values = {"probabilities": model.predict_proba(x), "predictions": model.predict(x).astype(np.uint32)}
    put(out, f"{name}.lda-{shrinkage}", weight=model.coef_, bias=model.intercept_, **values)


def nearest_mean(out, name, x, labels):
    model = NearestCentroid().fit(x, labels)
    distances = euclidean_distances(x, model.centroids_, squared=True)
    predictions = model.predict(x).astype(np.uint32)
    put(out, f"{name}.nearest-mean-euclidean", distances=distances, predictions=predictions)
    z = normalize(x)
    means = np.stack([z[labels == label].mean(axis=0) for label in np.unique(labels)])
    similarities = cosine_similarity(x, means)
    predictions = similarities.argmax(axis=1).astype(np.uint32)
    put(out, f"{name}.nearest-mean-cosine", similarities=similarities, predictions=predictions)


def knn(out, name, x, labels):
    """Fitted on every row but each third; those are the questions."""
    asked = np.arange(len(x)) % 3 == 0
    for k in (1, 5, 15):
        for weights in ("uniform", "distance"):
            for metric in ("euclidean", "cosine"):
                model = KNeighborsClassifier(k, weights=weights, metric=metric, algorithm="brute")
                model.fit(x[~asked], labels[~asked])
                assert len(model.classes_) == len(np.unique(labels))
                put(out, f"{name}.knn-{k}-{weights}-{metric}", probabilities=model.predict_proba(x[asked]))


def closed_form(sets):
    out = {}
    features, labels = sets["three"]
    constant = np.tile(np.float32([0, 3.3, -0.7]), (len(features), 1))
    sets = sets | {"constant": (np.hstack([features, constant]), labels)}
    for name, (features, labels) in sets.items():
        put(out, name, features=features, labels=labels)
        x = features.astype(np.float64)
        for class_weight in (None, "balanced"):
            ridge(out, name, x, labels, class_weight)
            photos(out, name, x, labels, class_weight)
        for shrinkage in ("auto", 0.1, 0.0):
            lda(out, name, x, labels, shrinkage)
        nearest_mean(out, name, x, labels)
        knn(out, name, x, labels)
    return out
