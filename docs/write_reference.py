"""Write the reference pages from the code that they describe: tables and their columns, steps and their configuration (R-D1).

    python docs/write_reference.py

A test fails when a page is no longer what this would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lensdata import tables
from lensdata.jobs import JOBS
from lensdata.steps import Job

DOCS = Path(__file__).resolve().parent
SHOWN = 60  # characters of a default value
NOTE = "<!-- Written by docs/write_reference.py; change the code it describes instead. -->\n"


def data_model() -> str:
    """The page of every table: key, columns, types, units, meanings."""
    specs = sorted(
        {spec.name: spec for spec in vars(tables).values() if isinstance(spec, tables.TableSpec)}.values(),
        key=lambda spec: spec.name,
    )
    out = [
        NOTE,
        "# Data model\n",
        f"Every table as `lensdata/schemas/` declares it, schema version {tables.SCHEMA_VERSION}. Rows lie in "
        "`dataset/*.parquet`; unit and meaning of a column also stand in the metadata of its field. How tables are kept, "
        "hashed and published: [architecture](architecture.md), section 3; how old ones are read: "
        "[platforms](platforms.md).\n",
        "| table | rows | key |\n|---|---|---|",
        *(f"| [{spec.name}](#{spec.name}) | {spec.meaning} | {_code(spec.key)} |" for spec in specs),
    ]
    for spec in specs:
        out += [
            f"\n## {spec.name}\n",
            f"{_sentence(spec.meaning)}{' Published as a HATS catalogue.' if spec.sky else ''}\n",
        ]
        out += ["| column | type | unit | meaning |\n|---|---|---|---|"]
        out += [
            f"| `{column.name}` | {_arrow(column.type)} | {column.unit} | {_cell(column.meaning)} |"
            for column in spec.columns
        ]
    return "\n".join(out) + "\n"


def steps() -> str:
    """The page of every step: what it reads, how it is started, its configuration keys."""
    out = [
        NOTE,
        "# Steps and their configuration\n",
        "Every step takes `--config FILE --output URI [--force] [--test-limit N] inputs.NAME=URI key=value`. Keys are those "
        "of the YAML file, sections with dots; an unknown key is an error that names the nearest one.\n",
        "| step | what it does | engine |\n|---|---|---|",
        *(f"| [{job.name}](#{job.name}) | {_cell(job.meaning)} | {job.engine} |" for job in JOBS.values()),
    ]
    for job in JOBS.values():
        out += [f"\n## {job.name}\n", f"{job.meaning}\n", f"```\n{_line(job)}\n```\n"]
        rows = list(_keys(job.config))
        if rows:
            out += ["| key | type | default | meaning |\n|---|---|---|---|", *rows]
    return "\n".join(out) + "\n"


def _line(job: Job) -> str:
    start = f"spark-submit {job.module.replace('.', '/')}.py" if job.engine == "spark" else f"python -m {job.module}"
    needed = [f"inputs.{name}=URI" for name in job.inputs]
    possible = [f"[inputs.{name}=URI]" for name in job.optional] + [f"[inputs.{name}.NAME=URI …]" for name in job.many]
    flags = ["[--retry]"] * job.retries + ["[--plan-only]"] * bool(job.plans)
    return " ".join([start, "--output URI", *needed, *possible, *flags])


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        if inner is not None and get_origin(field.annotation) is None:
            yield from _keys(inner, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else _default(default)
        yield f"| `{prefix}{name}` | {_cell(_type(field.annotation))} | {_cell(shown)} | {_cell(field.description or '')} |"


def _default(value: Any) -> str:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if any(isinstance(one, BaseModel) for one in values):
        return "see the shipped YAML"
    if value is None:
        return "null"
    text = ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in values)
    return f"`{text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}`" if text else "empty"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in inner if one is not NoneType)
    if origin in (tuple, list):
        return f"list of {_type(inner[0])}" if inner else "list"
    if origin is dict:
        return f"{_type(inner[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation)).lower()
    )


def _model_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _arrow(kind: Any) -> str:
    return str(kind).replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


PAGES = {"data_model.md": data_model, "steps.md": steps}


def main() -> None:
    """Write both pages."""
    for name, write in PAGES.items():
        (DOCS / name).write_text(write())
        sys.stdout.write(f"docs/{name}\n")


if __name__ == "__main__":
    main()
