"""What the gateway counts, in the text format of Prometheus. One process has one gateway, so there is one of each."""

from collections import Counter
from collections.abc import Iterator, Mapping

_sent_again: Counter[tuple[str, str]] = Counter()
_refused: Counter[str] = Counter()
_pending: dict[tuple[str, str], int] = {}
_answered: Counter[str] = Counter()
_lost: Counter[str] = Counter()


def count_sent_again(model: str, reason: str) -> None:
    """A request that was sent again.

    Args:
        model: its name.
        reason: one of few words, such as ``worker_lost``.
    """
    _sent_again[model, reason] += 1


def count_refused(code: str) -> None:
    """A request that was refused: :attr:`marquee.gateway.errors.Kind.code`."""
    _refused[code] += 1


def count_answered(model: str) -> None:
    """A request that was answered by the handler, be it with a refusal of its own."""
    _answered[model] += 1


def count_lost(model: str) -> None:
    """A request that was taken, and had no answer at its deadline."""
    _lost[model] += 1


def set_pending(pending: Mapping[tuple[str, str], int]) -> None:
    """The requests that wait in the host's queue, by name and version; what is not named is forgotten."""
    _pending.clear()
    _pending.update(pending)


def text() -> str:
    """All of it."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield from _head("marquee_queue_pending", "gauge", "Requests that wait in the host's queue.")
    for (model, version), number in sorted(_pending.items()):
        yield f"marquee_queue_pending{_labels(model=model, version=version)} {number}"
    yield from _head("marquee_gateway_answered_total", "counter", "Requests that the handler answered.")
    for model, number in sorted(_answered.items()):
        yield f"marquee_gateway_answered_total{_labels(model=model)} {number}"
    yield from _head("marquee_gateway_sent_again_total", "counter", "Attempts that followed one without an answer.")
    for (model, reason), number in sorted(_sent_again.items()):
        yield f"marquee_gateway_sent_again_total{_labels(model=model, reason=reason)} {number}"
    yield from _head("marquee_gateway_refused_total", "counter", "Requests that the gateway refused.")
    for code, number in sorted(_refused.items()):
        yield f"marquee_gateway_refused_total{_labels(reason=code)} {number}"
    yield from _head("marquee_gateway_lost_total", "counter", "Requests without an answer at their deadline.")
    for model in sorted({model for model, _ in _pending} | set(_lost)):
        yield f"marquee_gateway_lost_total{_labels(model=model)} {_lost[model]}"


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
