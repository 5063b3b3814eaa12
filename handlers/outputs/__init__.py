"""What an answer may be, one module a kind (see :class:`marquee.handlers.core.output.OutputSpec`)."""

KINDS = {
    "classification": ".classification",
    "multi-label-classification": ".multi_label_classification",
    "regression": ".regression",
}
"""Kind, as in ``spec.json`` -> its module, imported only when a bundle has it."""
