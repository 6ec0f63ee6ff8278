"""Reflection (`grpc.reflection.v1alpha`, and `v1` by the same messages): what `grpcurl` and its like ask to know our services.

The descriptors are told from a pool of our own, in which are our messages and those of health checks and of reflection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from everloop.api.grpc._generated import inference_pb2

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = (f"{NEW}.ServerReflection", f"{OLD}.ServerReflection")
"""The messages of both have the same fields, and their names are not on the wire."""


def handlers(names: tuple[str, ...], closing: asyncio.Event) -> dict[str, dict[str, Any]]:
    """Service -> its method handlers. `names`: of all services; streams end when `closing` is set."""
    pool = DescriptorPool()
    for serialized in (
        inference_pb2.SERIALIZED,
        health_pb2.DESCRIPTOR.serialized_pb,
        reflection_pb2.DESCRIPTOR.serialized_pb,
        _renewed(reflection_pb2.DESCRIPTOR.serialized_pb),
    ):
        pool.AddSerializedFile(serialized)  # type: ignore[no-untyped-call]
    servicer = aio.ReflectionServicer(names, pool=pool)

    async def information(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for answer in servicer.ServerReflectionInfo(until(closing, requests), context):
            yield answer

    handler = grpc.stream_stream_rpc_method_handler(
        information,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {name: {"ServerReflectionInfo": handler} for name in SERVICES}


def _renewed(serialized: bytes) -> bytes:
    """The old version's description, as the new one's."""
    file = FileDescriptorProto.FromString(serialized)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", NEW
    for message in file.message_type:
        for each in message.field:
            if each.type_name:
                each.type_name = each.type_name.replace(OLD, NEW)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(OLD, NEW)
        method.output_type = method.output_type.replace(OLD, NEW)
    return file.SerializeToString()


async def until(closing: asyncio.Event, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, up to its end or to `closing`."""
    closed = asyncio.ensure_future(closing.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests, None))
            try:
                await asyncio.wait((coming, closed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not coming.done():
                    coming.cancel()
            if not coming.done() or (request := coming.result()) is None:
                return
            yield request
    finally:
        closed.cancel()
