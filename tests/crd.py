"""Kubernetes' custom resource definitions as JSON Schema: what an API server would refuse, and what it would drop in silence."""

from __future__ import annotations

from typing import Any

import jsonschema


def validator(crd: dict[str, Any], version: str = "v1") -> jsonschema.Draft202012Validator:
    """A validator of a definition's version that also refuses fields it does not know, as `kubectl --validate=strict` does."""
    [schema] = [each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == version]
    return jsonschema.Draft202012Validator(_strict(schema, top=True))


def _strict(schema: dict[str, Any], *, top: bool = False) -> dict[str, Any]:
    if schema.get("x-kubernetes-int-or-string"):
        text = {"type": "string"} | ({"pattern": schema["pattern"]} if "pattern" in schema else {})
        return {"anyOf": [{"type": "integer"}, text]}
    out = {
        name: value
        for name, value in schema.items()
        if name in ("type", "enum", "required", "pattern", "minimum", "maximum")
    }
    if schema.get("nullable"):
        out["type"] = [schema["type"], "null"]
    if "items" in schema:
        out["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _strict(schema["additionalProperties"])
    if "properties" in schema:
        out["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        out["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        if top:  # the API server's own
            out["properties"] |= {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
            }
    return out
