"""A client for a running server, over REST and gRPC. It sends the access token, and renews it after it has expired."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from marquee import hints
from marquee.serving.answers import Answer as Answer  # named beside the client, too
from marquee.serving.answers import gateway_refusal, grpc_refusal, message_of, rest_answer
from marquee.serving.errors import OperationError
from marquee.serving.keys import Keys, Kind, StaticToken
from marquee.serving.settings import Addresses
from marquee.serving.trust import Trust

T = TypeVar("T")

SCHEMES = ("http://", "https://")
MOST_CONNECTIONS = 256
"""Connections that are kept for threads that share a client."""
BUSY_WAITS = (0.25, 0.5, 1.0, 2.0)
"""Seconds to wait before each retry of an explanation that was refused as ``busy``."""
_REFUSED = (requests.codes.unauthorized, requests.codes.forbidden)


class Client:
    """A client for one server, on this machine or another.

    >>> client = Client("http://127.0.0.1:8080", token="abcd1234")
    >>> client.addresses.management, client.addresses.grpc_inference
    ('http://127.0.0.1:8081', '127.0.0.1:7070')

    Args:
        url: URL of the inference API.
        token: access token from ``key_file.json``, in the folder where the server was started: the ``inference`` token
            for predictions, the ``management`` token to manage models; None for a server that needs none.
        management: URL of the management API; None: the port after that of ``url``, which is both TorchServe's default
            and that of ``marquee serve start --port``.
        grpc: ``HOST:PORT`` of the gRPC inference API; None: TorchServe's default, 7070, if the port of ``url`` is 8080,
            else the third port after it, as with ``marquee serve start --port``.
        timeout: of one request, in seconds.
        certificate: file with the server's own certificate, for ``https``; None: one of a public authority is expected.
        client_certificate: PEM files of the client's own certificate and of its private key, for a server that asks
            for one.

    Raises:
        OperationError: a file cannot be read, or does not contain what it should.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        token: str | None = None,
        *,
        management: str | None = None,
        grpc: str | None = None,
        timeout: float = 120,
        certificate: str | Path | None = None,
        client_certificate: tuple[str | Path, str | Path] | None = None,
    ) -> None:
        trust = Trust.of_files(certificate, client_certificate)
        self._set_up(Addresses.beside(url, management, grpc), StaticToken(token), timeout, trust)

    @classmethod
    def gateway(
        cls,
        url: str,
        key: str | None = None,
        *,
        grpc: str | None = None,
        timeout: float = 120,
        certificate: str | Path | None = None,
        client_certificate: tuple[str | Path, str | Path] | None = None,
    ) -> "Client":
        """A client for a gateway, which answers predictions, management and metrics at one port.

        >>> client = Client.gateway("http://127.0.0.1:8090", "marquee_0f3c…")
        >>> client.addresses.management, client.addresses.grpc_inference
        ('http://127.0.0.1:8090', '127.0.0.1:8091')

        Args:
            url: URL of the gateway.
            key: as ``marquee keys add`` showed it; None for a gateway that asks for none.
            grpc: ``HOST:PORT`` of its gRPC; None: the port after that of ``url``.
            timeout: of one request, in seconds.
            certificate: see :class:`Client`.
            client_certificate: see :class:`Client`.

        Raises:
            OperationError: ``url`` is not a URL, or a certificate cannot be read.
        """
        trust = Trust.of_files(certificate, client_certificate)
        return cls.of(Addresses.of_gateway(url, grpc), StaticToken(key), timeout, trust)

    @classmethod
    def of(
        cls,
        addresses: Addresses,
        keys: Keys,
        timeout: float = 120,
        trust: Trust | None = None,
        largest: int | None = None,
    ) -> "Client":
        """A client for a server whose addresses, tokens and certificate are known, such as one on this machine.

        Args:
            addresses: where it listens.
            keys: its tokens.
            timeout: of one request, in seconds.
            trust: its certificate.
            largest: the bytes that a request may have, for messages; None: not known.
        """
        client = cls.__new__(cls)
        client._set_up(addresses, keys, timeout, trust or Trust())
        client._largest = largest
        return client

    def _set_up(self, addresses: Addresses, keys: Keys, timeout: float, trust: Trust) -> None:
        self.addresses = addresses
        self._trust = trust
        self._keys = keys
        self._timeout = timeout
        self._largest: int | None = None
        self._session = requests.Session()
        # A proxy from the environment would receive the tokens, and cannot reach this machine's loopback address.
        self._session.trust_env = False
        adapter = trust.adapter() or HTTPAdapter()
        adapter.init_poolmanager(len(SCHEMES), MOST_CONNECTIONS)
        for scheme in SCHEMES:
            self._session.mount(scheme, adapter)
        self._channel: Any = None

    def predict(
        self,
        name: str,
        data: bytes | str | Path,
        content_type: str = "application/octet-stream",
        version: str | None = None,
    ) -> Answer:
        """Sends one body to ``POST /predictions/NAME[/VERSION]``.

        Args:
            name: the model's name.
            data: the content of an image file, or its path; or JSON, with its content type.
            content_type: of ``data``.
            version: the model's version; None: the default version on the server.

        Raises:
            OperationError: no server answers.
            OSError: the file cannot be read.
        """
        path = f"/predictions/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
        headers = {"Content-Type": content_type}
        response = self._request(
            "POST", self.addresses.inference + path, "inference", data=_content(data), headers=headers
        )
        return rest_answer(response, self._largest)

    def explain(
        self,
        name: str,
        data: bytes,
        method: str = "auto",
        label: str | None = None,
        version: str | None = None,
        grpc: bool = False,
    ) -> Answer:
        """Requests the prediction for one image, with an explanation; retries while the worker is busy.

        Args:
            name: the model's name.
            data: the content of an image file, or JSON of one image.
            method: ``gradcam``, ``integrated_gradients``, ``occlusion``, or ``auto`` for one that suits the model.
            label: the label to explain; None: the predicted one.
            version: the model's version; None: the default version on the server.
            grpc: whether to use gRPC, which has no method for explanations: this sends a prediction with the input
                ``explain``.

        Raises:
            OperationError: no server answers.
        """
        settings = {"method": method, **({} if label is None else {"label": label})}
        path = f"/explanations/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")

        def ask() -> Answer:
            if grpc:
                inputs = {key: value.encode() for key, value in {**settings, "explain": "true"}.items()}
                return self.predict_grpc(name, data, version, inputs)
            files = {"data": ("image", data), **{key: (None, value) for key, value in settings.items()}}
            response = self._request("POST", self.addresses.inference + path, "inference", files=files)
            return rest_answer(response, self._largest)

        answer = ask()
        for wait in BUSY_WAITS:
            if not (answer.error or "").startswith("busy:"):
                break
            time.sleep(wait)
            answer = ask()
        return answer

    def predict_grpc(
        self,
        name: str,
        data: bytes | str | Path,
        version: str | None = None,
        inputs: Mapping[str, bytes] | None = None,
    ) -> Answer:
        """Sends one body to ``InferenceAPIsService.Predictions``, as the input ``data``, together with ``inputs``.

        Raises:
            OperationError: no server answers.
        """
        import grpc  # heavy, and only gRPC callers need it

        from marquee.serving.grpc_stubs import load_stubs

        stubs = load_stubs()
        if self._channel is None:
            is_https = self.addresses.inference.lower().startswith("https:")
            self._channel = self._trust.channel(self.addresses.grpc_inference, is_https)
        stub = stubs.inference_grpc.InferenceAPIsServiceStub(self._channel)
        fields = {**(inputs or {}), "data": _content(data)}
        request = stubs.inference.PredictionsRequest(model_name=name, model_version=version or "", input=fields)

        def call() -> Answer:
            metadata = [("protocol", "gRPC"), ("session_id", "marquee")]
            if token := self._keys.token("inference"):
                metadata.append(("authorization", f"Bearer {token}"))
            response = stub.Predictions(request, metadata=metadata, timeout=self._timeout)
            return Answer(200, json.loads(response.prediction))

        try:
            return self._with_renewal(
                call, "inference", lambda error: getattr(error, "code", str)() == grpc.StatusCode.PERMISSION_DENIED
            )
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                raise OperationError(f"the server refuses {self._keys}: {details}") from error
            if (answer := gateway_refusal(error.trailing_metadata(), str(details))) is not None:
                return answer
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise OperationError(f"no answer from {self.addresses.grpc_inference}: {details}") from error
            return grpc_refusal(code.name, str(details), request.ByteSize(), self._largest)

    def describe(self, name: str, version: str | None = None, customized: bool = False) -> list[dict[str, Any]]:
        """``GET /models/NAME[/VERSION]``: status, workers and settings of a version; ``all``: of each version.

        Args:
            name: the model's name.
            version: the model's version; None: the default version on the server.
            customized: whether a worker adds the model's own description, as JSON in ``customizedMetadata``.
        """
        params = {"customized": "true"} if customized else {}
        versions: list[dict[str, Any]] = self._manage("GET", _model_path(name, version), params=params)
        return versions

    def list_models(self) -> list[dict[str, Any]]:
        """``GET /models``: every model with its default version."""
        models: list[dict[str, Any]] = []
        start = "0"
        while start:
            page = self._manage("GET", "/models", params={"limit": 100, "next_page_token": start})
            models += page["models"]
            start = page.get("nextPageToken", "")
        return models

    def register(self, archive: str, workers: int = 1, name: str | None = None, wait: bool = True) -> str:
        """``POST /models``: registers an archive of the model store.

        Args:
            archive: file name in the store.
            workers: number of workers to start.
            name: the model's name on the server; None: the archive's own.
            wait: whether to return only when the workers have started.
        """
        params = {"url": archive, "initial_workers": workers, "synchronous": str(wait).lower()}
        params |= {"model_name": name} if name else {}
        return str(self._manage("POST", "/models", params=params)["status"])

    def scale(self, name: str, workers: int, version: str | None = None, wait: bool = True) -> str:
        """``PUT /models/NAME[/VERSION]``: sets the number of workers, and waits for them unless told otherwise."""
        params = {"min_worker": workers, "max_worker": workers, "synchronous": str(wait).lower()}
        path = _model_path(name, version)
        return str(self._manage("PUT", path, params=params)["status"])

    def set_default(self, name: str, version: str) -> str:
        """``PUT /models/NAME/VERSION/set-default``: sets the version that answers requests that name none."""
        return str(self._manage("PUT", f"{_model_path(name, version)}/set-default")["status"])

    def unregister(self, name: str, version: str | None = None) -> str:
        """``DELETE /models/NAME[/VERSION]``."""
        path = _model_path(name, version)
        return str(self._manage("DELETE", path)["status"])

    def new_token(self, kind: Kind) -> None:
        """``GET /token``: makes the server replace a token; the key file then holds the new one."""
        params = {"type": kind.lower()}
        headers = self._authorization("API")
        response = self._send("GET", f"{self.addresses.management}/token", params=params, headers=headers)
        if response.status_code != 200:
            raise OperationError(f"the server refused to renew its {kind} token: {message_of(response)}")

    def _manage(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, self.addresses.management + path, "management", **options)
        if response.status_code == 405:
            raise OperationError(
                f"the server does not allow {method} {path}; "
                f"start it with: {hints.command('serve', 'start', 'NAME', '--enable-model-api')}"
            )
        if response.status_code >= 400:
            raise OperationError(f"{method} {path}: {message_of(response)}")
        return response.json()

    def _request(self, method: str, url: str, kind: Kind, **options: Any) -> requests.Response:
        headers = options.pop("headers", {})

        def call() -> requests.Response:
            response = self._send(method, url, headers=headers | self._authorization(kind), **options)
            if response.status_code == 400 and "Token" in response.text and "InvalidKeyException" in response.text:
                raise _TokenRefusedError(message_of(response))
            if response.status_code in _REFUSED:  # by a gateway
                raise _TokenRefusedError(message_of(response))
            return response

        try:
            return self._with_renewal(call, kind, lambda error: isinstance(error, _TokenRefusedError))
        except _TokenRefusedError as error:
            raise OperationError(f"the server refuses {self._keys}: {error}") from error

    def _with_renewal(self, call: Callable[[], T], kind: Kind, refused: Callable[[Exception], bool]) -> T:
        """Makes the call, and repeats it with a new token if the server refuses the one in the key file."""
        try:
            return call()
        except Exception as error:
            if not self._keys.renewable or not refused(error):
                raise
            self.new_token(kind)
            return call()

    def _authorization(self, kind: Kind) -> dict[str, str]:
        token = self._keys.token(kind)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=self._timeout, **options)
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise OperationError(f"no answer from {url}: {reason}; is the server running?") from error


def _model_path(name: str, version: str | None) -> str:
    """In the management API."""
    return f"/models/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version else "")


class _TokenRefusedError(Exception):
    """The server refused the token: it is wrong, or has expired."""


def _content(data: bytes | str | Path) -> bytes:
    return Path(data).read_bytes() if isinstance(data, (str, Path)) else data
