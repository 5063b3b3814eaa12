"""The steps of the GPU pack: one module each, with ``run(site, report)``."""
