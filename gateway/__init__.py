"""The gateway: one door in front of a server, for the protocols that clients already speak.

A process of its own. It starts TorchServe and brings it back, proves that the models answer as evaluation did, checks
who may come in, and sends a request again when a worker dies, so that no request is lost.

::

    doors/        protocols: what clients send -> Call; Reply -> what clients expect
    access/       keys, scopes, rates: one check for all doors
    delivery      one Call -> one Reply, whatever happens to the workers in between
    readiness     which versions have a worker whose golden answers were equal
    backend       what a host of models must be able to do; torchserve/ is one
"""
