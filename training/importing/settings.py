"""Other ways in which a model's input may have been prepared where it was trained."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from marquee.handlers.inputs.image.spec import ImageSpec

Order = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Normalisation:
    """A mean and a standard deviation that libraries use, in the units of ``white``."""

    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cause: str
    """What explains that a model needs it, for a warning."""

    @property
    def options(self) -> str:
        """The command-line options for it."""
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"--input-range {self.white} --mean {mean} --std {std}"

    def per_channel(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for white = 1."""
        return tuple(
            tuple(value / self.white for value in (values * channels if len(values) == 1 else values))
            for values in (self.mean, self.std)
        )  # type: ignore[return-value]


_TWICE = "it takes 0 to 255: pixels that are scaled before are scaled twice"
_NORMALISATIONS = (
    Normalisation(255, (0.0,), (1.0,), _TWICE),
    Normalisation(1, (0.0,), (1.0,), "it takes 0 to 1"),
    Normalisation(1, (0.5,), (0.5,), "it takes -1 to 1"),
    Normalisation(1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "it takes pixels with ImageNet's mean subtracted"),
    Normalisation(255, (103.939, 116.779, 123.68), (1.0,), "it takes pixels as Caffe's models do"),
)
_FITS = {
    "crop": "images were cropped where it was trained, not squashed or padded",
    "squash": "both sides of images were resized where it was trained, not cropped",
    "pad": "images were padded where it was trained",
}


@dataclass(frozen=True)
class Setting:
    """One way to prepare the input, and how it differs from the chosen one."""

    image: ImageSpec
    """How a file becomes pixels."""
    order: Order
    """Order of the model's channels."""
    normalisation: Normalisation | None = None
    """None: the chosen one."""
    options: tuple[str, ...] = ()
    """The options that differ."""
    causes: tuple[str, ...] = ()
    """What each difference would mean."""

    def with_order(self) -> "Setting":
        """The same with red and blue exchanged."""
        order: Order = "rgb" if self.order == "bgr" else "bgr"
        cause = f"it was trained on {order.upper()} images"
        return replace(
            self,
            order=order,
            options=(*self.options, f"--channel-order {order}"),
            causes=(*self.causes, cause),
        )

    def colours(self) -> Iterator["Setting"]:
        """Other normalisations and the other order of channels, those with fewer differences first."""
        colour = self.image.channels == 3
        others = []
        for one in _NORMALISATIONS:
            if len(one.mean) > self.image.channels or self._has(one):
                continue
            options, causes = (*self.options, one.options), (*self.causes, one.cause)
            others.append(replace(self, normalisation=one, options=options, causes=causes))
        if colour:
            yield self.with_order()
        yield from others
        if colour:
            yield from (other.with_order() for other in others)

    def fits(self) -> Iterator["Setting"]:
        """Other ways to make an image square."""
        for fit, cause in _FITS.items():
            if fit == self.image.fit:
                continue
            resize = round(self.image.crop / 0.875) if fit == "crop" else self.image.crop
            for size in dict.fromkeys((self.image.crop, resize)):
                option = f"--fit {fit} --resize {size}"
                image = replace(self.image, fit=fit, resize=size)  # type: ignore[arg-type]
                yield replace(self, image=image, options=(*self.options, option), causes=(*self.causes, cause))

    def _has(self, other: Normalisation) -> bool:
        mean, std = other.per_channel(self.image.channels)
        step = -1 if self.order == "bgr" else 1  # the spec's are for pixels with red first
        pairs = zip((*mean, *std), (*self.image.mean[::step], *self.image.std[::step]), strict=True)
        return all(abs(a - b) < 2e-3 * max(abs(b), 1e-3) for a, b in pairs)
