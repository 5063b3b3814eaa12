"""The operator's tools around TorchServe: packaging, starting and stopping, requests, and verification.

Depends on ``handlers``, not on ``training``.
"""
