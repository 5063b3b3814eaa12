"""Whether a mean and a standard deviation are in the units of the pixels that they are for."""

from collections.abc import Sequence

_WHITE = 255
_LARGEST_STD = 4
"""A standard deviation above this is of pixels from 0 to 255: of those from 0 to 1 it is at most 0.5. Between them are
plain divisors."""


def check_units(mean: Sequence[float] | None, std: Sequence[float] | None, white: int) -> None:
    """Raises ValueError if a mean or a standard deviation belongs to pixels with another value of white.

    Whatever a model takes can be written in either unit, so nothing that is meant is refused.

    Args:
        mean: per channel; None: not given.
        std: per channel; None: not given.
        white: 1 or 255, the value of white before the mean is subtracted.
    """
    if mean is not None and max(map(abs, mean)) > _WHITE:
        raise ValueError(f"mean: {_text(mean)} is above {_WHITE}, the value of white in 8 bits")
    if white == 1:
        _check_ones(mean, std)
    elif (mean is not None and 0 < max(map(abs, mean)) <= 1) or (std is not None and max(std) < 1):
        raise ValueError(
            f"{_given(mean, std)}: for pixels from 0 to 1, but --input-range 255 gives 0 to 255; leave --input-range "
            f"out, or give it with {_options(mean, std, _WHITE)}"
        )


def _check_ones(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    large_mean = mean is not None and max(map(abs, mean)) > 1
    large_std = std is not None and max(std) > _LARGEST_STD
    if not large_mean and not large_std:
        return
    small_mean = mean is not None and 0 < max(map(abs, mean)) <= 1
    small_std = std is not None and max(std) < 1
    if (large_mean and small_std) or (small_mean and large_std):
        corrected = " ".join((
            _options(mean, None, 1 / _WHITE if large_mean else 1), _options(None, std, 1 / _WHITE if large_std else 1)
        ))  # fmt: skip
        raise ValueError(
            f"{_given(mean, std)}: one of them is for pixels from 0 to 255 and the other for 0 to 1; give both for "
            f"0 to 1: {corrected}"
        )
    other = f"which is the same, give {_options(mean, std, 1 / _WHITE)}"
    if std is None:
        other = f"if only the mean is for them, give {_options(mean, None, 1 / _WHITE)}"
    raise ValueError(
        f"{_given(mean, std)}: for pixels from 0 to 255, but --input-range 1 gives 0 to 1; add --input-range 255, or, "
        f"{other}"
    )


def _given(mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    return ", ".join(f"{name} {_text(values)}" for name, values in (("mean", mean), ("std", std)) if values is not None)


def _options(mean: Sequence[float] | None, std: Sequence[float] | None, factor: float) -> str:
    named = (("--mean", mean), ("--std", std))
    return " ".join(
        f"{name} {_text([value * factor for value in values])}" for name, values in named if values is not None
    )


def _text(values: Sequence[float] | None) -> str:
    return " ".join(f"{value:.4g}" for value in values or ())
