"""The protocols: each module translates between what its clients send and :class:`~marquee.gateway.backend.Call`."""
