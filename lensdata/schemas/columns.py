"""What a table is made of: columns with type, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

BANDS = ("g", "r", "z")


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class TableSpec:
    """A table's columns; ``key`` is unique where given; ``sky``: published as a HATS catalogue."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: str | None = None
    sky: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, units and meanings as field metadata."""
        return pa.schema(
            [
                pa.field(column.name, column.type, metadata={"unit": column.unit, "description": column.meaning})
                for column in self.columns
            ]
        )

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        return [column.name for column in self.columns]


I8, I16, I32, I64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
F32, F64, TEXT = pa.float32(), pa.float64(), pa.string()


def per_band(pattern: str, type_: pa.DataType, unit: str, meaning: str) -> tuple[Column, ...]:
    """A column for each of g, r, z; ``{}`` in name and meaning is the band."""
    return tuple(Column(pattern.format(band), type_, unit, meaning.format(band)) for band in BANDS)
