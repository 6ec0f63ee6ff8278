"""The operations on a model's versions: a part of the table in `http.operations`."""

from __future__ import annotations

from everloop.api import wire
from everloop.api.http.operation import Operation

VERSIONS: tuple[Operation, ...] = (
    Operation(
        "list_versions",
        "GET",
        "/v1/models/{model}/versions",
        "versions",
        "All versions of a model, oldest first.",
        answer=wire.VersionList,
    ),
    Operation(
        "describe_version",
        "GET",
        "/v1/models/{model}/versions/{version}",
        "versions",
        "One version: metrics, lineage, libraries.",
        answer=wire.VersionInfo,
    ),
    Operation(
        "promote",
        "POST",
        "/v1/models/{model}/promote",
        "versions",
        "Make a version the one that serves; answered once it does here.",
        body=wire.VersionChoice,
        example={"version": 1},
        answer=wire.VersionInfo,
        refusals=("version_not_found", "conflict"),
    ),
    Operation(
        "rollback",
        "POST",
        "/v1/models/{model}/rollback",
        "versions",
        "Back to the version that served before.",
        body=wire.Reason,
        body_required=False,
        answer=wire.VersionInfo,
        refusals=("conflict",),
    ),
    Operation(
        "archive",
        "POST",
        "/v1/models/{model}/archive",
        "versions",
        "Put a version that does not serve out of use.",
        body=wire.VersionChoice,
        example={"version": 1},
        answer=wire.VersionInfo,
        refusals=("version_not_found", "conflict"),
    ),
)
