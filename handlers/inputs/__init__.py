"""What a request may hold, one package a kind (see :class:`marquee.handlers.core.input.InputSpec`)."""

KINDS = {"image": ".image.spec", "table": ".table.spec"}
"""Kind, as in ``spec.json`` -> its module, imported only when a bundle has it."""
