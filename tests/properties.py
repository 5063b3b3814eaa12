"""How many examples the property tests of the protocols send.

``EXAMPLES=26 scripts/test tests/integration/test_gateway_table.py tests/integration/test_gateway_grpc.py -k
'over or whatever'`` sends 26 times as many as usual, 13,650 in all, to a real worker.
Without it they are few, for the sake of time.
"""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("EXAMPLES", "1"))


def many(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property of so many examples, which are the same in every run, times ``EXAMPLES``."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
