"""The Open Inference Protocol (KServe v2): tensors of a request -> items, and predictions -> tensors of an answer.

``wire.py`` and ``datatypes.py`` know the format in both directions, and are shared with the gateway. ``protocol.py`` is
what the handler calls: it recognises a request and reads it (``request.py``, ``tensor.py``, ``elements.py``), asks the
kind of input for the items (``items.py``), and writes the answer (``answer.py``). Which tensors there are, kinds of
input and output say (``metadata.py``).
"""
