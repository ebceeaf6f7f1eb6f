"""Run in an image of docker-rest: a Flask route that does nothing, under mpack's workers, settings and access log."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response
from gunicorn.arbiter import Arbiter
from mpack_runtime.config import LoaderConfig, ModelConfig, Settings
from mpack_runtime.rest.access_log import JsonAccessLog
from mpack_runtime.rest.gunicorn_worker import adapt
from mpack_runtime.rest.server import Server

MODEL = ModelConfig("empty", "1", LoaderConfig("none", ""), root=None)  # type: ignore[arg-type]


class Empty(Server):
    """The server with another application in it."""

    def load(self) -> Any:
        """The application."""
        app = Flask("empty")
        app.add_url_rule("/", "/", lambda: Response(b"{}", content_type="application/json"), methods=["GET", "POST"])
        return app


if __name__ == "__main__":
    adapt()
    JsonAccessLog.keep_stdout()
    Arbiter(Empty(MODEL, Settings.from_env())).run()
