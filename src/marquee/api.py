"""The functions of ``import marquee``; each imports what it needs when it is called."""

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.log import log_to_stderr
from marquee.training.core.config import RunConfig, merge_config, named_config
from marquee.training.core.errors import TrainingError
from marquee.training.tasks import DEFAULT_TASK, default_config

if TYPE_CHECKING:
    from marquee.handlers.core.predictor import Predictor
    from marquee.serving.verified import Service


def train(
    data: str | Path | None,
    out: str | Path,
    *,
    config: "RunConfig | str | Path | None" = None,
    task: str | None = None,
    resume: bool = False,
    **settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Trains a model into the run folder ``out``: checkpoints, a bundle and a report.

    >>> metrics = marquee.train(
    ...     "digits", "runs/small", image={"size": 32}, model={"arch": "cnn4_w8"}, loop={"epochs": 1, "workers": 0}
    ... )
    >>> metrics["images"], 0 <= metrics["accuracy"] <= 1
    (355, True)

    Args:
        data: of images, a folder of class folders, or of ``train/``, ``val/``, ``test/`` with class folders; or a CSV
            or Parquet table with the columns ``path,label[,split][,group]``. To learn from the rows of a table, that
            table, as CSV or Parquet; ``table={"target": "price"}`` names the column to predict. None on a resume.
        out: folder of the run; it must be new unless ``resume``.
        config: the configuration to start from: a recipe (``quick``, ``finetune``, ``scratch-small``, ``strong``), a
            YAML file, or a :class:`marquee.RunConfig`.
        task: ``image-classification``, which is the default, ``multi-label-classification``, ``tabular-regression``
            or ``tabular-classification``.
        resume: continue from the last checkpoint of ``out``, with the run's own configuration.
        settings: parts of the configuration with the fields to change, such as ``optimizer={"lr": 1e-3}``; ``marquee
            train --help all`` lists them.

    Returns:
        The metrics of the exported bundle on the test images or rows, as in ``RUN/evaluation.json``.

    Raises:
        TrainingError: the data or the configuration cannot be used, or the training failed.
    """
    from marquee.training.core import run
    from marquee.training.core.config import load_run_config
    from marquee.training.core.run_folder import RunFolder

    if resume and config is None and RunFolder(Path(out)).config.is_file():
        config = load_run_config(RunFolder(Path(out)).config)
    log_to_stderr()
    base = config if isinstance(config, RunConfig) else _starting_config(config, task)
    merged = merge_config(base, settings)
    if task is not None and merged.task != task:
        raise TrainingError(f"task: expected {merged.task}, which the settings are for, got {task}")
    return run.train(merged, None if data is None else Path(data), Path(out), resume)


def _starting_config(config: "str | Path | None", task: str | None) -> RunConfig:
    try:
        default: RunConfig = default_config(task or DEFAULT_TASK)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return default if config is None else named_config(config, task)


def load(source: str | Path, *, device: str = "cpu", variant: str | None = None) -> "Predictor":
    """The predictor that a server would use, without a server.

    >>> predictor = marquee.load("runs/digits")
    >>> predictor.predict(["seven.png"])[0].label
    '7'

    Args:
        source: a run folder, a bundle, or a ``.mar``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        variant: the only variant to load; None: the best for this machine.

    Returns:
        A predictor. For images ``predict([path_or_bytes, ...])`` gives the answer for each file, for rows of a table
        ``answer([{"area": 84.5, "heating": "gas"}, ...])`` that for each row; in the place of a bad one is its error.
        An answer is a ``Prediction`` of :mod:`marquee.handlers.outputs.classification`, or for a number of
        :mod:`marquee.handlers.outputs.regression`.

    Raises:
        OperationError: there is no bundle in ``source``.
        ServingError: the bundle is damaged.
    """
    from marquee.handlers.core.predictor import Predictor
    from marquee.serving.archive import find_bundle, open_archive

    device = _resolve(device)
    if Path(source).suffix != ".mar":
        return Predictor.load(find_bundle(Path(source)), device, variant)
    # Engines may read their files after loading, so the unpacked bundle is kept as long as its predictor.
    folder = tempfile.TemporaryDirectory(prefix="marquee-")
    with open_archive(Path(source), Path(folder.name)) as bundle:
        predictor = Predictor.load(bundle, device, variant)
    weakref.finalize(predictor, folder.cleanup)
    return predictor


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    device: str = "cpu",
    variant: str | None = None,
    seen: bool = False,
) -> dict[str, Any]:
    """Evaluates a run's bundle on a data set, with the preprocessing and the program that are served.

    >>> round(marquee.evaluate("runs/digits", "digits")["accuracy"], 1)
    1.0

    Args:
        run: a run folder, or a bundle.
        data: as for :func:`train`; a table needs the column that is predicted. If it has a test split, only that is
            evaluated.
        device: as for :func:`load`.
        variant: as for :func:`load`.
        seen: also evaluate the images or rows that were used for training or for choosing the best epoch. An image is
            known by its content, a row by its features and its target.

    Returns:
        Of classes ``accuracy``, ``balanced_accuracy``, ``auroc``, ``nll``, ``brier``, ``ece``, ``confusion_matrix``,
        ``per_class`` and more; of numbers ``rmse``, ``mae``, ``r2``, ``coverage`` and more. ``seen`` has how many of
        the images or rows the run has used, which were left out unless they were asked for.

    Raises:
        TrainingError: the data cannot be used, or the run has seen all of it.
        OperationError: there is no bundle in ``run``.
    """
    from marquee.handlers.core.predictor import Predictor
    from marquee.serving.archive import find_bundle
    from marquee.training.core import evaluation

    log_to_stderr()
    bundle = find_bundle(Path(run))
    return evaluation.evaluate(Predictor.load(bundle, _resolve(device), variant), Path(data), seen=seen).metrics


def package(
    run: str | Path, name: str, *, version: str = "1.0", store: str | Path = "model_store", variant: str = "auto"
) -> Path:
    """Writes ``STORE/NAME.mar``, which a plain TorchServe can serve, too.

    >>> marquee.package("runs/digits", "digits").as_posix()
    'model_store/digits.mar'

    Args:
        run: a run folder, or a bundle.
        name: the model's name on the server.
        version: the model's version on the server.
        store: folder of archives; made when missing.
        variant: the only variant to serve; ``auto``: the fastest that was measured and runs on the server.

    Returns:
        The path of the archive.

    Raises:
        OperationError: the name is not allowed, or the archive cannot be written.
        ServingError: the bundle is damaged.
    """
    from marquee.serving.archive import find_bundle
    from marquee.serving.archive import package as write_archive

    return write_archive(find_bundle(Path(run)), name, version, Path(store), variant)


def _resolve(device: str) -> str:
    """An available device. ``cpu`` always is one, which spares the import of torch."""
    if device == "cpu":
        return device
    from marquee.training.core.device import resolve_device

    return str(resolve_device(device))


def serve(*names: str, store: str | Path = "model_store", port: int | None = None, **options: Any) -> "Service":
    """Starts TorchServe with models of the store and verifies every golden answer over REST and gRPC.

    >>> with marquee.serve("digits", port=0) as service:
    ...     answer = service.client().predict("digits", "seven.png")
    >>> answer.status, answer.body["label"]
    (200, '7')

    Args:
        names: archives of the store, such as ``photos`` for ``photos.mar``.
        store: folder of archives.
        port: first of five consecutive ports; 0: free ones; None: the ports in ``config.properties``, 8080 and others.
        options: of :func:`marquee.serving.server.start`, such as ``folder`` for the process record, tokens and logs.

    Returns:
        The running server; ``with`` or :meth:`~marquee.serving.verified.Service.stop` stops it. Otherwise it outlives
        this process, until ``marquee serve stop``.

    Raises:
        OperationError: the server cannot start, a model is refused, or an answer differs; nothing is left running.
    """
    from marquee.serving.errors import OperationError
    from marquee.serving.settings import Addresses
    from marquee.serving.verified import start_verified

    log_to_stderr()
    if port is not None and not 0 <= port <= 65_531:
        raise OperationError(f"port {port}: expected 1 to 65531, the first of five ports, or 0 for free ones")
    first = Addresses.free().base_port if port == 0 else port
    return start_verified(names, store=Path(store), port=first, **options)
