"""What runs inside TorchServe: from the bytes of a request to an answer.

This package travels whole inside every ``.mar`` and imports nothing else of the project, so a server needs only
torch, numpy and Pillow. Training imports it too: the preprocessing and the specification have one implementation.
"""
