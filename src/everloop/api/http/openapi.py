"""The OpenAPI 3.1 document, generated from the table of operations and the Structs on the wire.

Descriptions of fields are the docstrings that stand under them in the source, read here and nowhere else.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from http import HTTPStatus
from typing import Any

import msgspec

from everloop import __version__
from everloop.api.http.operation import FILE, Operation
from everloop.api.http.operations import OPERATIONS
from everloop.api.http.problems import MEDIA_TYPE, Problem
from everloop.api.status import STATUSES

_TAGS = {
    "predictions": "Ask models, and tell them what was true.",
    "showcase": "Sentiment of texts, images, recommendations: whichever models stand behind these routes.",
    "inference": "The Open Inference Protocol: tensors by name, as its clients send them.",
    "models": "What models there are.",
    "versions": "What they were trained into, what it is called, and which of it serves.",
    "rollouts": "How a version comes to serve everybody, part of them or only a shadow, and how it leaves again.",
    "learning": "How they change.",
    "cache": "What is remembered of answers.",
    "keys": "Who may call.",
    "server": "How the server is.",
}
_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key, where the server asks for one: as soon as one was made, or it can be reached from other machines.",
}
_FORM = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "contentMediaType": "application/octet-stream", "description": "The file."},
        "image_url": {
            "type": "string",
            "description": "Where the server shall fetch it, if it does that (`showcase.image_urls`).",
        },
        "top_k": {"type": "integer", "minimum": 1, "default": 5, "description": "How many labels to tell."},
    },
}
"""Of the only operation that takes an upload in a form."""
_PATH_PARAMETERS = {
    "key": (
        {"type": "string", "minLength": 1, "maxLength": 128},
        "The key's id, or a name that no other active key has.",
    ),
    "model": ({"type": "string", "maxLength": 128}, "The model's name."),
    "version": (
        {"type": "string", "minLength": 1, "maxLength": 128},
        "The version's number, name or alias, `champion` or `challenger`.",
    ),
    "alias": ({"type": "string", "minLength": 1, "maxLength": 128}, "A name for a version."),
}


def document(operations: tuple[Operation, ...] = OPERATIONS) -> dict[str, Any]:
    """The whole document, ready for a JSON encoder."""
    types = [t for o in operations for t in (o.body, *_answers(o)) if t is not None and t is not bytes] + [Problem]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    by_type = {id(t): s for t, s in zip(types, schemas, strict=True)}
    for struct in _structs(types):
        component = components.get(struct.__name__)
        if component is not None:
            _describe(struct, component)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "everloop",
            "version": __version__,
            "summary": "The model server that keeps learning.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": _KEY_SCHEME}},
    }


def _operation(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            *(_path_parameter(name) for name in re.findall(r"{(\w+)}", operation.path)),
            *(
                {"name": p.name, "in": p.where, "required": False, "schema": p.schema, "description": p.description}
                for p in operation.parameters
            ),
        ],
        "responses": _responses(operation, schemas),
        "security": [{}] if operation.need == "open" else [{}, {"key": []}],
    }
    if operation.body is bytes:
        described["requestBody"] = {
            "required": True,
            "content": {FILE: {"schema": {"type": "string", "format": "binary"}}},
        }
    elif operation.body is not None:
        content: dict[str, Any] = {"schema": schemas[id(operation.body)]}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": operation.body_required, "content": {"application/json": content}}
        if operation.uploads:
            described["requestBody"]["content"]["multipart/form-data"] = {"schema": _FORM}
    return described


def _path_parameter(name: str) -> dict[str, Any]:
    schema, description = _PATH_PARAMETERS[name]
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _responses(operation: Operation, schemas: dict[int, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, text in ((operation.status, "Done."), *operation.also):
        responses[str(status)] = {"description": text}
        found = [schemas[id(answer)] for answer in _answers(operation)]
        if found:
            schema = found[0] if len(found) == 1 else {"anyOf": found}
            responses[str(status)]["content"] = {operation.media_type: {"schema": schema}}
        elif operation.media_type and int(status) != HTTPStatus.NO_CONTENT:
            responses[str(status)]["content"] = {operation.media_type: {}}
    by_status: dict[int, list[str]] = {}
    for code in codes(operation):
        by_status.setdefault(STATUSES[code].http, []).append(code)
    if operation.body is not None:
        by_status[415] = ["unsupported_media_type"]
    for status, refused in sorted(by_status.items()):
        if str(status) in responses:
            continue
        refusal: dict[str, Any] = {
            "description": ", ".join(f"`{code}`" for code in refused),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status in (429, 503):
            refusal["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
        responses[str(status)] = refusal
    return responses


def _answers(operation: Operation) -> tuple[Any, ...]:
    if operation.answer is None:
        return ()
    return operation.answer if isinstance(operation.answer, tuple) else (operation.answer,)


def codes(operation: Operation) -> list[str]:
    """All codes of refusals that an operation can answer with."""
    implied: list[str] = [] if operation.need == "open" else ["unauthenticated", "forbidden", "quota_exceeded"]
    if "{model}" in operation.path or operation.role:
        implied += ["model_not_found", "starting"]
    if "{version}" in operation.path:
        implied.append("version_not_found")
    if operation.body is not None:
        implied += ["malformed", *(["invalid_input"] if operation.body is not bytes else []), "too_large"]
    return list(dict.fromkeys([*implied, *operation.refusals]))


def _structs(types: list[Any]) -> list[type]:
    """Every Struct that the types mention, by way of msgspec's own view of them."""
    found: dict[str, type] = {}
    seen: set[int] = set()
    todo: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while todo:
        info = todo.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.StructType):
            found[info.cls.__name__] = info.cls
            todo.extend(field.type for field in info.fields)
        for name in ("type", "item_type", "key_type", "value_type"):
            inner = getattr(info, name, None)
            if isinstance(inner, msgspec.inspect.Type):
                todo.append(inner)
        for name in ("types", "item_types"):
            todo.extend(getattr(info, name, None) or ())
    return list(found.values())


def _describe(struct: type, component: dict[str, Any]) -> None:
    names = {f.name: f.encode_name for f in msgspec.structs.fields(struct)}
    for owner in reversed(struct.__mro__):
        if not issubclass(owner, msgspec.Struct) or owner is msgspec.Struct:
            continue
        for name, text in _field_docstrings(owner).items():
            schema = component.get("properties", {}).get(names.get(name, ""))
            if schema is not None and "description" not in schema:
                schema["description"] = text


def _field_docstrings(struct: type) -> dict[str, str]:
    """Strings that stand right under annotated fields. Nothing where the source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(struct))
    except (OSError, TypeError):
        return {}
    definition = ast.parse(source).body[0]
    found: dict[str, str] = {}
    field: str | None = None
    for statement in getattr(definition, "body", ()):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            field = statement.target.id
        elif field and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            found[field] = inspect.cleandoc(str(statement.value.value))
            field = None
        else:
            field = None
    return found
