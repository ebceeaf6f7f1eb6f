"""The messages and services of the protocol, of gRPC's health checking and of its reflection.

They are described here in the words of .proto files and made when this module is imported, in a pool of their own: no
generated code that wants a certain protobuf, and no clash with the same files of a client or a model in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PARAMETERS = "map<string,InferParameter> parameters"
_INFERENCE = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3;"
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4;"
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3;"
    f"{_PARAMETERS} = 4; repeated ModelInferRequest.InferInputTensor inputs = 5;"
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3;"
    f"{_PARAMETERS} = 4; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": f"string name = 1; {_PARAMETERS} = 2",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3;"
    f"{_PARAMETERS} = 4; repeated ModelInferResponse.InferOutputTensor outputs = 5;"
    "repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3;"
    f"{_PARAMETERS} = 4; InferTensorContents contents = 5",
    # The last two are in Triton's and KServe's releases of the protocol, and clients send them.
    "InferParameter": "oneof parameter_choice: bool bool_param = 1; int64 int64_param = 2; string string_param = 3;"
    "double double_param = 4; uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2;"
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5;"
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
}
_HEALTH = {
    "HealthCheckRequest": "string service = 1",
    "HealthCheckResponse": "HealthCheckResponse.ServingStatus status = 1",
}
_REFLECTION = {
    "ServerReflectionRequest": "string host = 1; oneof message_request: string file_by_filename = 3;"
    "string file_containing_symbol = 4; ExtensionRequest file_containing_extension = 5;"
    "string all_extension_numbers_of_type = 6; string list_services = 7",
    "ExtensionRequest": "string containing_type = 1; int32 extension_number = 2",
    "ServerReflectionResponse": "string valid_host = 1; ServerReflectionRequest original_request = 2;"
    "oneof message_response: FileDescriptorResponse file_descriptor_response = 4;"
    "ExtensionNumberResponse all_extension_numbers_response = 5; ListServiceResponse list_services_response = 6;"
    "ErrorResponse error_response = 7",
    "FileDescriptorResponse": "repeated bytes file_descriptor_proto = 1",
    "ExtensionNumberResponse": "string base_type_name = 1; repeated int32 extension_number = 2",
    "ListServiceResponse": "repeated ServiceResponse service = 1",
    "ServiceResponse": "string name = 1",
    "ErrorResponse": "int32 error_code = 1; string error_message = 2",
}
_SERVING = {"HealthCheckResponse.ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")}

#: The protocol's methods, by name: each takes NAMERequest and answers NAMEResponse.
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
#: Both versions of reflection that clients ask for, by their packages.
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")

_TYPES = {
    **{"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12, "uint32": 13}
}
_ENUM, _MESSAGE, _OPTIONAL, _REPEATED = 14, 11, 1, 3

Methods = Mapping[str, tuple[str, str, bool, bool]]
Enums = Mapping[str, tuple[str, ...]]


def _file(
    name: str, package: str, messages: Mapping[str, str], service: str, methods: Methods, enums: Enums
) -> descriptor_pb2.FileDescriptorProto:
    """One .proto file. A method is its request, its answer, and whether each of them is a stream."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    made = {"": file}
    for path, fields in messages.items():
        outer, _, last = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=last) if outer else file.message_type.add(name=last)
        for field in _fields(fields):
            _add_field(made[path], path, package, field, enums)
    for path, values in enums.items():
        outer, _, last = path.rpartition(".")
        enum = made[outer].enum_type.add(name=last)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    listed = file.service.add(name=service)
    for method, (asked, answered, takes_many, gives_many) in methods.items():
        listed.method.add(
            name=method,
            input_type=f".{package}.{asked}",
            output_type=f".{package}.{answered}",
            client_streaming=takes_many,
            server_streaming=gives_many,
        )
    return file


def _fields(text: str) -> Iterator[tuple[str, str, str, int]]:
    """(the oneof that it is in or "", type with its label, name, number) of each field; a oneof's fields come last."""
    choice = ""
    for part in filter(None, (part.strip() for part in text.split(";"))):
        if part.startswith("oneof "):
            choice, _, part = part[len("oneof ") :].partition(":")
        kind, name, _, number = part.strip().rsplit(" ", 3)
        yield choice, kind, name, int(number)


def _add_field(message: Any, path: str, package: str, field: tuple[str, str, str, int], enums: Enums) -> None:
    choice, kind, name, number = field
    repeated = kind.startswith(("repeated ", "map<"))
    kind = kind[len("repeated ") :] if kind.startswith("repeated ") else kind
    if kind.startswith("map<"):
        entry = f"{name.capitalize()}Entry"
        nested = message.nested_type.add(name=entry)
        nested.options.map_entry = True
        of_key, of_value = kind[len("map<") : -1].split(",")
        _add_field(nested, "", package, ("", of_key, "key", 1), enums)
        _add_field(nested, "", package, ("", of_value, "value", 2), enums)
        kind = f"{path}.{entry}"
    made = message.field.add(name=name, number=number, label=_REPEATED if repeated else _OPTIONAL)
    made.type = _TYPES.get(kind, _ENUM if kind in enums else _MESSAGE)
    if kind not in _TYPES:
        made.type_name = f".{package}.{kind}"
    if choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name=choice)
        made.oneof_index = 0


def _one(name: str) -> tuple[str, str, bool, bool]:
    return f"{name}Request", f"{name}Response", False, False


#: The files by their names, as reflection shows them.
FILES = {
    file.name: file
    for file in (
        _file(
            "grpc_predict_v2.proto",
            "inference",
            _INFERENCE,
            "GRPCInferenceService",
            {name: _one(name) for name in METHODS},
            {},
        ),
        _file(
            "grpc/health/v1/health.proto",
            "grpc.health.v1",
            _HEALTH,
            "Health",
            {"Check": _one("HealthCheck"), "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True)},
            _SERVING,
        ),
        *(
            _file(
                f"{package.replace('.', '/')}/reflection.proto",
                package,
                _REFLECTION,
                "ServerReflection",
                {"ServerReflectionInfo": ("ServerReflectionRequest", "ServerReflectionResponse", True, True)},
                {},
            )
            for package in REFLECTION
        ),
    )
}
POOL = descriptor_pool.DescriptorPool()
for _proto in FILES.values():
    POOL.AddSerializedFile(_proto.SerializeToString())


def message(name: str) -> Any:
    """The class of a message by its full name."""
    descriptor = POOL.FindMessageTypeByName(name)
    make = getattr(message_factory, "GetMessageClass", None)
    return make(descriptor) if make else message_factory.MessageFactory(POOL).GetPrototype(descriptor)  # protobuf 3
