"""The table of what gRPC asks besides inference: the messages of each verb, what it needs, and who answers.

The verbs are those of `api.oip`, as they are over HTTP; here stands only what the messages make different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from everloop.api import oip
from everloop.api.door import Caller, Need
from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.health import ready
from everloop.api.services import Services
from everloop.core.errors import ModelNotFound, NotSupported, VersionNotFound

BY = "grpc"
"""Who acts, in the timeline."""
LOADED_AS_REGISTERED = frozenset({"config", "file"})
"""What Triton's `load` may bring: parameters of these names, or of names that begin so."""


class Verb(NamedTuple):
    operation: str
    """Its name in the table of operations of HTTP, for the audit."""
    request: type[Any]
    response: type[Any]
    need: Need
    answer: Callable[[Services, Any, Caller], Any]
    """A struct or mapping with the names of the response's fields; None: the response has none. Runs on a thread."""
    slow: bool = False
    """It may take as long as opening a model does."""


def model_of(asked: Any) -> str | None:
    """Which model a request names; None: it concerns the server."""
    for field in ("name", "model_name"):
        named: str = getattr(asked, field, "")
        if named:
            return named
    return None


def _server_live(_services: Services, _asked: Any, _caller: Caller) -> Any:
    return {"live": True}


def _server_ready(services: Services, _asked: Any, _caller: Caller) -> Any:
    return {"ready": ready(services)}


def _server_metadata(services: Services, _asked: Any, _caller: Caller) -> Any:
    return oip.server_metadata(services)


def _model_ready(services: Services, asked: Any, _caller: Caller) -> Any:
    """As Triton's users expect it: what is not there is not ready, and that is no error."""
    try:
        return {"ready": oip.model_ready(services, asked.name, asked.version)}
    except (ModelNotFound, VersionNotFound):
        return {"ready": False}


def _model_metadata(services: Services, asked: Any, _caller: Caller) -> Any:
    return oip.model_metadata(services, asked.name, asked.version)


def _model_config(services: Services, asked: Any, _caller: Caller) -> Any:
    return {"config": oip.config(services, asked.name, asked.version)}


def _model_statistics(services: Services, asked: Any, caller: Caller) -> Any:
    found = oip.statistics(services, asked.name, asked.version)
    return {"model_stats": [each for each in found.model_stats if caller.reaches(each.name)]}


def _repository_index(services: Services, asked: Any, caller: Caller) -> Any:
    found = oip.repository_index(services, ready=asked.ready)
    return {"models": [each for each in found if caller.reaches(each.name)]}


def _load(services: Services, asked: Any, _caller: Caller) -> Any:
    for name in asked.parameters:
        if name.partition(":")[0] in LOADED_AS_REGISTERED:
            raise NotSupported(
                f"parameters: {name[:40]!r}: a model is loaded as it is registered; files and configurations are given over HTTP, by "
                "POST /v1/models/{model}/versions and PATCH /v1/models/{model}",
                field="parameters",
            )
    oip.load(services, asked.model_name, by=BY)


def _unload(services: Services, asked: Any, _caller: Caller) -> Any:
    oip.unload(services, asked.model_name, by=BY)


VERBS = {
    "ServerLive": Verb("live", pb.ServerLiveRequest, pb.ServerLiveResponse, "open", _server_live),
    "ServerReady": Verb("ready", pb.ServerReadyRequest, pb.ServerReadyResponse, "open", _server_ready),
    "ServerMetadata": Verb(
        "server_metadata", pb.ServerMetadataRequest, pb.ServerMetadataResponse, "open", _server_metadata
    ),
    "ModelReady": Verb("model_ready", pb.ModelReadyRequest, pb.ModelReadyResponse, "key", _model_ready),
    "ModelMetadata": Verb("model_metadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse, "key", _model_metadata),
    "ModelConfig": Verb("model_config", pb.ModelConfigRequest, pb.ModelConfigResponse, "key", _model_config),
    "ModelStatistics": Verb(
        "model_statistics", pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, "own", _model_statistics
    ),
    "RepositoryIndex": Verb(
        "repository_index", pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, "own", _repository_index
    ),
    "RepositoryModelLoad": Verb(
        "load_model", pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse, "admin", _load, slow=True
    ),
    "RepositoryModelUnload": Verb(
        "unload_model", pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse, "admin", _unload
    ),
}
"""Method -> verb."""
