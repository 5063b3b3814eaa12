"""What a key may allow."""

from typing import Literal, get_args

Scope = Literal["predict", "explain", "manage"]
"""``predict``: predictions and the description of models; ``explain``: explanations; ``manage``: the management API
and metrics."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
