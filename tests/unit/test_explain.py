"""Explanations: on a model whose reason is known, and within a batch as TorchServe's worker makes it."""

import base64
import io
import json
import shutil
import socket
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.core.worker_config import WorkerConfig
from marquee.handlers.explain import batch as explain_batch
from marquee.handlers.explain import explainer as explain_explainer
from marquee.handlers.explain.budget import Budget
from marquee.handlers.explain.explainer import ImageExplainer
from marquee.handlers.explain.methods import occlusion
from marquee.handlers.explain.picture import LARGEST_SIDE, grey_map, overlay, png
from marquee.handlers.explain.request import METHODS, ExplanationRequest, may_be_asked, parse
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.export import export_program, trace_program
from marquee.training.tasks.image_classification.models import Classifier

SIDE, PATCH = 48, 12
LABELS = ("stripes", "checks", "plain")
IMAGE = ImageSpec(channels=3, resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


def textured(generator: np.random.Generator, *classes: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Noise with one patch of each class's texture: uint8 (SIDE, SIDE, 3), and the patches' corners (row, column)."""
    image = generator.integers(96, 160, (SIDE, SIDE, 3))
    rows, columns = np.indices((PATCH, PATCH))
    textures = [rows // 2 % 2, (rows // 2 + columns // 2) % 2, np.ones_like(rows)]
    corners: list[tuple[int, int]] = []
    for kind in classes:
        while True:
            row, column = (int(place) for place in generator.integers(0, SIDE - PATCH, 2))
            if all(max(abs(row - other[0]), abs(column - other[1])) > PATCH + 4 for other in corners):
                break
        image[row : row + PATCH, column : column + PATCH] = 255 * textures[kind][..., None]
        corners.append((row, column))
    return image.astype(np.uint8), corners


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, len(LABELS)),
    )


def bundle(model: nn.Module, folder, image=IMAGE, engine="exported") -> Predictor:
    """A predictor of ``model`` as it is exported."""
    served = Classifier(model, image.mean, image.std).eval()
    if engine == "exported":
        files = ["model.pt2"]
        export_program(served, image, folder / files[0])
    else:
        import openvino as ov

        files = ["model.xml", "model.bin"]
        converted = ov.convert_model(trace_program(served, image))
        converted.reshape([-1, image.crop, image.crop, image.channels])
        ov.save_model(converted, folder / files[0], compress_to_fp16=False)
    variant = VariantSpec(
        name="fp32", engine=engine, precision="fp32", files={name: sha256_file(folder / name) for name in files}
    )
    spec = ModelSpec(
        schema_version=3,
        task="image-classification",
        input=image,
        output=ClassificationSpec(labels=LABELS),
        variants=(variant,),
        golden=GoldenSpec(),
    )
    written = Bundle(folder, spec)
    return Predictor(written, variant, load_engine(written, variant, "cpu"))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Tells the textures apart wherever they are; trained in seconds."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(150):
        kinds = generator.integers(0, len(LABELS), 32)
        images = np.stack([textured(generator, int(kind))[0] for kind in kinds])
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        loss = nn.functional.cross_entropy(model(pixels), torch.from_numpy(kinds))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def predictor(trained, tmp_path_factory) -> Predictor:
    """No test changes its files, nor those of the next one."""
    return bundle(trained, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def by_openvino(trained, tmp_path_factory) -> Predictor:
    pytest.importorskip("openvino")
    return bundle(trained, tmp_path_factory.mktemp("openvino"), engine="openvino")


def share(heat: np.ndarray, corner: tuple[int, int]) -> float:
    """Of what speaks for the label, the part on the patch and a margin of what a convolution sees around it."""
    positive = np.maximum(heat, 0)
    row, column = (max(0, place - 4) for place in corner)
    return float(positive[row : corner[0] + PATCH + 4, column : corner[1] + PATCH + 4].sum() / positive.sum())


@pytest.mark.slow
class TestReason:
    @pytest.mark.parametrize("method", METHODS)
    def test_the_map_lies_on_the_patch_that_decides(self, predictor, method):
        generator = np.random.default_rng(1)
        explainer = ImageExplainer(predictor)
        shares = []
        for kind in (0, 1, 2, 0, 1, 2):
            pixels, (corner,) = textured(generator, kind)
            (prediction,) = predictor.predict_arrays({"pixels": pixels[None]})
            assert prediction.label == LABELS[kind]
            explanation = explainer.explain(
                {"pixels": pixels[None]}, prediction, ExplanationRequest(method=method), seconds=30
            )
            assert (explanation.method, explanation.label, explanation.note) == (method, LABELS[kind], None)
            shares.append(share(explanation.heat, corner))
        # The patch with its margin is 17 % of the image: a map that knows nothing gets about that.
        assert np.median(shares) > 0.5, shares

    @pytest.mark.parametrize("method", METHODS)
    def test_another_label_has_another_reason(self, predictor, method):
        """Of two patches in one image, each label's map prefers its own."""
        generator = np.random.default_rng(2)
        explainer = ImageExplainer(predictor)
        prefers = []
        for first, second in ((0, 1), (1, 2), (2, 0), (1, 0)):
            pixels, corners = textured(generator, first, second)
            (prediction,) = predictor.predict_arrays({"pixels": pixels[None]})
            maps = [
                explainer.explain(
                    {"pixels": pixels[None]},
                    prediction,
                    ExplanationRequest(method=method, label=LABELS[kind]),
                    seconds=30,
                ).heat
                for kind in (first, second)
            ]
            assert not np.allclose(*maps)
            own = share(maps[0], corners[0]) + share(maps[1], corners[1])
            prefers.append(own > share(maps[0], corners[1]) + share(maps[1], corners[0]))
        assert all(prefers)

    def test_integrated_gradients_add_up(self, predictor):
        """Completeness: the map sums to the difference of the logit to the baseline's, as its paper says."""
        pixels, _ = textured(np.random.default_rng(3), 1)
        (prediction,) = predictor.predict_arrays({"pixels": pixels[None]})
        ask = ExplanationRequest(method="integrated_gradients", steps=200)
        explanation = ImageExplainer(predictor).explain({"pixels": pixels[None]}, prediction, ask, seconds=60)
        baseline = np.full_like(pixels, 128)
        logits = predictor.outputs({"pixels": np.stack([pixels, baseline])})["logits"][:, explanation.index]
        assert explanation.settings["steps"] == 200
        assert explanation.heat.sum() == pytest.approx(logits[0] - logits[1], abs=0.05 + 0.02 * abs(logits[0]))

    def test_the_default_is_grad_cam(self, predictor):
        pixels, _ = textured(np.random.default_rng(4), 2)
        (prediction,) = predictor.predict_arrays({"pixels": pixels[None]})
        assert (
            ImageExplainer(predictor)
            .explain({"pixels": pixels[None]}, prediction, ExplanationRequest(), seconds=30)
            .method
            == "gradcam"
        )


class TestFallback:
    @pytest.mark.slow
    def test_a_transformer_has_no_feature_map(self, tmp_path):
        import timm

        vit = timm.create_model("test_vit", num_classes=len(LABELS), img_size=64)
        image = ImageSpec(channels=3, resize=64, crop=64, mean=(0.5,) * 3, std=(0.5,) * 3)
        explainer = ImageExplainer(bundle(vit, tmp_path, image))
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        (prediction,) = explainer._predictor.predict_arrays({"pixels": pixels[None]})
        for method in ("auto", "gradcam"):
            explanation = explainer.explain(
                {"pixels": pixels[None]}, prediction, ExplanationRequest(method=method), seconds=30
            )
            assert explanation.method == "occlusion"
            assert "no last feature map" in explanation.note
        integrated = explainer.explain(
            {"pixels": pixels[None]}, prediction, ExplanationRequest(method="integrated_gradients"), seconds=30
        )
        assert (integrated.method, integrated.note) == ("integrated_gradients", None)

    def test_a_bundle_without_program_is_explained_by_its_engine(self, by_openvino):
        explainer = ImageExplainer(by_openvino)
        pixels, (corner,) = textured(np.random.default_rng(5), 0)
        (prediction,) = explainer._predictor.predict_arrays({"pixels": pixels[None]})
        explanation = explainer.explain(
            {"pixels": pixels[None]}, prediction, ExplanationRequest(method="gradcam"), seconds=30
        )
        assert explanation.method == "occlusion"
        assert "no fp32 program" in explanation.note
        assert share(explanation.heat, corner) > 0.5

    def test_gradients_are_those_of_the_program_whatever_answers(self, predictor, by_openvino, tmp_path):
        """A machine that serves an OpenVINO variant still has the fp32 program at hand."""
        served = by_openvino
        for part in (predictor, served):
            shutil.copytree(part.bundle.folder, tmp_path, dirs_exist_ok=True)
        second = replace(served.variant, name="openvino-fp32")
        spec = replace(served.spec, variants=(predictor.variant, second))
        both = ImageExplainer(Predictor(Bundle(tmp_path, spec), second, served.engine))
        pixels, _ = textured(np.random.default_rng(5), 0)
        (prediction,) = served.predict_arrays({"pixels": pixels[None]})
        of_program = both.explain({"pixels": pixels[None]}, prediction, ExplanationRequest(), seconds=30)
        assert (of_program.method, of_program.variant) == ("gradcam", "fp32")
        alone = ImageExplainer(predictor).explain(
            {"pixels": pixels[None]}, prediction, ExplanationRequest(), seconds=30
        )
        assert np.allclose(of_program.heat, alone.heat)
        of_engine = both.explain(
            {"pixels": pixels[None]}, prediction, ExplanationRequest(method="occlusion"), seconds=30
        )
        assert (of_engine.method, of_engine.variant) == ("occlusion", "openvino-fp32")

    def test_a_damaged_program_costs_only_the_gradients(self, predictor, tmp_path):
        explainer = ImageExplainer(Predictor(Bundle(tmp_path, predictor.spec), predictor.variant, predictor.engine))
        (tmp_path / "model.pt2").write_bytes(b"damaged")
        pixels, _ = textured(np.random.default_rng(5), 0)
        (prediction,) = explainer._predictor.predict_arrays({"pixels": pixels[None]})
        explanation = explainer.explain({"pixels": pixels[None]}, prediction, ExplanationRequest(), seconds=30)
        assert (explanation.method, explanation.note) == (
            "occlusion",
            "occlusion, because the fp32 program cannot be opened",
        )


@dataclass
class Clock:
    """Time that passes only when the model runs."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TestBudget:
    @pytest.mark.parametrize("each", [0.0001, 0.003, 0.02, 0.08])
    def test_occlusion_holds_its_deadline(self, each):
        clock, seen = Clock(), []

        def engine(images: np.ndarray) -> np.ndarray:
            clock.now += each * len(images)
            seen.append(len(images))
            return images.reshape(len(images), -1).astype(np.float32)[:, :3]

        pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
        heat, settings = occlusion(engine, pixels, 0, ExplanationRequest(), np.full(3, 128.0), Budget(2.0, clock))
        assert clock.now <= 2.0
        assert max(seen) * each <= 0.25
        assert heat.shape == (224, 224)
        # Dense where there is time; every pixel is covered in any case.
        assert settings["stride"] <= settings["window"]
        assert (settings["stride"] <= 8) == (each < 0.003)

    def test_a_model_that_is_too_slow_is_told(self):
        clock = Clock()

        def engine(images: np.ndarray) -> np.ndarray:
            clock.now += 0.5 * len(images)
            return np.zeros((len(images), 3), np.float32)

        pixels = np.zeros((64, 64, 3), np.uint8)
        with pytest.raises(InputError, match="500 ms each here") as caught:
            occlusion(engine, pixels, 0, ExplanationRequest(), np.full(3, 128.0), Budget(2.0, clock))
        assert caught.value.code == "too_slow"
        with pytest.raises(InputError, match=r"65 passes"):
            occlusion(engine, pixels, 0, ExplanationRequest(window=8, stride=8), np.full(3, 128.0), Budget(20.0, clock))

    def test_a_model_that_slows_down_is_stopped(self):
        clock = Clock()

        def engine(images: np.ndarray) -> np.ndarray:
            clock.now += 0.001 if clock.now < 0.01 else 0.5
            return np.zeros((len(images), 3), np.float32)

        with pytest.raises(InputError) as caught:
            occlusion(
                engine, np.zeros((64, 64, 3), np.uint8), 0, ExplanationRequest(), np.full(3, 128.0), Budget(1.0, clock)
            )
        assert caught.value.code == "too_slow"
        assert clock.now <= 1.5

    def test_gradient_methods_end_at_the_deadline(self, predictor):
        pixels, _ = textured(np.random.default_rng(0), 0)
        (prediction,) = predictor.predict_arrays({"pixels": pixels[None]})
        for method in METHODS:
            with pytest.raises(InputError) as caught:
                ImageExplainer(predictor).explain(
                    {"pixels": pixels[None]}, prediction, ExplanationRequest(method=method), seconds=1e-9
                )
            assert caught.value.code == "too_slow"


class TestRequest:
    def test_settings_are_taken_out_of_every_kind_of_body(self):
        document = {"b64": "AAAA", "method": "occlusion", "label": "cat", "stride": 4}
        expected = ExplanationRequest(method="occlusion", label="cat", stride=4)
        assert parse({"body": document}, True) == (expected, {"body": {"b64": "AAAA"}})
        assert parse({"body": json.dumps(document).encode()}, True) == (expected, {"body": {"b64": "AAAA"}})
        form = {"data": b"image", "method": "occlusion", "label": b"cat", "stride": b"4"}
        assert parse(form, True) == (expected, {"data": b"image"})
        assert document["method"] == "occlusion", "the request itself is left alone"

    def test_a_prediction_stays_one(self):
        for request in ({"body": b"image"}, {"label": b"image"}, {"body": {"b64": "AAAA", "method": "x"}}, {}):
            assert not may_be_asked(request)
            assert parse(request, False) is None
        assert parse({"body": {"b64": "AAAA", "explain": False}}, False) is None
        assert parse({"data": b"image", "explain": b"true"}, False) == (ExplanationRequest(), {"data": b"image"})
        assert may_be_asked({"data": b"image", "explain": b"true"})
        assert may_be_asked({"data": b' {"b64": "", "explain": true}'})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "lime"}, "method: expected auto, gradcam"),
            ({"label": 3}, "label: expected a name"),
            ({"stride": 0}, "stride: expected 1 to"),
            ({"stride": True}, "stride: expected 1 to"),
            ({"steps": "many"}, "steps: expected 2 to"),
            ({"explain": "perhaps"}, "explain: expected true or false"),
            ({"instances": []}, "one input"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(InputError, match=message) as caught:
            parse({"body": {"b64": "AAAA", **settings}}, True)
        assert caught.value.status == 400


class TestPicture:
    def test_warm_for_and_blue_against(self):
        pixels = np.full((32, 32, 1), 100, np.uint8)
        heat = np.zeros((32, 32))
        heat[4:8, 4:8], heat[20:24, 20:24] = 2.0, -2.0
        picture = overlay(pixels, heat)
        assert picture.shape == (224, 224, 3), "small images are enlarged"
        assert picture.dtype == np.uint8
        speaks_for, against, nothing = (picture[place * 7 + 3, place * 7 + 3].astype(int) for place in (5, 21, 14))
        assert speaks_for[0] > speaks_for[2] + 60
        assert against[2] > against[0] + 60
        assert len(set(nothing)) == 1, "grey where nothing speaks"
        grey = grey_map(heat)
        assert (grey[5, 5], grey[21, 21], grey[14, 14]) == (255, 1, 128)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(png(grey))))), grey)

    def test_an_empty_map(self):
        picture = overlay(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)))
        assert (picture == picture[0, 0, 0]).all()

    def test_large_pictures_fit_into_a_response(self):
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (2000, 2000, 3)).astype(np.uint8)
        heat = generator.normal(size=(2000, 2000))
        assert max(overlay(pixels, heat).shape) <= LARGEST_SIDE
        assert len(png(overlay(pixels, heat))) + len(png(grey_map(heat))) < 8_000_000


class TestBatch:
    """With the worker's own classes: what goes over its socket, and when."""

    @pytest.fixture
    def service(self, predictor):
        from marquee.handlers.core.handler import Handler

        loaded = Handler()
        loaded._predictor, loaded._model = predictor, {"name": "textures"}
        loaded._explanations = explain_batch.Explanations(predictor, "cpu", WorkerConfig(explain_seconds=30))
        return loaded

    @pytest.fixture
    def worker(self, service):
        from ts.service import Service

        class Metrics:
            request_ids = None

            def add_time(self, *_):
                pass

        ours, theirs = socket.socketpair()
        with ours, theirs:
            worker = Service("textures", "", {}, service.handle, None, 8, metrics_cache=Metrics())
            worker.set_cl_socket(ours)
            yield worker, theirs

    @staticmethod
    def request(number: int, fields: dict, **headers: str) -> dict:
        return {
            "requestId": b"request-%d" % number,
            "parameters": [{"name": name, "value": value, "contentType": ""} for name, value in fields.items()],
            "headers": [{"name": name.encode(), "value": value.encode()} for name, value in headers.items()],
        }

    @staticmethod
    def image(kind: int = 0) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(textured(np.random.default_rng(6), kind)[0]).save(stream, "PNG")
        return stream.getvalue()

    def test_predictions_leave_before_the_explanation_begins(self, worker, monkeypatch):
        service, frontend = worker
        early = []
        real = ImageExplainer.explain

        def explain(self, *arguments):
            early.append(frontend.recv(1 << 20, socket.MSG_DONTWAIT))
            return real(self, *arguments)

        monkeypatch.setattr(ImageExplainer, "explain", explain)
        requests = [
            self.request(0, {"body": self.image(1)}, explain="False"),
            self.request(1, {"body": self.image(2)}, explain="True"),
            self.request(2, {"body": b"text"}, explain="False"),
        ]
        final = bytes(service.predict(requests))
        (first,) = early
        assert b'"label": "checks"' in first
        assert b"not_an_image" in first
        assert b"request-0" in first
        assert b"request-2" in first
        assert first.count(b"ts_stream_next") == 1
        assert first[first.index(b"ts_stream_next") :].count(b"true") >= 1
        assert b"explanation" not in first
        # The worker's own message then holds the explanation alone: nobody is answered twice.
        assert b"request-0" not in final
        assert b"request-2" not in final
        assert b"request-1" in final
        assert b'"method": "gradcam"' in final
        assert final[final.index(b"ts_stream_next") :].count(b"false") >= 1
        # The next batch is an ordinary one.
        plain = bytes(service.predict([self.request(3, {"body": self.image()}, explain="False")]))
        assert b"ts_stream_next" not in plain
        assert b'"label": "stripes"' in plain

    def test_a_lone_explanation_is_an_ordinary_answer(self, worker):
        service, frontend = worker
        message = bytes(service.predict([self.request(0, {"body": self.image()}, explain="True")]))
        assert b'"explanation"' in message
        assert b"ts_stream_next" not in message
        with pytest.raises(BlockingIOError):
            frontend.recv(1, socket.MSG_DONTWAIT)

    def test_a_unary_call_beside_predictions_is_told_to_come_again(self, worker):
        service, _ = worker
        grpc = self.request(0, {"data": self.image(), "explain": b"true"})
        beside = bytes(service.predict([grpc, self.request(1, {"body": self.image()}, explain="False")]))
        assert b'"code": "busy"' in beside
        assert b'"label": "stripes"' in beside
        assert b'"explanation"' in bytes(service.predict([grpc]))

    def test_explanations_of_one_batch_share_the_time(self, worker, monkeypatch):
        """The first one takes all of it; the second is told to come again, with a status of its own."""
        service, _ = worker
        clock = Clock()
        monkeypatch.setattr(explain_batch.time, "monotonic", clock)
        real = ImageExplainer.explain

        def explain(self, *arguments):
            clock.now += 31
            return real(self, *arguments)

        monkeypatch.setattr(ImageExplainer, "explain", explain)
        message = bytes(service.predict([self.request(i, {"body": self.image()}, explain="True") for i in range(2)]))
        assert message.count(b'"explanation"') == 1
        assert message.count(b'"code": "busy"') == 1

    def test_what_goes_wrong_stays_with_its_request(self, service, worker, monkeypatch):
        front, _ = worker
        explain = {"explain": "True"}

        def fail(*_):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(ImageExplainer, "explain", fail)
            assert b"internal_error" in bytes(front.predict([self.request(0, {"body": self.image()}, **explain)]))
        cases = [
            ({"body": b"text"}, b"not_an_image"),
            ({"data": self.image(), "label": b"nothing"}, b"no label 'nothing'"),
            ({"body": {"instances": [{"b64": ""}]}}, b"one input"),
            ({}, b'"empty"'),
        ]
        for fields, expected in cases:
            assert expected in bytes(front.predict([self.request(0, fields, **explain)]))
        with monkeypatch.context() as patch:
            patch.setattr(explain_explainer.importlib.util, "find_spec", lambda name: None)
            message = bytes(front.predict([self.request(0, {"body": self.image()}, **explain)]))
            assert b"not_supported" in message
            assert b"the extra explain" in message
        service._explanations = explain_batch.Explanations(service.predictor, "cpu", WorkerConfig(explain=False))
        assert b"switched off" in bytes(front.predict([self.request(0, {"body": self.image()}, **explain)]))
