"""Health checking and reflection, asked by gRPC's own clients, and what is shown of the messages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from mpack_runtime.grpc.messages import FILES, POOL
from tritonclient.grpc import service_pb2

SERVICE = "inference.GRPCInferenceService"


@pytest.mark.parametrize("name", ["", SERVICE, "grpc.health.v1.Health"])
def test_what_is_here_is_healthy(sk: Any, name: str) -> None:
    """The server, and each service that serves."""
    answer = health_pb2_grpc.HealthStub(sk.channel).Check(health_pb2.HealthCheckRequest(service=name))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_an_unknown_service_is_not_found(sk: Any) -> None:
    """By Check; Watch tells it, and goes on."""
    stub, asked = health_pb2_grpc.HealthStub(sk.channel), health_pb2.HealthCheckRequest(service="x.Y")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(asked)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND and "x.Y" in caught.value.details()
    watch = stub.Watch(asked)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_who_watches_is_told_of_the_end_and_does_not_delay_it(grpc_serve: Any) -> None:
    """SERVING, then NOT_SERVING, then the stream ends, long before the grace of a minute."""
    served = grpc_serve()
    watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(served.server.close)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(watch) == []
        ended.result(timeout=20)


def test_streams_are_bounded(grpc_serve: Any) -> None:
    """The 101st is refused, and the model is asked as ever; one that ends makes room."""
    served = grpc_serve()
    stub = health_pb2_grpc.HealthStub(served.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
    assert {next(watch).status for watch in watches} == {health_pb2.HealthCheckResponse.SERVING}
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.Watch(health_pb2.HealthCheckRequest()))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.stub.ModelReady(service_pb2.ModelReadyRequest(name="sk")).ready
    for watch in watches:
        watch.cancel()


def test_reflection_shows_what_is_there_and_no_more(sk: Any) -> None:
    """The services by upstream's client; the protocol's methods, which ModelStreamInfer is none of."""
    database = ProtoReflectionDescriptorDatabase(sk.channel)
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert set(service.methods_by_name) == {
        *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    }
    with pytest.raises(KeyError):
        DescriptorPool(database).FindServiceByName("inference.Nothing")


def test_both_versions_of_reflection_answer_every_question(sk: Any) -> None:
    """A file by its name and by a symbol in it; extensions, of which there are none; nothing."""
    request = reflection_pb2.ServerReflectionRequest
    asked = [
        request(file_by_filename="grpc_predict_v2.proto"),
        request(file_containing_symbol="inference.ModelInferRequest.InferInputTensor.shape"),
        request(file_containing_symbol=f"{SERVICE}.ModelInfer"),
        request(all_extension_numbers_of_type="inference.InferParameter"),
        request(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="a.B", extension_number=1)),
        request(file_by_filename="nothing.proto"),
        request(),
    ]
    told = []
    for package in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
        call = sk.channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        told.append(list(call(iter(asked))))
    assert told[0] == told[1]
    whole = FILES["grpc_predict_v2.proto"].SerializeToString()
    assert [list(answer.file_descriptor_response.file_descriptor_proto) for answer in told[0][:3]] == [[whole]] * 3
    assert told[0][3].all_extension_numbers_response.base_type_name == "inference.InferParameter"
    assert [answer.error_response.error_code for answer in told[0][4:]] == [5, 5, 12]
    assert [answer.original_request for answer in told[0]] == asked
    call = reflection_pb2_grpc.ServerReflectionStub(sk.channel).ServerReflectionInfo
    assert len(list(call(iter(asked[:1])))) == 1


@pytest.mark.parametrize("theirs", [service_pb2, health_pb2, reflection_pb2], ids=lambda module: module.__name__)
def test_messages_are_the_protocols(theirs: Any) -> None:
    """Each field has the name, number, type, label and oneof that generated code has; of Triton's some are lacking."""
    [ours] = [file for file in FILES.values() if file.package == theirs.DESCRIPTOR.package]
    for item in ours.message_type:
        compare(POOL.FindMessageTypeByName(f"{ours.package}.{item.name}"), theirs)
    for service in ours.service:
        for method in service.method:
            other = theirs.DESCRIPTOR.services_by_name[service.name].methods_by_name[method.name]
            names = (f".{other.input_type.full_name}", f".{other.output_type.full_name}")
            assert (method.input_type, method.output_type) == names
            assert (method.client_streaming, method.server_streaming) == (
                other.client_streaming,
                other.server_streaming,
            )


def compare(ours: Any, theirs: Any) -> None:
    """One message, and those inside it."""
    other = theirs.DESCRIPTOR.pool.FindMessageTypeByName(ours.full_name)
    assert fields(ours) == fields(other)
    for inner in ours.nested_types:
        compare(inner, theirs)
    for enum in ours.enum_types:
        assert enum.values_by_number.keys() == other.enum_types_by_name[enum.name].values_by_number.keys()
        assert enum.values_by_name.keys() == other.enum_types_by_name[enum.name].values_by_name.keys()


def fields(message: Any) -> set[tuple[Any, ...]]:
    return {
        (
            *(field.name, field.number, field.type, field.is_repeated),
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in message.fields
    }
