"""The OpenAPI 3.1 description of the API."""

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from rstar_math import __version__
from rstar_math.serve.requests import ChatRequest, TextRequest

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": _TEXT,
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": _COUNT,
        "model": _TEXT,
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["index", "finish_reason", "rstar"],
                "properties": {
                    "index": _COUNT,
                    "finish_reason": {"enum": ["stop", "length"]},
                    "rstar": {"type": "object"},
                },
            },
        },
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            "additionalProperties": True,
        },
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT},
}
_ERRORS = {
    "400": "The request is invalid; the message names the field and the error.",
    "401": "The API key is missing or invalid.",
    "403": "The request's origin or host name is not allowed.",
    "404": "The model, tree or route does not exist.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "The queue is full; try again after the seconds in Retry-After.",
    "502": "The language model server did not answer.",
    "503": "The server is shutting down.",
}


@cache
def description() -> dict[str, Any]:
    """The OpenAPI document."""
    schemas, definitions = models_json_schema(
        [(ChatRequest, "validation"), (TextRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    chat, text = (schemas[kind, "validation"] for kind in (ChatRequest, TextRequest))
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    model_list = {"type": "object", "properties": {"data": {"type": "array", "items": _MODEL}}}
    html, plain = {"text/html": {"schema": _TEXT}}, {"text/plain": {"schema": _TEXT}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rstar-math",
            "version": __version__,
            "description": "An OpenAI-compatible API that finds every answer by search.",
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": {
                "post": _post_route("Answer the question of a conversation.", chat)
            },
            "/v1/completions": {"post": _post_route("Answer a question.", text)},
            "/v1/models": {"get": _get_route("List the models.", _json(model_list))},
            "/v1/models/{name}": {
                "parameters": [name],
                "get": _get_route("Describe one model.", _json(_MODEL), "404"),
            },
            "/health": {
                "get": _get_route(
                    "Report whether the server is running.", _json({"type": "object"}), "503"
                )
            },
            "/metrics": {"get": _get_route("Return the Prometheus metrics.", plain)},
            "/trees/{name}": {
                "parameters": [name],
                "get": _get_route("Return the HTML page of a search tree.", html, "404"),
            },
        },
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post_route(summary: str, schema: Any) -> dict[str, Any]:
    """The description of a route that responses questions."""
    content = {**_json(_COMPLETION), "text/event-stream": {"schema": _TEXT}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(schema)},
        "responses": {"200": _response("The answer.", content), **_error_responses(*_ERRORS)},
    }


def _get_route(summary: str, content: dict[str, Any], *errors: str) -> dict[str, Any]:
    """The description of a GET route."""
    responses = {"200": _response(summary, content), **_error_responses("401", "403", *errors)}
    return {"summary": summary, "responses": responses}


def _error_responses(*statuses: str) -> dict[str, Any]:
    """The descriptions of error responses by status."""
    content = _json({"$ref": "#/components/schemas/Error"})
    return {status: _response(_ERRORS[status], content) for status in statuses}


def _response(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    """The description of a response."""
    return {"description": summary, "content": content}


def _json(schema: Any) -> dict[str, Any]:
    """The description of JSON content."""
    return {"application/json": {"schema": schema}}
