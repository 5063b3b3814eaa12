"""Files of Keras 2, such as Teachable Machine's; only where Keras is installed, which is no dependency."""

import json
import os

import numpy as np
import pytest
import skimage.data
from PIL import Image

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.spec import PIXELS
from marquee.handlers.outputs.classification import LOGITS
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.importing.bundle import import_bundle
from marquee.training.importing.config import ImportConfig
from tests.lazily import lazily

os.environ["KERAS_BACKEND"] = "openvino"
keras = lazily("keras", "3.12")
h5py = pytest.importorskip("h5py")
SIDE = 16


def write_teachable(path, groups):
    """Nested models with depthwise convolutions, in the configuration of Keras 2; returns the model of today."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    base = [keras.Input((SIDE, SIDE, 3)), layers.Conv2D(8, 3, strides=2, use_bias=False), layers.BatchNormalization()]
    base += [layers.DepthwiseConv2D(3, use_bias=False), layers.ReLU(max_value=6.0), layers.SeparableConv2D(8, 3)]
    base += [layers.Conv2DTranspose(8, 3), layers.GlobalAveragePooling2D()]
    head = [keras.Input((8,)), layers.Dense(10, activation="relu"), layers.Dense(3, "softmax", use_bias=False)]
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.Sequential(base), keras.Sequential(head)])
    last = model.layers[-1].layers[-1]
    last.set_weights([100 * weights for weights in last.get_weights()])  # answers that differ
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        make_older(config, groups)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"
    return model


def make_older(node, groups):
    if isinstance(node, dict):
        if node.get("class_name") in ("DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"):
            node["config"]["groups"] = groups
        for key in ("module", "registered_name", "build_config"):
            node.pop(key, None)
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        make_older(inner, groups)


def bring(model, folder):
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    Image.fromarray(skimage.data.chelsea()).save(photos / "chelsea.png")
    (folder / "labels.txt").write_text("0 cat\n1 dog\n2 sea lion\n")
    config = ImportConfig(
        model=model,
        labels=folder / "labels.txt",
        images=photos,
        output="probabilities",
        mean=(0.5,),
        std=(0.5,),
        fit="crop",
    )
    return import_bundle(config, folder / "run", Progress(quiet=True))


def test_a_file_of_teachable_machine_answers_as_keras_does(tmp_path):
    model = write_teachable(tmp_path / "keras_model.h5", groups=1)
    assert bring(tmp_path / "keras_model.h5", tmp_path).spec.output.labels == ("cat", "dog", "sea lion")
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    given = np.exp(Predictor.load(tmp_path / "run" / "bundle").outputs({PIXELS: pixels})[LOGITS])
    wanted = model.predict(pixels / 127.5 - 1, verbose=0)
    assert np.ptp(wanted) > 0.1
    assert np.abs(given - wanted).max() < 2e-3


def test_files_that_are_refused_with_the_reason_first(tmp_path):
    write_teachable(tmp_path / "groups.h5", groups=2)
    with pytest.raises(TrainingError, match=r"cannot export it: DepthwiseConv2D '\w+' has groups 2"):
        bring(tmp_path / "groups.h5", tmp_path)
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(TrainingError, match="cannot export it: it has weights only, without the model"):
        bring(tmp_path / "net.weights.h5", tmp_path)
