"""The Flask application: the routes of the reference and of a well-behaved service, around one Service."""

from __future__ import annotations

import re
import sys
import time
import traceback
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mpack_runtime.arrow import MEDIA
from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.rest import arrow, prefix
from mpack_runtime.rest.body import read_body
from mpack_runtime.rest.deadline import READING, WORKING, WRITING, Deadlines
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.page import SECURITY_HEADERS, page
from mpack_runtime.rest.query import asking
from mpack_runtime.rest.roads import Call, Roads
from mpack_runtime.selfcheck import Ask
from mpack_runtime.service import Service

INVOKE = "/api/model/invoke"
EMPTY = (
    "Please provide data with this POST request: a JSON body such as "
    '{"columns": [...], "data": [[...]]} with Content-Type: application/json.'
)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class RestApp:
    """The routes of one model. `ready` is set by the server once the model has answered its sample."""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        metrics: Metrics | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.service = service
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.deadlines = deadlines or Deadlines(settings.timeout)
        self.roads = Roads(service)
        self.ready = False
        self.answer: Mapping[str, Any] | None = None
        self._headers = {
            "Model-Name": _header(service.config.name),
            "Model-Version": _header(service.config.version),
        }

    def flask(self) -> Flask:
        """The WSGI application."""
        app = Flask("mpack_runtime.rest", template_folder="assets", static_folder="assets", static_url_path="/assets")
        app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 300
        for path, view, method in (
            (INVOKE, self.invoke, "POST"),
            ("/api/model/info", self.info, "GET"),
            ("/healthcheck", self.health, "GET"),
            ("/livez", self.health, "GET"),
            ("/readyz", self.readyz, "GET"),
            ("/metrics", self.metrics_text, "GET"),
            ("/openapi.json", self.openapi, "GET"),
            ("/", self.page, "GET"),
        ):
            app.add_url_rule(path, path, view, methods=[method])
        app.before_request(self._begin)
        app.before_request(self._other_roads)
        app.after_request(self._end)
        app.register_error_handler(RuntimeFault, self._fault)
        app.register_error_handler(HTTPException, self._http_error)
        app.register_error_handler(Exception, self._bug)
        app.wsgi_app = _StripPrefix(app.wsgi_app)  # type: ignore[method-assign]
        return app

    def invoke(self) -> Response:
        """One prediction request."""
        body = self._body()
        if not body.strip():
            raise BadRequest(EMPTY)
        inputs = self.service.decode(body, request.headers.get("Content-Type", ""))
        query = request.environ.get("QUERY_STRING")
        if query:
            inputs = asking(self.service, inputs, query)
        g.rows = inputs.rows
        accept = request.environ.get("HTTP_ACCEPT", "")
        if "arrow" in accept and arrow.accepted(self.service, accept):
            body = arrow.stream(self.service, inputs, self.service.predict(inputs))
            response = Response(body, content_type=MEDIA)
        else:
            response = _json(self.service.encode(self.service.predict(inputs)))
        if inputs.warnings:
            response.headers["Mpack-Warning"] = _header("; ".join(inputs.warnings))
        response.headers.update(self._headers)
        return response

    def info(self) -> Response:
        """The Swagger document."""
        from mpack_runtime.rest.swagger import swagger

        config, service = self.service.config, self.service
        methods = service.methods()
        return _json(swagger(config.name, config.version, service.signature, service.example(), self.answer, methods))

    def openapi(self) -> Response:
        """The OpenAPI document."""
        from mpack_runtime.rest.openapi import openapi

        config, service = self.service.config, self.service
        return _json(
            openapi(
                config.name,
                config.version,
                service.signature,
                service.example(),
                self.answer,
                prefix=prefix.prefix(request.environ),
                methods=service.methods(),
                arrow=config.arrow,
            )
        )

    def health(self) -> Response:
        """The process answers."""
        return _json({"status": True})

    def readyz(self) -> Response:
        """200 once the model has answered its sample."""
        if self.ready:
            return _json({"status": True})
        return _json({"status": False, "message": "The model has not answered its sample yet."}, 503)

    def metrics_text(self) -> Response:
        """Prometheus text."""
        text = self.metrics.render(self.service.config.name, self.service.config.version)
        return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    def page(self) -> Response:
        """The page to read the API and try it."""
        config, before = self.service.config, prefix.prefix(request.environ)
        url = f"{request.headers.get('X-Forwarded-Proto', request.scheme)}://{request.host}{before}"
        html = page(config.name, config.version, self.service.signature, self.service.example(), url=url, prefix=before)
        return Response(html, content_type="text/html; charset=utf-8", headers=SECURITY_HEADERS)

    def _body(self) -> bytes:
        try:
            return read_body(request.environ, self.settings.max_body)
        except BadRequest as error:
            if not self.deadlines.enter(READING):
                late = f"The request body did not arrive within {self.settings.timeout} seconds."
                raise BadRequest(late, 408) from error
            raise
        finally:
            self.deadlines.enter(WORKING)

    def _begin(self) -> None:
        g.start = time.perf_counter()
        g.rows = 0
        g.route = request.path
        self.metrics.start()
        if request.method != "POST":
            self.deadlines.enter(WORKING)

    def _other_roads(self) -> Response | None:
        """The answer of another protocol, where the address is one of its."""
        given = request.headers
        query = request.environ.get("QUERY_STRING", "")
        call = Call(request.method, request.path, lambda name: given.get(name, ""), self._body, self.ready, query)
        reply = self.roads.answer(call)
        if reply is None:
            return None
        g.rows, g.route = reply.rows, reply.route
        headers = {**self._headers, **reply.headers}
        if reply.warnings:
            headers["Mpack-Warning"] = _header("; ".join(reply.warnings))
        return Response(reply.body, reply.status, headers, content_type=reply.content_type)

    def _end(self, response: Response) -> Response:
        self.deadlines.enter(WRITING)
        given = request.headers.get("Request-Id") or request.headers.get("X-Request-Id") or ""
        response.headers["Request-Id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.metrics.end(g.route, response.status_code, time.perf_counter() - g.start, g.rows)
        return response

    def _fault(self, error: RuntimeFault) -> Response:
        response = _json({"message": error.message}, error.status)
        if error.retry_after:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    def _http_error(self, error: HTTPException) -> Response:
        status = error.code or 500
        words = {
            404: f"There is nothing at {request.path}. Predictions are at POST {INVOKE}; / shows all addresses.",
            405: f"{request.path} does not take {request.method}.",
        }
        response = _json({"message": words.get(status, error.description or error.name)}, status)
        if status == 405:
            response.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
        return response

    def _bug(self, error: Exception) -> Response:
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        return _json({"message": "The service failed on this request; its log has the reason."}, 500)


def connect(service: Service) -> Ask:
    """Asks the model through an application of its own: routing, body reading, checks and answers as for a client."""
    app = RestApp(service, Settings()).flask()

    def ask(body: bytes) -> tuple[int, bytes]:
        # Not by Flask's test client: importing that takes longer than the answer.
        environ = EnvironBuilder(INVOKE, method="POST", data=body, content_type="application/json").get_environ()
        answer, status, _ = run_wsgi_app(app, environ, buffered=True)
        return int(status.split()[0]), b"".join(answer)

    return ask


class _StripPrefix:
    """For proxies that name a prefix in X-Forwarded-Prefix but leave it in the path."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = prefix.path(environ)
        return self._app(environ, start_response)


def _json(value: Any, status: int = 200) -> Response:
    if not isinstance(value, bytes):
        import orjson

        value = orjson.dumps(value)
    return Response(value, status=status, content_type="application/json")


def _header(text: str) -> str:
    """Text as a header value: printable ASCII, other characters escaped, at most 1,000 characters."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(character if " " <= character <= "~" else " " for character in escaped)[:1000]
