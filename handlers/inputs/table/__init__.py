"""Rows of a table, in JSON, CSV or Parquet -> float64 numbers and int64 category codes."""
