"""Rows of a table: regression and classification."""
