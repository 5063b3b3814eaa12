"""Everything that is measured, in the order of a round and of the tables."""

from benchmarks.serving.contenders import gateway, limit, marquee, peers, stock
from benchmarks.serving.contenders.base import Contender

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (*limit.CONTENDERS, *marquee.CONTENDERS, *gateway.CONTENDERS, *peers.CONTENDERS, *stock.CONTENDERS)
}
"""By name."""
