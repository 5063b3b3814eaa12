"""Rows of a table: everything in a run that tables share, whatever is predicted."""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.spec import ModelSpec, Precision
from marquee.handlers.inputs.table.spec import TableSpec, table_of
from marquee.handlers.outputs.outside import OUTSIDE
from marquee.handlers.outputs.regression import RegressionSpec
from marquee.training.core.context import RunContext
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.core.sampler import DistributedBatchSampler
from marquee.training.core.seeding import derive_seed
from marquee.training.core.task import Feed, Network, Program, Task
from marquee.training.tasks.tabular.batches import EvaluationBatches, TrainingBatches, share_of
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.edges import edge_rows
from marquee.training.tasks.tabular.float32 import in_float32
from marquee.training.tasks.tabular.manifest import (
    CHUNK,
    Record,
    TableManifest,
    arrays_in,
    arrays_of,
    read_manifest,
    write_manifest,
)
from marquee.training.tasks.tabular.models import check_model
from marquee.training.tasks.tabular.network import Served, TabularNetwork, build_network, tensors
from marquee.training.tasks.tabular.objective import TabularObjective
from marquee.training.tasks.tabular.preprocessing import TargetTransform
from marquee.training.tasks.tabular.read import read_known, read_raw, read_table
from marquee.training.tasks.tabular.resolve import left_open, resolve
from marquee.training.tasks.tabular.schema.describe import describe
from marquee.training.tasks.tabular.schema.names import named
from marquee.training.tasks.tabular.schema.target import TaskKind
from marquee.training.tasks.tabular.split import assign_splits

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=TableRunConfig)


class Tabular(Task[C]):
    """One answer for each row. Subclasses say what the answer is."""

    unit = "rows"
    kind: ClassVar[TaskKind]
    answer: ClassVar[str]
    """Name of the array with the answer that the program gives."""

    # --- what depends on what is predicted

    @abstractmethod
    def target_transform(self, config: C, manifest: TableManifest) -> TargetTransform:
        """The transform of the target, fitted on the training rows."""

    @abstractmethod
    def true(self, records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        """The targets, one for each record: float64 numbers, or int64 indices of ``labels``."""

    @abstractmethod
    def create_objective(self, config: C, network: TabularNetwork, targets: torch.Tensor) -> TabularObjective:
        """The objective.

        Args:
            config: of the run.
            network: that is trained.
            targets: of the training rows.
        """

    # --- before anything is read

    def check(self, config: C) -> None:
        """Checks that the model's packages are installed."""
        check_model(config.model)

    def title(self, config: C) -> str:
        """The model."""
        return config.model.name

    # --- data

    def read(self, config: C, data: Path, progress: Progress) -> tuple[TableManifest, list[Rejected]]:
        """Reads a CSV or Parquet file and logs what was found of its columns."""
        manifest, rejected, schema = read_table(data, config.table, self.kind)
        for line in describe(schema):
            logger.info(line)
        return manifest, rejected

    def read_for(self, spec: ModelSpec, data: Path, progress: Progress) -> tuple[TableManifest, list[Rejected]]:
        """Reads a file with the columns of a model, in the way that was stated for its training."""
        table = table_of(spec)
        return read_known(data, table, named(read_raw(data, table.text)))

    def split(self, config: C, manifest: TableManifest) -> tuple[TableManifest, list[str]]:
        """See :func:`marquee.training.tasks.tabular.split.assign_splits`."""
        return assign_splits(manifest, config)

    def read_manifest(self, path: Path) -> TableManifest:
        """Reads what :meth:`write_manifest` wrote."""
        return read_manifest(path)

    def write_manifest(self, path: Path, manifest: TableManifest) -> None:
        """Writes the manifest as CSV, and ``schema.json`` beside it."""
        write_manifest(path, manifest)

    def describe(self, manifest: TableManifest) -> str:
        """The data set in one line."""
        classes = f" of {len(manifest.labels)} classes" if manifest.labels else ""
        return f"{len(manifest.records)} rows{classes}, {len(manifest.spec.features)} features"

    def resolve(self, config: C, manifest: TableManifest) -> C:
        """See :func:`marquee.training.tasks.tabular.resolve.resolve`."""
        if not left_open(config):
            return config
        resolved = resolve(config, manifest.spec, arrays_of(manifest.spec, manifest.split("train")))
        return cast(C, resolved)

    # --- training

    def build(self, config: C, manifest: TableManifest) -> Network:
        """The network, with everything fitted on the training rows."""
        train = arrays_of(manifest.spec, manifest.split("train"))
        target = self.target_transform(config, manifest)
        model = build_network(config, manifest.spec, train, target, len(manifest.labels))
        return Network(model=model, input=manifest.spec)

    def feed(
        self, config: C, manifest: TableManifest, network: Network, context: RunContext, cache: bool = True
    ) -> Feed:
        """All rows in memory; the validation rows are shared out among the processes."""
        world, train, val = context.world, manifest.split("train"), manifest.split("val")
        everything = len(train) - len(train) % world.size
        size = everything if config.loop.batch_size < 1 else config.loop.batch_size
        sampler = DistributedBatchSampler(
            len(train), size, config.loop.seed, world.rank, world.size, max(1, config.loop.passes)
        )
        validation = share_of(self._tensors(manifest, val), world.rank, world.size)
        return Feed(
            sampler=sampler,
            train=TrainingBatches(self._tensors(manifest, train), sampler),
            val=EvaluationBatches(validation, CHUNK),
        )

    def _tensors(self, manifest: TableManifest, records: Sequence[Record]) -> tuple[torch.Tensor, ...]:
        """The arrays of the rows, and their targets."""
        targets = torch.from_numpy(self.true(records, manifest.labels))
        return (*tensors(arrays_of(manifest.spec, records)), targets)

    def objective(
        self,
        config: C,
        manifest: TableManifest,
        network: Network,
        steps: int,
        device: torch.device,
        precision: str,
    ) -> TabularObjective:
        """The configured loss, penalties and mixup."""
        targets = torch.from_numpy(self.true(manifest.split("train"), manifest.labels))
        return self.create_objective(config, network_of(network), targets)

    # --- export

    def program(
        self, config: C, manifest: TableManifest, network: Network, folder: Path, progress: Progress
    ) -> Program:
        """The answer, and in which features a row lies outside of what was seen."""
        model = network_of(network)
        precision: Precision = "fp64" if model.dtype == torch.float64 else "fp32"
        module = Served(model, manifest.spec).eval()
        return Program(module=module, outputs=(self.answer, OUTSIDE), precision=precision)

    def choose_golden(self, manifest: TableManifest, measured: str, count: int) -> list[Record]:
        """Rows of each class in turn, the measured split first."""
        order = [measured, *(split for split in ("test", "val", "train") if split != measured)]
        queues: dict[str, list[Record]] = {}
        for split in order:
            for record in sorted(manifest.split(split), key=lambda r: derive_seed("golden", r.sha256, r.path)):
                queues.setdefault(record.target if manifest.labels else "", []).append(record)
        chosen: list[Record] = []
        for turn in range(max(map(len, queues.values()))):
            chosen += [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
            if len(chosen) >= max(count, len(queues)):
                break
        return chosen[: max(count, len(queues))]

    def request(self, record: Record) -> tuple[str, bytes]:
        """The features as a JSON object."""
        return ".json", record.row

    # --- evaluation

    def batches(self, spec: ModelSpec, records: Sequence[Record], workers: int) -> Iterator[Arrays]:
        """Rows, as they are served."""
        return arrays_in(table_of(spec), records)

    def targets(self, spec: ModelSpec, records: Sequence[Record]) -> np.ndarray:
        """Numbers, float64 (N,), or indices of labels, int64 (N,)."""
        return self.true(records, getattr(spec.output, "labels", ()))

    # --- optimisation

    batch_sizes = (1, 8, 32, TableSpec.chunk)
    equal_variants = True

    def variant_kinds(self, spec: ModelSpec) -> tuple[str, ...]:
        """OpenVINO in float32, and the first variant's program compiled."""
        return ("openvino-fp32", f"compiled-{spec.variants[0].precision}")

    def edges(self, spec: ModelSpec) -> Arrays:
        """See :func:`marquee.training.tasks.tabular.edges.edge_rows`."""
        return edge_rows(table_of(spec))

    def rebuild(self, config: C, spec: ModelSpec) -> TabularNetwork:
        """The network of a bundle's run; what was fitted is loaded with its weights, so any rows will do to fit it."""
        table = table_of(spec)
        labels: Sequence[str] = getattr(spec.output, "labels", ())
        bounds = {}
        if config.export.clip and isinstance(spec.output, RegressionSpec):
            bounds = {"low": spec.output.low, "high": spec.output.high}
        target = TargetTransform(log=config.prepare.target == "log", **bounds)
        return build_network(config, table, table.example(2), target, len(labels))

    def served_by(self, engine: str, spec: ModelSpec, model: nn.Module, outputs: tuple[str, ...]) -> nn.Module:
        """What is exported, for OpenVINO in float32."""
        if not isinstance(model, TabularNetwork):
            raise TypeError(f"expected a network of a table, got {type(model).__name__}")
        table = table_of(spec)
        return in_float32(model, table) if engine == "openvino" else Served(model, table).eval()

    # --- report

    def stratum(self, record: Record) -> str:
        """Its label; every row of a regression is in one stratum."""
        return record.target if self.kind == "classification" else ""

    def write_report(self, run: Path) -> dict[str, Path]:
        """``report.html`` and ``MODEL_CARD.md``."""
        from marquee.training.tasks.tabular import report  # imports matplotlib, which nothing else needs

        return report.write(run)

    def for_trials(self, config: C, manifest: TableManifest) -> tuple[C, TableManifest]:
        """All rows: they are in memory anyway, and what was fitted depends on them."""
        return config, manifest


def network_of(network: Network) -> TabularNetwork:
    """The network of a table.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(network.model, TabularNetwork):
        raise TypeError(f"expected a network of a table, got {type(network.model).__name__}")
    return network.model


def features_of(spec: TableSpec) -> tuple[str, ...]:
    """Names of the features, in the order of the array ``outside``."""
    return tuple(column.name for column in spec.features)
