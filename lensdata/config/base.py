"""Loading a YAML file into a checked, frozen configuration."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lensdata.config.secrets import refuse_secrets
from lensdata.errors import InputError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """A frozen section of a YAML file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("input should be a number")
        return value


class Unhashed:
    """Marks a field that changes how a job runs, not what it makes: left out of the configuration hash."""


UNHASHED = Unhashed()


def load_config(model: type[C], path: str | Path | None, overrides: Iterable[str] | Mapping[str, Any] = ()) -> C:
    """Read a YAML file, apply dotted overrides and validate.

    Parameters
    ----------
    model
        The configuration class.
    path
        A YAML file; it, or a section of it, may start from another with ``extends: FILE``; None starts from the defaults.
    overrides
        ``key.sub=value`` strings (values are YAML) or a mapping of dotted keys to values.

    Raises
    ------
    InputError
        File missing or not YAML, an unknown key (with the nearest valid one), a value out of range.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    source = str(path) if path is not None else "configuration"
    pairs = dict(overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides))
    for key, value in pairs.items():
        _set_dotted(values, key, value)
    return validate(model, values, source, tuple(pairs))


def validate(model: type[C], values: Mapping[str, Any], source: str, overridden: tuple[str, ...] = ()) -> C:
    """Validate plain values against ``model``; errors name ``source``, or the override, and the first wrong key.

    Secrets are refused here, before an error could quote them.
    """
    refuse_secrets(values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(_sentence(error, model, source, overridden)) from error


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key.sub=value``; the value is read as YAML, nothing as an empty text.

    >>> parse_override("sampling.ratio=6")
    ('sampling.ratio', 6)
    >>> parse_override("name_contains=")
    ('name_contains', '')
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"Override {text!r} is not of the form key=value, for example sampling.ratio=100.")
    try:
        return key, yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise InputError(f"The value of override {text!r} is not valid YAML; quote it.") from error


def config_hash(config: Config) -> str:
    """SHA-256 over what a configuration means, 16 hex digits.

    The ``execution`` section, URIs, rates and partitions (fields annotated with `UNHASHED`) do not change
    the rows that come out and are left out (docs/architecture.md, section 4).
    """
    text = json.dumps(meaning(config), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def meaning(config: BaseModel) -> dict[str, Any]:
    """The part of a configuration that its hash covers, as plain values."""
    out: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        if name == "execution" or any(isinstance(mark, Unhashed) for mark in field.metadata):
            continue
        value = getattr(config, name)
        out[name] = meaning(value) if isinstance(value, BaseModel) else _plain(value)
    return out


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Plain values by dotted key, as overrides name them.

    >>> flattened({"epochs": 2, "optimizer": {"lr": 0.001}})
    {'epochs': 2, 'optimizer.lr': 0.001}
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flattened(value, f"{above}{name}.")
        else:
            out[f"{above}{name}"] = value
    return out


def dump_yaml(config: Config) -> str:
    """The complete configuration, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return meaning(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _read_yaml(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file; ``extends: FILE`` in it, or in a section, starts from those of another beside it."""
    if not path.is_file():
        named = f", which {extended_by[-1]} extends," if extended_by else ""
        raise InputError(f"Configuration file {path}{named} does not exist.")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"Configuration file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"Configuration file {path} must hold keys and values, found a {type(values).__name__}.")
    return _extended(values, path, extended_by)


def _extended(values: dict[str, Any], path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The values with what they extend; a section may start from a file of its own."""
    base = values.pop("extends", None)
    values = {
        key: _extended(value, path, extended_by) if isinstance(value, dict) else value for key, value in values.items()
    }
    if base is None:
        return values
    if not isinstance(base, str):
        raise InputError(f"Configuration file {path}: extends must name one file, found {base!r}.")
    if path.resolve() in extended_by:
        raise InputError(f"Configuration file {path} extends itself, by way of {extended_by[-1]}.")
    return _merged(_read_yaml(path.parent / base, (*extended_by, path.resolve())), values)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changed keys; sections are merged, everything else, lists too, is replaced."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return out


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    node = values
    for section in sections:
        child = node.get(section)
        if child is None:
            child = node[section] = {}
        if not isinstance(child, dict):
            raise InputError(f"Override {key!r}: {section!r} is a value, not a section.")
        node = child
    node[last] = value


def _sentence(error: ValidationError, model: type[BaseModel], source: str, overridden: tuple[str, ...]) -> str:
    # a misspelt key is what the user typed; the required one that is then missing is only its consequence
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    location = ".".join(str(part) for part in first["loc"])
    if any(location == key or location.startswith(f"{key}.") for key in overridden):
        source = "override"
    if first["type"] == "extra_forbidden":
        nearest = _nearest_key(location, model)
        return f"{source}: unknown key {location!r}" + (f"; did you mean {nearest!r}?" if nearest else ".")
    if first["type"] == "missing":
        return f"{source}: key {location!r} is required."
    found = "" if isinstance(first.get("input"), dict) else f" (found {first.get('input')!r})"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    where = f"{location}: " if location else ""
    return f"{source}: {where}{message[:1].lower()}{message[1:]}{found}."


def _nearest_key(location: str, model: type[BaseModel]) -> str | None:
    """The valid key that looks most like a wrong one: in its own section first, then anywhere."""
    known = known_keys(model)
    section, _, last = location.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    close = difflib.get_close_matches(last, list(siblings), n=1, cutoff=0.5)
    if close:
        return siblings[close[0]]
    close = difflib.get_close_matches(location, known, n=1, cutoff=0.5)
    return close[0] if close else None


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a configuration class."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += known_keys(annotation, f"{prefix}{name}.")
    return keys


__all__ = [
    "UNHASHED",
    "Config",
    "Field",
    "config_hash",
    "dump_yaml",
    "known_keys",
    "load_config",
    "meaning",
    "validate",
]
