"""The API's description, OpenAPI 3.1."""

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
_REASONS = {
    "400": "The request asks for what there is not; the message says what.",
    "401": "The API key is missing or wrong.",
    "403": "The request comes from another site or under another host name.",
    "404": "There is no such model, tree or route.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too many requests wait; Retry-After says for how long to stay away.",
    "502": "The language model behind this server did not answer.",
    "503": "The server is ending.",
}


@cache
def description() -> dict[str, Any]:
    """The whole description."""
    asked, definitions = models_json_schema(
        [(ChatRequest, "validation"), (TextRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    chat, text = (asked[kind, "validation"] for kind in (ChatRequest, TextRequest))
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    listed = {"type": "object", "properties": {"data": {"type": "array", "items": _MODEL}}}
    html, plain = {"text/html": {"schema": _TEXT}}, {"text/plain": {"schema": _TEXT}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rstar-math",
            "version": __version__,
            "description": "An OpenAI-compatible API whose answers are searched for.",
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": {"post": _asking("Answer a conversation's question.", chat)},
            "/v1/completions": {"post": _asking("Answer a question.", text)},
            "/v1/models": {"get": _getting("The models.", _json(listed))},
            "/v1/models/{name}": {
                "parameters": [name],
                "get": _getting("One model.", _json(_MODEL), "404"),
            },
            "/health": {"get": _getting("Whether it runs.", _json({"type": "object"}), "503")},
            "/metrics": {"get": _getting("Counts for Prometheus.", plain)},
            "/trees/{name}": {
                "parameters": [name],
                "get": _getting("The page of an answer's tree.", html, "404"),
            },
        },
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _asking(words: str, schema: Any) -> dict[str, Any]:
    """A route that answers a question."""
    content = {**_json(_COMPLETION), "text/event-stream": {"schema": _TEXT}}
    return {
        "summary": words,
        "requestBody": {"required": True, "content": _json(schema)},
        "responses": {"200": _response("The answer.", content), **_errors(*_REASONS)},
    }


def _getting(words: str, content: dict[str, Any], *errors: str) -> dict[str, Any]:
    """A route that gives something out."""
    answers = {"200": _response(words, content), **_errors("401", "403", *errors)}
    return {"summary": words, "responses": answers}


def _errors(*statuses: str) -> dict[str, Any]:
    """Responses that are errors."""
    content = _json({"$ref": "#/components/schemas/Error"})
    return {status: _response(_REASONS[status], content) for status in statuses}


def _response(words: str, content: dict[str, Any]) -> dict[str, Any]:
    """A response."""
    return {"description": words, "content": content}


def _json(schema: Any) -> dict[str, Any]:
    """JSON content."""
    return {"application/json": {"schema": schema}}
