"""Finds, on the machine that serves, the settings of an archive that answer the most requests in time."""
