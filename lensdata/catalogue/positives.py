"""From a lens list to positives: selection, nearest Tractor source, tiers and footprint (R-S3)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensdata import storage, tables
from lensdata.catalogue.lenses import LENSCAT_COLUMNS, read_any_table
from lensdata.catalogue.sources import derived_columns
from lensdata.config.catalogue import MatchPositivesConfig
from lensdata.errors import InputError
from lensdata.hashing import pack_source_id, splitmix64
from lensdata.sky.crossmatch import SkyIndex

SEARCH_RADIUS_ARCSEC = 11.0  # where the extraction does not say how far from a lens it kept sources
TIERS = {"confident": "A", "probable": "B"}


def select_lenses(lenses: pd.DataFrame, config: MatchPositivesConfig) -> pd.DataFrame:
    """Rows whose name contains ``name_contains``, with their tier.

    Raises
    ------
    InputError
        No row is left, or a grading is neither confident nor probable.
    """
    chosen = lenses[lenses["name"].str.contains(config.name_contains, regex=False)].reset_index(drop=True)
    if chosen.empty:
        raise InputError(f"No lens of {len(lenses)} has a name that contains {config.name_contains!r} (name_contains).")
    unknown = sorted(set(chosen["grading"]) - TIERS.keys())
    if unknown:
        raise InputError(
            f"Lens grading {unknown[0]!r} is neither confident nor probable; map it in the lens table (columns.grading)."
        )
    return chosen.assign(tier=chosen["grading"].map(TIERS))


def read_sources(uri: str) -> pd.DataFrame:
    """The sources to match against: our ``near_lenses`` table, or any table with positions.

    A table of another kind needs ``ra`` and ``dec`` (in any case) and uses whatever Tractor columns it has; where RELEASE,
    BRICKID and OBJID are absent, a source gets a negative identifier from its position.
    """
    if storage.is_folder(uri):
        tables.require_kind(uri, tables.NEAR_LENSES)
        return tables.read_table(uri, tables.NEAR_LENSES).to_pandas()
    frame = read_any_table(uri)
    frame = frame.rename(columns=LENSCAT_COLUMNS)
    frame.columns = [str(name).lower() for name in frame.columns]
    for name in ("ra", "dec"):
        if name not in frame:
            raise InputError(f"{uri}: column {name!r} is missing; found {', '.join(frame.columns)}.")
    known = [name for name in frame.columns if name in {column.name for column in tables.SOURCE}]
    sources = frame[known].copy()
    for name in {"type", "brickname"} & set(known):  # FITS pads its strings, and tables made from it keep the blanks
        sources[name] = [_stripped(value) for value in sources[name]]
    if {"release", "brickid", "objid"} <= set(known):
        sources["source_id"] = pack_source_id(frame["release"], frame["brickid"], frame["objid"])
    elif "source_id" not in sources:
        ra, dec = (frame[name].to_numpy(np.float64).view(np.uint64) for name in ("ra", "dec"))
        sources["source_id"] = (splitmix64(ra ^ splitmix64(dec)) | np.uint64(1 << 63)).view(np.int64)
    return _with_derived(sources)


def _stripped(value: object) -> object:
    text = value.decode() if isinstance(value, bytes) else value
    return text.strip() if isinstance(text, str) else text


def _with_derived(sources: pd.DataFrame) -> pd.DataFrame:
    nan = np.full(len(sources), np.nan)
    columns = {
        column.name: sources[column.name].to_numpy() if column.name in sources else nan for column in tables.SOURCE
    }
    if "nobs_z" in sources:
        columns["nobs_z"] = sources["nobs_z"].to_numpy(np.float64, na_value=np.nan)
    columns["type"] = columns["type"].astype(str)
    return sources.assign(**derived_columns(columns))


def match(
    lenses: pd.DataFrame, sources: pd.DataFrame, config: MatchPositivesConfig, search_radius_arcsec: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nearest source of each lens within the radius; a source serves its nearest lens only.

    Parameters
    ----------
    search_radius_arcsec
        How far the nearest source is looked for, to be named for a lens without a positive; at least the radius.

    Returns
    -------
    tuple
        (positives, lenses without one with the reason); together they are all lenses.
    """
    low, high = config.footprint.limits
    index = SkyIndex(sources["ra"], sources["dec"])
    nearest, separation = index.nearest(lenses["ra"], lenses["dec"], search_radius_arcsec)
    table = pd.DataFrame(
        {
            "lens_name": lenses["name"],
            "lens_ra": lenses["ra"],
            "lens_dec": lenses["dec"],
            "lens_grading": lenses["grading"],
            "tier": lenses["tier"],
            "source": nearest,
            "separation_arcsec": separation,
        }
    )
    table["reason"] = None
    far = (table["source"] < 0) | (table["separation_arcsec"] > config.radius_arcsec)
    table.loc[far, "reason"] = "no_source_in_radius"
    if config.outside_footprint == "drop":  # whether there is a source or not: the sweeps out there need not be read
        inside = (table["lens_dec"] > low) & (table["lens_dec"] < high)
        table.loc[~inside, "reason"] = "outside_footprint"
    # of two lenses at one source the nearer stays; equal distances are ordered by name
    order = table[table["reason"].isna()].sort_values(["separation_arcsec", "lens_name"], kind="stable")
    again = order[order.duplicated("source")].index
    table.loc[again, "reason"] = "duplicate_source"
    matched = table["reason"].isna()
    positives = _join(table[matched], sources)
    unmatched = table[~matched].copy()
    ids = sources["source_id"].to_numpy() if len(sources) else np.zeros(1, np.int64)
    near = unmatched["source"].to_numpy() >= 0
    unmatched["nearest_source_id"] = pd.array(np.where(near, ids[np.maximum(unmatched["source"], 0)], 0), dtype="Int64")
    unmatched.loc[~near, "nearest_source_id"] = pd.NA
    return positives, unmatched.drop(columns=["source", "tier"]).reset_index(drop=True)


def _join(matched: pd.DataFrame, sources: pd.DataFrame) -> pd.DataFrame:
    lens_columns = matched.drop(columns=["source", "reason"]).reset_index(drop=True)
    taken = sources.iloc[matched["source"].to_numpy()].reset_index(drop=True)
    taken = taken.drop(columns=[name for name in lens_columns.columns if name in taken])
    return pd.concat([taken, lens_columns], axis=1)
