"""A task: a number from a row of numbers, by a linear network."""

import csv
import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import torch
from marquee.handlers.inputs.numbers import NumbersSpec
from marquee.handlers.outputs.number import NumberCalibration, NumberSpec
from torch import nn
from torch.utils.data import TensorDataset

from marquee.training.core.config import RunConfig
from marquee.training.core.files import write_csv
from marquee.training.core.objective import Score
from marquee.training.core.sampler import DistributedBatchSampler, evaluation_loader, training_loader
from marquee.training.core.task import Feed, Fitted, Network, Program, Task


class LinearConfig(RunConfig):
    task = "linear"


@dataclass(frozen=True)
class Row:
    path: str
    row: tuple[float, ...]
    target: float
    split: str = ""
    group: str = ""

    @property
    def body(self):
        return json.dumps({"row": self.row}).encode()

    @property
    def sha256(self):
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Rows:
    records: tuple[Row, ...]

    def split(self, name):
        return [record for record in self.records if record.split == name]

    @property
    def digest(self):
        return "sha256:" + hashlib.sha256(repr(self.records).encode()).hexdigest()


class Addressed(TensorDataset):
    def __getitem__(self, address):
        return super().__getitem__(address[1])


class SquaredError:
    counted, unit = (), "rows"

    def prepare(self, batch, step):
        return batch

    def inputs(self, part, step):
        return part[:1]

    def loss(self, outputs, inputs, part):
        return (outputs - part[1]).square().mean()

    def count(self, outputs, part):
        return {}

    def after_backward(self, step):
        pass

    def validate(self, outputs, batch):
        return {"loss": float((outputs - batch[1]).square().sum())}

    def train_values(self, sums):
        return {}, ""

    def score(self, sums):
        error = sums["loss"] / sums["items"]
        return Score(-error, error, {"val_error": error}, f"error {error:.4f}")


class Linear(Task):
    name, unit = "linear", "rows"

    def read(self, config, data, progress):
        with open(data, newline="") as stream:
            lines = [[float(cell) for cell in line] for line in list(csv.reader(stream))[1:]]
        return Rows(tuple(Row(f"row {i}", tuple(line[:-1]), line[-1]) for i, line in enumerate(lines))), []

    def read_for(self, spec, data, progress):
        return self.read(None, data, progress)

    def split(self, config, manifest):
        turns = ("train", "train", "train", "val", "test")
        return Rows(tuple(replace(one, split=turns[i % 5]) for i, one in enumerate(manifest.records))), []

    def read_manifest(self, path):
        with open(path, newline="") as stream:
            return Rows(tuple(Row(p, tuple(json.loads(r)), float(t), s) for p, r, t, s in list(csv.reader(stream))[1:]))

    def write_manifest(self, path, manifest):
        rows = ([one.path, json.dumps(one.row), one.target, one.split] for one in manifest.records)
        write_csv(path, ("path", "row", "target", "split"), rows)

    def build(self, config, manifest):
        columns = len(manifest.records[0].row)
        torch.manual_seed(config.loop.seed)
        return Network(model=nn.Linear(columns, 1), input=NumbersSpec(columns=columns))

    def feed(self, config, manifest, network, context, cache=True):
        train, val = (self._tensors(manifest.split(name)) for name in ("train", "val"))
        sampler = DistributedBatchSampler(len(train[0]), config.loop.batch_size, config.loop.seed)
        loader = training_loader(Addressed(*train), sampler, 0, pin_memory=False)
        return Feed(sampler=sampler, train=loader, val=evaluation_loader(TensorDataset(*val), 64, 0))

    def _tensors(self, records):
        return (
            torch.tensor([one.row for one in records], dtype=torch.float32),
            torch.tensor([[one.target] for one in records], dtype=torch.float32),
        )

    def objective(self, config, manifest, network, steps, device, precision):
        return SquaredError()

    def program(self, config, manifest, network, folder, progress):
        return Program(module=network.model, outputs=("value",))

    def output(self, config, manifest):
        return NumberSpec(unit="metres")

    def calibrate(self, config, output, outputs, targets):
        return Fitted(NumberCalibration(offset=float((targets - outputs["value"]).mean())), {})

    def choose_golden(self, manifest, measured, count):
        return manifest.split(measured)[:count]

    def truth(self, record):
        return {"target": record.target}

    def request(self, record):
        return ".json", record.body

    def batches(self, spec, records, workers):
        yield {"row": np.array([one.row for one in records], np.float32)}

    def targets(self, spec, records):
        return np.array([one.target for one in records])

    def measure(self, output, records, outputs):
        answers = np.array([answer.value for answer in output.predictions(outputs)])
        return {"rows": len(records), "error": float(np.abs(answers - self.targets(None, records)).mean())}

    def write_predictions(self, path, output, records, outputs):
        answers = output.predictions(outputs)
        write_csv(path, ("path", "value"), ([r.path, a.value] for r, a in zip(records, answers, strict=True)))

    meanings = {"error": "mean absolute error"}

    def summary(self, metrics):
        return f"error {metrics['error']:.4f} on {metrics['rows']} rows"
