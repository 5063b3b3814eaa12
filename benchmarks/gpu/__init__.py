"""Every GPU path of the project on one machine, in one command: ``python -m benchmarks.gpu``."""
