"""Fit linear models with scikit-learn, and copy their weights to a torch model."""

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch.utils.data import DataLoader
from tqdm import tqdm

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.data.faceset import FaceSet
from dfdetect.faces.crops import resize_crops
from dfdetect.models.linear import LinearModel
from dfdetect.training.dataset import ClipDataset

BATCH = 256
MAX_ITERATIONS = 1000
# Values of scikit-learn's `C` that are tried: inverse strengths of the penalty on the weights. The
# values for the SVM are lower because the loss of an SVM is larger.
STRENGTHS = {
    "logistic_regression": (1e-4, 1e-3, 1e-2, 1e-1),
    "linear_svm": (1e-5, 1e-4, 1e-3, 1e-2),
}


def linear_features(
    model: LinearModel, faces: FaceSet, spec: ModelSpec, workers: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of all crops, and the features of their mirror images.

    Features are the inputs of the linear layer.

    Args:
        model: The model that computes the features.
        faces: The face set of the crops.
        spec: The specification of the model.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show a progress bar.

    Returns:
        Two float32 arrays of shape (n, features).
    """
    dataset = ClipDataset(faces, partial(resize_crops, size=spec.input_size, rule=spec.resize))
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with (
        torch.inference_mode(),
        tqdm(total=len(faces), desc="features", unit="crop", disable=not progress) as bar,
    ):
        for images, _ in loader:
            for parts, seen in zip(found, (images, images.flip(-1)), strict=True):
                parts.append(model.forward_features(spec.normalise(seen)).flatten(1).numpy())
            bar.update(len(images))
    return np.concatenate(found[0]), np.concatenate(found[1])


def fit_head(
    model: LinearModel, architecture: str, strength: float, features: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Fit the linear layer of a model.

    All REAL crops together have the same weight as all FAKE crops together.

    Args:
        model: The model, whose `head` is changed.
        architecture: `logistic_regression` or `linear_svm` (with squared hinge loss).
        strength: scikit-learn's `C`, the inverse of the strength of the penalty on the squared
            weights.
        features: Features of the crops, float32 of shape (n, features).
        labels: 1 for FAKE and 0 for REAL, shape (n,).

    Returns:
        Two values for the training history: `C` (the argument `strength`) and `iterations` (the
        number of iterations).
    """
    if architecture == "linear_svm":
        fit = LinearSVC(C=strength, dual=False, class_weight="balanced", max_iter=MAX_ITERATIONS)
    else:
        fit = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    scaler = StandardScaler()
    make_pipeline(scaler, fit).fit(features, labels)
    weight = fit.coef_[0] / scaler.scale_
    bias = fit.intercept_[0] - weight @ scaler.mean_
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight)[None])
        model.head.bias.fill_(float(bias))
    return {"C": strength, "iterations": int(np.max(fit.n_iter_))}
