"""Regressions and servers of tables, beside scikit-learn."""
