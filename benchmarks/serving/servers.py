"""A running contender, and how it is asked: over REST by wrk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import requests

from benchmarks.serving.bodies import CONTENT_TYPES, Size, encode, write_bodies
from benchmarks.serving.errors import ContenderError
from benchmarks.serving.load import Load
from benchmarks.serving.wrk import run_wrk
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile

_FIRST_ANSWER_SECONDS = 60


class Server(Protocol):
    """A running contender."""

    @property
    def process(self) -> psutil.Process:
        """The root of its processes."""

    def ask(self, photograph: bytes) -> str:
        """The likeliest label, in one request.

        Raises:
            ContenderError: there is no answer, or it is an error.
        """

    def load(self, size: Size, clients: int, seconds: float) -> Load:
        """Answers ``clients`` that ask at once.

        Raises:
            ContenderError: the load generator could not run.
        """


@dataclass(frozen=True, kw_only=True)
class RestServer:
    """Takes one photograph a POST."""

    process: psutil.Process
    url: str
    bodies: Path
    """Folder of the photographs and bodies."""
    form: str = "file"
    """Of the bodies; one of :data:`benchmarks.serving.bodies.CONTENT_TYPES`."""
    authorization: Callable[[], Mapping[str, str]] = dict
    """Further headers, asked for at each use: a server writes its tokens while it starts."""

    def ask(self, photograph: bytes) -> str:
        """See :class:`Server`."""
        session = requests.Session()
        session.trust_env = False  # a proxy cannot reach this machine's loopback
        try:
            response = session.post(
                self.url, data=encode(photograph, self.form), headers=self._headers(), timeout=_FIRST_ANSWER_SECONDS
            )
        except requests.RequestException as error:
            raise ContenderError(f"no answer from {self.url}: {error}") from error
        if response.status_code != 200:
            raise ContenderError(f"{self.url}: status {response.status_code}: {response.text[:200]}")
        return likeliest(response.json())

    def load(self, size: Size, clients: int, seconds: float) -> Load:
        """See :class:`Server`."""
        return run_wrk(self.url, self._headers(), write_bodies(self.bodies, size, self.form), clients, seconds)

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": CONTENT_TYPES[self.form], **self.authorization()}


def bearer(keys: KeyFile) -> Callable[[], Mapping[str, str]]:
    """TorchServe's token, once the server has written it."""

    def authorization() -> Mapping[str, str]:
        try:
            return {"Authorization": f"Bearer {keys.token('inference')}"}
        except OperationError as error:
            raise ContenderError(str(error)) from error

    return authorization


def likeliest(answer: Any) -> str:
    """The likeliest label of an answer: ours, a mapping from labels to probabilities, or a list of one of these.

    Raises:
        ContenderError: it is something else.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict) and "label" in answer:
        return str(answer["label"])
    if isinstance(answer, dict) and answer and all(isinstance(value, float) for value in answer.values()):
        return str(max(answer, key=answer.__getitem__))
    raise ContenderError(f"not an answer: {str(answer)[:200]}")
