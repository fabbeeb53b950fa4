"""Stamps of a fetch, found by their ledger rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensdata import storage
from lensdata.shards.layout import Stamps
from lensdata.shards.reader import open_shard, read_stamps


def read_stored(cutouts: str, ledger: pd.DataFrame) -> Stamps:
    """Stamps (n, H, W, bands) of stored ledger rows, in their order.

    Parameters
    ----------
    cutouts
        The folder of fetch_cutouts.
    ledger
        ``part`` and ``row`` of the stamps wanted.
    """
    uris = [storage.join(cutouts, "parts", "dataset", name) for name in ledger["part"]]
    starts = {}
    for uri in sorted(set(uris)):
        described = open_shard(uri).file.metadata
        starts[uri] = np.cumsum(
            [0, *(described.row_group(group).num_rows for group in range(described.num_row_groups))]
        )
    rows = ledger["row"].to_numpy(np.int64)
    groups = np.array(
        [np.searchsorted(starts[uri], row, side="right") - 1 for uri, row in zip(uris, rows, strict=True)]
    )
    within = [row - starts[uri][group] for uri, row, group in zip(uris, rows, groups, strict=True)]
    return read_stamps(uris, groups, within)
