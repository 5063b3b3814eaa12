"""Which variant a machine serves, and why."""

from dataclasses import dataclass

from .errors import BundleError
from .host import Host
from .measurement import Ranking
from .spec import ModelSpec, VariantSpec


@dataclass(frozen=True)
class Choice:
    """A variant to try."""

    variant: VariantSpec
    """What is tried."""
    reason: str
    """Why it has its place, for people."""


def rank_variants(spec: ModelSpec, host: Host, device: str, forced: str | None = None) -> list[Choice]:
    """The variants in the order in which they are tried, at least one.

    First what the machine can run at all (device, instruction sets), then the order that was measured on this machine;
    failing that, on one with the same instruction sets; failing that, on the last one that was measured. The bundle's
    first variant, which runs everywhere, is the last resort.

    Args:
        spec: of the bundle.
        host: the machine.
        device: ``cpu``, ``cuda:0``, ...
        forced: the name of the only variant to try.

    Raises:
        BundleError: ``forced`` does not exist, or nothing runs here.
    """
    by_name = {variant.name: variant for variant in spec.variants}
    if forced is not None:
        if forced not in by_name:
            raise BundleError(f"no variant {forced!r}; there are {', '.join(by_name)}")
        return [Choice(by_name[forced], "asked for by name")]
    lacking = {
        name: reason for name, variant in by_name.items() if (reason := missing_requirements(variant, host, device))
    }
    if len(lacking) == len(by_name):
        raise BundleError("; ".join(f"variant {name!r} {reason}" for name, reason in lacking.items()))
    ranking = _ranking(spec, host)
    order = list(ranking.order) if ranking else list(by_name)
    first = spec.variants[0].name
    if first not in order:
        order.append(first)
    why = _why(ranking, host, spec.output.quality) if len(by_name) > 1 else "the bundle's only variant"
    usable = []
    passed: list[str] = []
    for name in order:
        if name in lacking:
            passed.append(f"{name} {lacking[name]}")
            continue
        usable.append(Choice(by_name[name], "; ".join([why, *passed])))
    # What no ranking names was not worth serving; it is still better than nothing.
    return usable or [Choice(variant, why) for name, variant in by_name.items() if name not in lacking]


def missing_requirements(variant: VariantSpec, host: Host, device: str) -> str:
    """What the machine lacks for ``variant``; empty when nothing."""
    if variant.device != "any" and variant.device != device.partition(":")[0]:
        return f"runs on {variant.device} only"
    if variant.isa and not device.startswith("cuda") and not set(variant.isa) & set(host.isa):
        return f"needs {' or '.join(variant.isa)}"
    return ""


def _ranking(spec: ModelSpec, host: Host) -> Ranking | None:
    """The last ranking of the closest machine."""
    newest = sorted(spec.rankings, key=lambda ranking: ranking.date, reverse=True)
    same = [ranking for ranking in newest if ranking.host.like(host)]
    alike = [ranking for ranking in newest if (ranking.host.isa, bool(ranking.host.gpu)) == (host.isa, bool(host.gpu))]
    return next(iter(same + alike + newest), None)


def _why(ranking: Ranking | None, host: Host, quality: str) -> str:
    if ranking is None:
        return "the bundle's order, nothing was measured"
    where = "on this machine" if ranking.host.like(host) else f"on another machine ({ranking.host.cpu})"
    return f"fastest within {ranking.max_accuracy_drop:g} of the {quality}, measured {where} on {ranking.date[:10]}"
