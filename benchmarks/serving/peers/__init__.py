"""Other servers, each a process of its own with one model inside; settings come from the environment (``place``).

A peer's own documentation says how it serves a model; each module here does that with the least code, batches of up to
8 where the peer has batching.
"""
