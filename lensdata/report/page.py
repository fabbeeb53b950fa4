"""The report of a run as one HTML file that needs no network (R-E8)."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def render(template: str, **content: Any) -> str:
    """Fill a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: resources.files("lensdata.report").joinpath(name).read_text()),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    return environment.get_template(template).render(**content)
