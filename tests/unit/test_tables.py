"""Tables: validation, content hash, finished folders."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensdata import storage, tables
from lensdata.errors import InputError

ROWS = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True) | st.none(), st.text(max_size=5) | st.none()),
    max_size=30,
)
SCHEMA = pa.schema([("i", pa.int64()), ("f", pa.float64()), ("t", pa.string())])


def as_table(rows):
    return pa.Table.from_arrays([pa.array([row[k] for row in rows], SCHEMA.types[k]) for k in range(3)], schema=SCHEMA)


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_the_content_hash_depends_on_rows_not_on_their_order_or_batches(rows, data):
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    whole = tables.content_hash([as_table(rows)])
    assert whole == tables.content_hash([as_table(shuffled[:cut]), as_table(shuffled[cut:])])


@settings(deadline=None)
@given(rows=ROWS.filter(lambda rows: len(rows) > 0), change=st.sampled_from(["drop", "repeat", "null", "swap"]))
def test_the_content_hash_sees_every_change(rows, change):
    changed = list(rows)
    first = changed[0]
    if change == "drop":
        changed = changed[1:]
    elif change == "repeat":
        changed.append(first)
    elif change == "null":
        changed[0] = (first[0], first[1], "x" if first[2] is None else None)
    else:
        changed[0] = (first[0] ^ 1, *first[1:])
    assert tables.content_hash([as_table(changed)]) != tables.content_hash([as_table(rows)])


def test_a_null_string_is_not_the_text_nan():
    null, text = (tables.content_hash([pa.table({"t": pa.array([value], pa.string())})]) for value in (None, "NaN"))
    assert null != text


def test_a_repeated_key_is_refused():
    table = pa.table({"stratum": ["a"]})
    with pytest.raises(InputError, match="'pool' of table quotas is missing"):
        tables.validate(table, tables.QUOTAS)
    rows = {column.name: pa.nulls(2, column.type) for column in tables.LEDGER.columns} | {
        "cutout_id": pa.array([5, 5], pa.int64())
    }
    with pytest.raises(InputError, match="'cutout_id' of table ledger repeats in 1 rows"):
        tables.validate(pa.table(rows), tables.LEDGER)


def test_a_folder_without_success_is_refused(tmp_path):
    (tmp_path / "t" / "dataset").mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t" / "dataset" / "p.parquet")
    with pytest.raises(InputError, match="no _SUCCESS"):
        tables.read_table(str(tmp_path / "t"))
    with pytest.raises(InputError, match="does not exist"):
        tables.read_table(str(tmp_path / "none"))


def test_written_tables_read_back_with_units_declared(tmp_path):
    rows = {
        "stratum": ["SER/3-5"],
        "pool": ["N1"],
        "confuser": [None],
        **{name: [1] for name in tables.QUOTAS.names[3:-1]},
        "filled_from": [None],
    }
    count, content = tables.write_table(pa.table(rows, schema=tables.QUOTAS.schema), str(tmp_path / "q"), tables.QUOTAS)
    back = tables.read_table(str(tmp_path / "q"), tables.QUOTAS)
    assert count == back.num_rows == 1
    assert tables.content_hash([back]) == (1, content)


def test_every_column_says_what_it_means_and_floats_have_types_spark_knows():
    from pyspark.sql.pandas.types import from_arrow_schema

    for spec in tables.TABLES.values():
        assert all(column.meaning for column in spec.columns)
        from_arrow_schema(spec.schema)  # refuses unsigned integers and fixed-size lists
        assert len(set(spec.names)) == len(spec.names)
    assert np.dtype("int64") == tables.POOL.schema.field("source_id").type.to_pandas_dtype()


def test_a_table_of_another_schema_version_is_refused_by_both_numbers(tmp_path):
    folder = str(tmp_path / "pool")
    tables.write_table(tables.POOL.schema.empty_table(), folder, tables.POOL)
    entry = storage.read_json(f"{folder}/_table.json")
    storage.write_json(f"{folder}/_table.json", entry | {"schema_version": 2})

    with pytest.raises(InputError, match="is a table of pool in schema version 2, this lensdata reads 3"):
        tables.read_table(folder)
