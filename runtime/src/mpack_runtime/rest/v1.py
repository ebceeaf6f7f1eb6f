"""KServe's first protocol: {"instances": …} in, {"predictions": …} out."""

from __future__ import annotations

from mpack_runtime.frame import Prediction
from mpack_runtime.render import to_bytes
from mpack_runtime.rest.query import asking
from mpack_runtime.rest.roads import Call, Reply, to_json
from mpack_runtime.service import Service

FORMS = ("instances", "inputs")


class Protocol:
    """Its addresses."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def models(self, call: Call) -> Reply:
        """The names of all models, which is one."""
        return to_json({"models": [self._service.config.name]})

    def model(self, call: Call) -> Reply:
        """200 once the model has answered its sample, else 503."""
        return to_json({"name": self._service.config.name, "ready": call.ready}, 200 if call.ready else 503)

    def predict(self, call: Call) -> Reply:
        """A prediction; whatever its content type says, the body is JSON."""
        inputs = self._service.decode(call.body(), forms=FORMS)
        if call.query:
            inputs = asking(self._service, inputs, call.query)
        prediction: Prediction = self._service.predict(inputs)
        return Reply(to_bytes({"predictions": prediction.value}), rows=inputs.rows, warnings=inputs.warnings)
