"""The Flask application: the routes of the reference and of a well-behaved service, around one Service."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mpack_runtime.arrow import MEDIA
from mpack_runtime.config import Settings
from mpack_runtime.errors import BadRequest, RuntimeFault
from mpack_runtime.headers import printable
from mpack_runtime.rest import arrow, prefix
from mpack_runtime.rest.deadline import Deadlines
from mpack_runtime.rest.front import Front
from mpack_runtime.rest.metrics import Metrics
from mpack_runtime.rest.page import SECURITY_HEADERS, page
from mpack_runtime.rest.query import asking
from mpack_runtime.rest.roads import BUG, Call, Reply, Roads, refusal, to_json
from mpack_runtime.selfcheck import Ask
from mpack_runtime.service import Service

INVOKE = "/api/model/invoke"
EMPTY = (
    "Please provide data with this POST request: a JSON body such as "
    '{"columns": [...], "data": [[...]]} with Content-Type: application/json.'
)


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
            "Model-Name": printable(service.config.name),
            "Model-Version": printable(service.config.version),
        }

    def flask(self) -> Flask:
        """The WSGI application."""
        app = Flask("mpack_runtime.rest", template_folder="assets", static_folder="assets", static_url_path="/assets")
        app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 300
        for path, view, method in (
            (INVOKE, None, "POST"),  # predictions do not come this far; for the refusal of other methods
            ("/api/model/info", self.info, "GET"),
            ("/healthcheck", self.health, "GET"),
            ("/livez", self.health, "GET"),
            ("/readyz", self.readyz, "GET"),
            ("/metrics", self.metrics_text, "GET"),
            ("/openapi.json", self.openapi, "GET"),
            ("/", self.page, "GET"),
        ):
            app.add_url_rule(path, path, view, methods=[method])
        app.register_error_handler(RuntimeFault, self._fault)
        app.register_error_handler(HTTPException, self._http_error)
        app.register_error_handler(Exception, self._bug)
        app.wsgi_app = Front(app.wsgi_app, self)  # type: ignore[method-assign]
        return app

    def reply(self, call: Call) -> Reply | None:
        """The answer to a request that needs no Flask: a prediction, or whatever another protocol asks; else None."""
        if call.path == INVOKE and call.method == "POST":
            return self.invoke(call)
        reply = self.roads.answer(call)
        if reply is not None:
            reply.headers = {**self._headers, **reply.headers}
            if reply.warnings:
                reply.headers["Mpack-Warning"] = printable("; ".join(reply.warnings))
        return reply

    def invoke(self, call: Call) -> Reply:
        """One prediction request."""
        rows = 0
        try:
            body = call.body()
            if not body.strip():
                raise BadRequest(EMPTY)
            inputs = self.service.decode(body, call.content_type)
            if call.query:
                inputs = asking(self.service, inputs, call.query)
            rows = inputs.rows
            accept = call.header("Accept")
            if "arrow" in accept and arrow.accepted(self.service, accept):
                stream = arrow.stream(self.service, inputs, self.service.predict(inputs))
                reply = Reply(stream, content_type=MEDIA, headers=self._headers)
            else:
                reply = Reply(self.service.encode(self.service.predict(inputs)), headers=self._headers)
            if inputs.warnings:
                reply.headers["Mpack-Warning"] = printable("; ".join(inputs.warnings))
        except RuntimeFault as error:
            reply = refusal("odahu", error)
        except Exception as error:
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
            reply = to_json({"message": BUG}, 500)
        reply.route, reply.rows = INVOKE, rows
        return reply

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
        return _json({"message": BUG}, 500)


def connect(service: Service) -> Ask:
    """Asks the model through an application of its own: routing, body reading, checks and answers as for a client."""
    app = RestApp(service, Settings()).flask()

    def ask(body: bytes) -> tuple[int, bytes]:
        # Not by Flask's test client: importing that takes longer than the answer.
        environ = EnvironBuilder(INVOKE, method="POST", data=body, content_type="application/json").get_environ()
        answer, status, _ = run_wsgi_app(app, environ, buffered=True)
        return int(status.split()[0]), b"".join(answer)

    return ask


def _json(value: Any, status: int = 200) -> Response:
    if not isinstance(value, bytes):
        import orjson

        value = orjson.dumps(value)
    return Response(value, status=status, content_type="application/json")
