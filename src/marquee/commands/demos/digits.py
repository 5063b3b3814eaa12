"""The demo of images: scikit-learn's digits."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.commands.demos.steps import check, predictions_of
from marquee.training.core.run_folder import RunFolder

if TYPE_CHECKING:
    from marquee.serving.client import Answer

TOLERANCE = 1e-4
MINIMUM_ACCURACY = 0.97


class Digits:
    """Handwritten digits as PNG files."""

    name = "digits"
    what = "scikit-learn's handwritten digits as PNG files"
    items = "test images"
    # Tiny images: a small input, a small network and few epochs. Changing the images would take longer than learning
    # them, and a mirrored digit is not a digit.
    training = (
        "--image.size=32",
        "--model.arch=cnn4_w8",
        "--loop.epochs=4",
        "--loop.batch-size=32",
        "--optimizer.lr=1e-2",
        "--augment.horizontal-flip=0",
        "--augment.crop-scale=0.9",
        "--augment.rotation=0",
        "--augment.zoom=0",
        "--augment.color=0",
    )

    def write_data(self, folder: Path) -> Path:
        """PNG files in class folders, with a split into train and test."""
        from marquee.training.tasks.image_classification.data.digits import write_digits

        write_digits(folder)
        return folder

    def score(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """The accuracy."""
        accuracy = trained["accuracy"]
        check(accuracy >= MINIMUM_ACCURACY, f"accuracy {accuracy:.4f} < {MINIMUM_ACCURACY}")
        return {"accuracy": accuracy}

    def requests(self, run: RunFolder) -> list[tuple[bytes, dict[str, str]]]:
        """The files of the test images."""
        return [(Path(row["path"]).read_bytes(), row) for row in predictions_of(run)]

    def is_equal(self, answer: "Answer", row: dict[str, str]) -> bool:
        """The same label, and probabilities within the tolerance."""
        return answer.body["label"] == row["predicted"] and all(
            abs(entry["probability"] - float(row[entry["label"]])) < TOLERANCE for entry in answer.body["ranking"]
        )

    def example(self, work: Path, run: RunFolder) -> Path:
        """An image."""
        return sorted((work / "data" / "test").glob("*/*.png"))[0]
