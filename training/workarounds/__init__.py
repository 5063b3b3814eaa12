"""Workarounds for bugs in libraries; each module names the affected versions."""
