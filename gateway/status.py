"""What ``marquee serve status`` says of a gateway."""

from pathlib import Path
from typing import Any

from marquee.gateway.record import GatewayRecord, recorded, running
from marquee.serving.defaults import DEFAULT_STATE
from marquee.serving.trust import Trust

_PROBE = "/v2/health/ready"
_SECONDS = 5.0


def describe(folder: Path = DEFAULT_STATE) -> dict[str, Any] | None:
    """The gateway of a state folder; None where there was none.

    Returns:
        ``pid``, ``running``, ``http`` and ``grpc`` (None where the process only keeps TorchServe alive), and ``ready``:
        what its own probe says, or None where that cannot be asked.

    Raises:
        OperationError: this user may not read the record.
    """
    record, process = recorded(folder), running(folder)
    if record is None and process is None:
        return None
    if record is None or (process is not None and process.pid != record.pid):
        return {"pid": process.pid if process else None, "running": True, "http": None, "grpc": None, "ready": None}
    ready = _is_ready(record) if process is not None else False
    return {"pid": record.pid, "running": process is not None, "http": record.http, "grpc": record.grpc, "ready": ready}


def _is_ready(record: GatewayRecord) -> bool | None:
    if record.http is None or record.asks_for_certificates:
        return None
    import requests  # heavy

    session = requests.Session()
    session.trust_env = False
    if (adapter := Trust(certificate=record.certificate).adapter()) is not None:
        session.mount("https://", adapter)
    try:
        return session.get(record.http + _PROBE, timeout=_SECONDS).status_code == 200
    except requests.RequestException:
        return False
