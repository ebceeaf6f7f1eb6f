"""Every error that the runtime raises on purpose.

RuntimeFault
├── BadRequest      HTTP 400, 413 or 415; exit 1    the request is at fault
├── ModelFailure    HTTP 500; exit 1                the model raised, or answered what JSON cannot hold
├── Overloaded      HTTP 429 or 503                 too many wait for the model, or one too long
├── LoadFailure     the container ends; exit 1      the model cannot be loaded
└── SettingsError   the container ends; exit 2      an environment variable has a wrong value
"""

from __future__ import annotations


class RuntimeFault(Exception):
    """Root of the tree. `message` is one or more full sentences, safe to show to a client."""

    exit_code = 1
    status = 500
    #: Seconds after which the same request may do better; 0: time does not help.
    retry_after = 0

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(RuntimeFault):
    """The request is at fault; `status` is its HTTP answer (400, 413, 415)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ModelFailure(RuntimeFault):
    """The model raised while predicting. The traceback went to stderr and is no part of the message."""


class Overloaded(RuntimeFault):
    """The model was not asked: 429, too many wait for it already; 503, it was not the request's turn in time."""

    def __init__(self, message: str, status: int, retry_after: int) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class LoadFailure(RuntimeFault):
    """The model, or /opt/mpack/model.json, cannot be loaded."""


class SettingsError(RuntimeFault):
    """An MPACK_… environment variable has a wrong value."""

    exit_code = 2
