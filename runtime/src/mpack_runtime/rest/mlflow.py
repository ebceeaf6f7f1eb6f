"""MLflow's scoring server: the forms of /invocations, and answers as it writes them (a DataFrame as records)."""

from __future__ import annotations

from typing import Any

from mpack_runtime import __version__
from mpack_runtime.arrow import MEDIA
from mpack_runtime.frame import Prediction
from mpack_runtime.render import plain, to_bytes
from mpack_runtime.rest import arrow
from mpack_runtime.rest.query import asking
from mpack_runtime.rest.roads import Call, Reply
from mpack_runtime.service import Service

#: Of a line break and a version. MLflow calls them JSON, which they are not.
TEXT = "text/plain; charset=utf-8"
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Protocol:
    """Its addresses."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def ping(self, call: Call) -> Reply:
        """200 once the model has answered its sample, else 503; a line break, as MLflow answers."""
        return Reply(b"\n", 200 if call.ready else 503, TEXT)

    def version(self, call: Call) -> Reply:
        """The runtime's version, as plain as MLflow writes its own."""
        return Reply(__version__.encode(), content_type=TEXT)

    def invocations(self, call: Call) -> Reply:
        """A prediction."""
        inputs = self._service.decode(call.body(), call.content_type, FORMS)
        if call.query:
            inputs = asking(self._service, inputs, call.query)
        accept = call.header("Accept")
        if "arrow" in accept and arrow.accepted(self._service, accept):
            body = arrow.stream(self._service, inputs, self._service.predict(inputs))
            return Reply(body, content_type=MEDIA, rows=inputs.rows, warnings=inputs.warnings)
        answer = to_bytes({"predictions": _records(self._service.predict(inputs))})
        return Reply(answer, rows=inputs.rows, warnings=inputs.warnings)


def _records(prediction: Prediction) -> Any:
    """A table as a list of objects, everything else as it is."""
    if not prediction.table:
        return prediction.value
    rows = plain(prediction.value, numpy=False)
    return [dict(zip(prediction.table, row if isinstance(row, list) else [row])) for row in rows]
