"""The last step of a fitted scikit-learn model -> what it computes of the matrix that the steps before it give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from marquee.training.importing.scikit_modules import Apply, AsPair, Finite, Linear, OneVersusRest, Scale
from marquee.training.importing.scikit_slots import Slot, complete, finite, refusal
from marquee.training.importing.scikit_transformers import (
    chain,
    class_name,
    function,
    min_max_scaler,
    scaler,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A whole model: matrix -> steps -> body -> inverse of the target's transform."""

    steps: nn.Module
    body: nn.Module
    """float64 (N, slots) -> numbers (N, 1) of a regression, or logits (N, classes)."""
    inverse: nn.Module
    """Of a regression: the body's numbers (N,) -> the target."""
    classes: tuple[Any, ...] = ()
    """Of a classification, in the order of the logits."""


def model(estimator: Any, slots: Sequence[Slot], place: str = "") -> Model:
    """Converts a fitted model.

    Args:
        estimator: a Pipeline, a TransformedTargetRegressor or an estimator that is last in one.
        slots: the columns of the table.
        place: of the estimator; empty: the whole file.

    Raises:
        UnsupportedError: a part cannot be imported; the message names its place and what can.
    """
    name = class_name(estimator)
    if name not in ESTIMATORS:
        why = f": {_NO_PROBABILITIES}" if name in _WITHOUT_PROBABILITIES else ""
        listed = ", ".join(sorted(ESTIMATORS))
        raise refusal(place or name, f"{name} cannot be imported{why}; models that can: {listed}")
    place = f"{place} ({name})" if place else name
    return ESTIMATORS[name](estimator, slots, place)


def _pipeline(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    *before, (name, last) = steps_of(estimator, place)
    steps, slots = chain(before, slots, place)
    inner = model(last, slots, f"{place} > {name}")
    return replace(inner, steps=nn.Sequential(steps, inner.steps))


def _transformed_target(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    if not hasattr(estimator, "regressor_"):
        raise refusal(place, "is not fitted")
    inner = model(estimator.regressor_, slots, f"{place} > regressor")
    if inner.classes:
        raise refusal(place, "its regressor predicts classes")
    back = _target_inverse(estimator.transformer_, f"{place} > transformer")
    return replace(inner, inverse=nn.Sequential(inner.inverse, back))


def _target_inverse(transformer: Any, place: str) -> nn.Module:
    """(N,) -> (N,), the inverse of a transform of the target."""
    name = class_name(transformer)
    if name == "FunctionTransformer":
        return function(transformer.inverse_func, transformer.inv_kw_args, place)
    if name == "StandardScaler":
        return Inverse(scaler(transformer, 1, place, "mean_" if transformer.with_mean else "", "scale_"))
    if name == "RobustScaler":
        center, scale = transformer.with_centering, transformer.with_scaling
        return Inverse(scaler(transformer, 1, place, "center_" if center else "", "scale_" if scale else ""))
    if name == "MinMaxScaler":
        return Inverse(min_max_scaler(transformer, 1, place))
    known = "StandardScaler, RobustScaler, MinMaxScaler, or func and inverse_func of numpy"
    raise refusal(place, f"{name} cannot be imported as a transform of the target; what can: {known}")


class Inverse(nn.Module):
    """The inverse of a scaler of one column: (N,) -> (N,)."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.scale.inverse(values)


def _linear(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    return Model(steps=nn.Identity(), body=_product(estimator, slots, place, 1), inverse=nn.Identity())


def _log_linear(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    """Generalised linear models whose link is the logarithm."""
    return replace(_linear(estimator, slots, place), inverse=Apply(torch.exp))


def _logistic(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    ovr = estimator.solver == "liblinear" or getattr(estimator, "multi_class", None) == "ovr"
    return _classifier(estimator, slots, place, OneVersusRest() if ovr else nn.Identity())


def _sgd_classifier(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    if estimator.loss != "log_loss":
        raise refusal(place, f"loss={estimator.loss!r}: {_NO_PROBABILITIES}; fit it with loss='log_loss'")
    return _classifier(estimator, slots, place, OneVersusRest())


def _classifier(estimator: Any, slots: Sequence[Slot], place: str, of_several: nn.Module) -> Model:
    classes = classes_of(estimator, place)
    product = _product(estimator, slots, place, 1 if len(classes) == 2 else len(classes))
    head = AsPair() if len(classes) == 2 else of_several
    body = nn.Sequential(product, head, Finite())
    return Model(steps=nn.Identity(), body=body, inverse=nn.Identity(), classes=classes)


def classes_of(estimator: Any, place: str) -> tuple[Any, ...]:
    """The classes of a classifier, at least two."""
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) < 2:
        raise refusal(place, "has no classes_ of a single target, at least two; is it fitted?")
    return tuple(classes.tolist())


def _product(estimator: Any, slots: Sequence[Slot], place: str, outputs: int) -> Linear:
    complete(slots, place)
    weight, bias = finite(estimator, "coef_", place), finite(estimator, "intercept_", place)
    if weight.ndim == 1:
        weight = weight[None]
    if weight.shape != (outputs, len(slots)):
        several = f"{len(weight)} outputs of {weight.shape[-1]} columns; expected {outputs} of {len(slots)}"
        raise refusal(place, f"coef_ has {several}; a model with several targets cannot be imported")
    if bias.size not in (1, outputs):
        raise refusal(place, f"intercept_ has {bias.size} numbers for {outputs} outputs")
    return Linear(weight, np.broadcast_to(bias.reshape(-1), (outputs,)).copy())


_ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def _perceptron(estimator: Any, slots: Sequence[Slot], place: str) -> nn.Sequential:
    """The layers of a multi-layer perceptron, without the activation of the last."""
    complete(slots, place)
    if not hasattr(estimator, "coefs_") or estimator.activation not in _ACTIVATIONS:
        raise refusal(place, "is not fitted, or has an unknown activation")
    layers: list[nn.Module] = []
    width = len(slots)
    for weight, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
            raise refusal(place, f"a layer of shape {weight.shape} does not fit the {width} columns before it")
        layers += [Linear(weight.T.copy(), bias), _ACTIVATIONS[estimator.activation]()]
        width = weight.shape[1]
    return nn.Sequential(*layers[:-1])


def _mlp_regressor(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    layers = _perceptron(estimator, slots, place)
    if estimator.n_outputs_ != 1 or estimator.out_activation_ != "identity":
        raise refusal(place, "several targets, and losses other than squared_error, cannot be imported")
    return Model(steps=nn.Identity(), body=layers, inverse=nn.Identity())


def _mlp_classifier(estimator: Any, slots: Sequence[Slot], place: str) -> Model:
    classes, layers = classes_of(estimator, place), _perceptron(estimator, slots, place)
    pair = estimator.n_outputs_ == 1
    if (estimator.out_activation_ == "logistic") != pair or estimator.n_outputs_ != (1 if pair else len(classes)):
        raise refusal(place, "several labels a row cannot be imported")
    body = nn.Sequential(layers, AsPair() if pair else nn.Identity(), Finite())
    return Model(steps=nn.Identity(), body=body, inverse=nn.Identity(), classes=classes)


_NO_PROBABILITIES = "it gives no probabilities"
_WITHOUT_PROBABILITIES = (
    "LinearSVC", "NuSVC", "PassiveAggressiveClassifier", "Perceptron", "RidgeClassifier", "RidgeClassifierCV", "SVC",
)  # fmt: skip
_LINEAR = (
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso",
    "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "LinearSVR", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "PassiveAggressiveRegressor", "QuantileRegressor", "Ridge", "RidgeCV",
    "SGDRegressor", "TheilSenRegressor",
)  # fmt: skip
ESTIMATORS: dict[str, Callable[[Any, Sequence[Slot], str], Model]] = {
    **dict.fromkeys(_LINEAR, _linear),
    **dict.fromkeys(("GammaRegressor", "PoissonRegressor"), _log_linear),
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), _logistic),
    "MLPClassifier": _mlp_classifier,
    "MLPRegressor": _mlp_regressor,
    "Pipeline": _pipeline,
    "SGDClassifier": _sgd_classifier,
    "TransformedTargetRegressor": _transformed_target,
}
"""Class of scikit-learn -> what converts it."""
