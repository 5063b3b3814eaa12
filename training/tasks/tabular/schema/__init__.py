"""The schema of a table: inferred from its cells, corrected by what the configuration states, shown to people."""

from marquee.training.tasks.tabular.schema.describe import describe
from marquee.training.tasks.tabular.schema.infer import Schema, infer_schema
from marquee.training.tasks.tabular.schema.names import named
from marquee.training.tasks.tabular.schema.notes import Note
from marquee.training.tasks.tabular.schema.schema_file import read_schema, write_schema
from marquee.training.tasks.tabular.schema.target import rows_without_target

__all__ = ["Note", "Schema", "describe", "infer_schema", "named", "read_schema", "rows_without_target", "write_schema"]
