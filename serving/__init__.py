"""What runs beside TorchServe, on the operator's side: packaging, starting, asking and proving.

Imports ``handlers``; knows nothing of training.
"""
