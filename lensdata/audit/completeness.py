"""The selection function of a finder from injections: completeness per Einstein radius, brightness, seeing and depth (R-E7).

An injection is an arc put onto a galaxy that the finder has never seen; its completeness is the share of injections whose logit
exceeds a threshold, and the threshold is what held-out negatives give at a fixed false-positive rate. `completeness_cells`
counts, `completeness_model` smooths; here are the function that a reader calls, and totals for a population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensdata import storage
from lensdata.audit.completeness_cells import (
    BRIGHTNESS,
    CONDITIONS,
    LIMITS,
    Cells,
    Paired,
    Resamples,
    Threshold,
    axes_of,
    cells,
    jeffreys,
    marginal,
    paired,
    resampled,
    thresholds,
)
from lensdata.audit.completeness_model import SmoothModel
from lensdata.catalogue.strata import DEPTH_EDGES_MAG, PSF_EDGES_ARCSEC, bin_index, depth_magnitude
from lensdata.errors import InputError

__all__ = [
    "Cells",
    "Paired",
    "Resamples",
    "SelectionFunction",
    "Threshold",
    "axes_of",
    "cells",
    "check_population",
    "jeffreys",
    "marginal",
    "occupancy",
    "paired",
    "resampled",
    "thresholds",
    "weighted_total",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["grid", "smooth"]

SCHEMA_VERSION = 1
QUERY_ROWS = 4000  # rows of a population evaluated at a time: (rows, resamples) stays at some 10 MB
RECORD = "selection_function.json"
GRID, GRID_RESAMPLES, SMOOTH = "grid.parquet", "grid_resamples.parquet", "smooth.parquet"


def occupancy(psfsize_r: npt.ArrayLike, psfdepth_r: npt.ArrayLike, area: npt.ArrayLike | None = None) -> pd.DataFrame:
    """Shares of the survey's area in the bins of seeing and depth: weights for `weighted_total`.

    Parameters
    ----------
    psfsize_r
        (n,) FWHM in r, arcsec, of bricks or of galaxies drawn evenly over the survey.
    psfdepth_r
        (n,) PSFDEPTH in r, inverse variance of a point source's flux, 1/nanomaggy^2.
    area
        (n,) what each stands for; alike where not given.

    Returns
    -------
    pandas.DataFrame
        ``psf_bin, depth_bin, weight``; weights add up to 1.

    >>> occupancy([1.1, 1.1, 1.3, float("nan")], [800.0, 800.0, 800.0, 800.0])["weight"].round(3).tolist()
    [0.667, 0.333]
    """
    frame = pd.DataFrame({
        "psf_bin": bin_index(psfsize_r, PSF_EDGES_ARCSEC).astype(np.int64),
        "depth_bin": bin_index(depth_magnitude(psfdepth_r), DEPTH_EDGES_MAG).astype(np.int64),
    })  # fmt: skip
    frame["weight"] = 1.0 if area is None else np.asarray(area, np.float64)
    frame = frame[(frame["psf_bin"] >= 0) & (frame["depth_bin"] >= 0)]
    out = frame.groupby(list(CONDITIONS.values()), as_index=False)["weight"].sum()
    return out.assign(weight=out["weight"] / out["weight"].sum())


@dataclass(frozen=True)
class SelectionFunction:
    """Completeness as a function, measured on a grid and smooth.

    Attributes
    ----------
    cells
        The grid; its axes are theta_e, the brightness, psf_bin and depth_bin.
    conditions
        Of ``psf`` (FWHM, arcsec) and ``depth`` (5 sigma, AB mag), per bin: median, least and largest of the bin's hosts, (bins, 3).
    thresholds
        `Resamples.records`.
    model
        The smooth model, if one was fitted.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = pd.DataFrame([(host, theta_e, snr) for host in range(200) for theta_e in (1.0, 2.0) for snr in (10.0, 40.0)],
    ...                     columns=["source_id", "theta_e", "arc_snr"])
    >>> rows = rows.assign(psf_bin=1, depth_bin=2, psf=1.1 + 1e-4 * rows["source_id"], depth=23.7)
    >>> rows["logit"] = rows["theta_e"] + np.log10(rows["arc_snr"]) + rng.normal(size=len(rows))
    >>> drawn = resampled(rows, rng.normal(size=10_000), (1e-2,), resamples=100, seed=1)
    >>> function = SelectionFunction.of(rows, cells(rows, axes_of(rows, "arc_snr"), drawn), drawn)
    >>> function(theta_e=[1.0, 1.5, 9.0], arc_snr=20.0, psf=1.11, depth=23.7, fpr=1e-2).round(2).tolist()
    [0.48, 0.63, nan]
    """

    cells: Cells
    conditions: dict[str, Floats]
    thresholds: list[dict[str, Any]]
    model: SmoothModel | None = None

    @classmethod
    def of(
        cls, rows: pd.DataFrame, found: Cells, drawn: Resamples, model: SmoothModel | None = None
    ) -> SelectionFunction:
        """Put the grid where its hosts are: nodes of seeing and depth are the medians of the hosts of each bin.

        Parameters
        ----------
        rows
            The injections that ``found`` counts, with ``source_id, psf, depth``.
        """
        hosts = rows.drop_duplicates("source_id")
        conditions = {}
        for name, column in CONDITIONS.items():
            empty = sorted(set(found.axes[column].tolist()) - set(hosts.loc[hosts[name].notna(), column].tolist()))
            if empty:
                raise InputError(f"No host in {column} {empty[0]:g} has a {name}; leave the bin out of the axes.")
            groups = [hosts.loc[hosts[column] == number, name].to_numpy(np.float64) for number in found.axes[column]]
            conditions[name] = np.array([[np.nanmedian(one), np.nanmin(one), np.nanmax(one)] for one in groups])
        return cls(found, conditions, drawn.records(), model)

    @property
    def brightness(self) -> str:
        """Name of the axis of brightness: ``arc_snr``, or ``arc_mag`` (AB mag in r, lensed)."""
        return next(name for name in self.cells.axes if name in BRIGHTNESS)

    def __call__(self, *, fpr: float = 1e-3, kind: Kind = "grid", **where: Any) -> Floats:
        """Completeness, of the shape that the arguments broadcast to.

        Parameters
        ----------
        theta_e, psf
            Einstein radius and FWHM in r, arcsec.
        arc_snr, arc_mag
            The one that is an axis: matched-filter S/N of the arc in r, or its lensed magnitude in r.
        depth
            5 sigma depth for a point source in r, AB mag.
        mag_r
            Of the host; the smooth model alone knows it, and averages over the hosts' magnitudes without.
        fpr
            One of the rates that were measured.
        kind
            ``grid``: multilinear between the nodes, in log10 of S/N; in seeing and depth a cell holds to the edge of its hosts.
            NaN outside, and where a cell that is needed has no injection. ``smooth``: the model; NaN outside the data.

        Raises
        ------
        InputError
            An unknown argument or rate, an axis that is missing, or no smooth model.
        """
        level, query, shape = self._asked(fpr, kind, where)
        if kind == "smooth":
            return self._smooth().completeness(level, **query).reshape(shape)
        index, weight = self._corners(query)
        return _interpolated(self.cells.at(level, "completeness"), index, weight).reshape(shape)

    def interval(self, *, fpr: float = 1e-3, kind: Kind = "grid", **where: Any) -> tuple[Floats, Floats]:
        """95% limits, arguments as for the completeness.

        Those of the grid are of resampled hosts and negatives; between nodes the nodes' own limits are interpolated, which is
        somewhat wide, as their errors are not the same.
        """
        level, query, shape = self._asked(fpr, kind, where)
        if kind == "smooth":
            low, high = self._smooth().band(level, **query)
            return low.reshape(shape), high.reshape(shape)
        index, weight = self._corners(query)
        low, high = (_interpolated(self.cells.at(level, name), index, weight) for name in ("low_total", "high_total"))
        return low.reshape(shape), high.reshape(shape)

    def _asked(self, fpr: float, kind: str, where: dict[str, Any]) -> tuple[int, dict[str, Floats], tuple[int, ...]]:
        """Number of the rate, the flat arguments (q,), and the shape of the answer."""
        axes = ("theta_e", self.brightness, "psf", "depth")
        allowed = (*axes, *(("mag_r",) if kind == "smooth" else ()))
        given = {name: value for name, value in where.items() if value is not None}
        for name in given:
            if name not in allowed:
                raise InputError(
                    f"This selection function ({kind}) has no argument {name!r}; it takes {', '.join(allowed)}."
                )
        for name in axes:
            if name not in given:
                raise InputError(f"This selection function needs {name!r}, one of its axes {', '.join(axes)}.")
        if kind not in ("grid", "smooth"):
            raise InputError(f"kind is 'grid' or 'smooth', found {kind!r}.")
        try:
            arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in given.values()))
        except ValueError as error:
            raise InputError(
                f"Arguments {', '.join(given)} are numbers or arrays of shapes that fit: {error}."
            ) from error
        return (
            self._level(fpr),
            {name: array.ravel() for name, array in zip(given, arrays, strict=True)},
            arrays[0].shape,
        )

    def _level(self, fpr: float) -> int:
        for number, one in enumerate(self.thresholds):
            if np.isclose(one["fpr"], fpr, rtol=1e-9, atol=0):
                if one["above"] is None:
                    raise InputError(f"Completeness at FPR {fpr:g} was not measured: {one['reason']}.")
                return number
        known = ", ".join(f"{one['fpr']:g}" for one in self.thresholds)
        raise InputError(f"Completeness was not measured at FPR {fpr}; choose one of {known}.")

    def _smooth(self) -> SmoothModel:
        if self.model is None:
            raise InputError("This selection function has no smooth model; ask for kind='grid'.")
        return self.model

    def _corners(self, query: Mapping[str, Floats]) -> tuple[Ints, Floats]:
        """Cells around each point and their weights, (q, 16) each; weights are NaN outside."""
        lower, fraction, outside = [], [], np.zeros(len(query["theta_e"]), bool)
        for name in ("theta_e", self.brightness, "psf", "depth"):
            values = query[name]
            if name in CONDITIONS:
                nodes, least, largest = self.conditions[name].T
                at, low, high = values, least.min(), largest.max()
            else:
                nodes, at = self.cells.axes[name], values
                if name == "arc_snr":
                    with np.errstate(invalid="ignore", divide="ignore"):
                        nodes, at = np.log10(nodes), np.log10(values)
                low, high = nodes[0], nodes[-1]
            room = 1e-9 * max(abs(low), abs(high))
            outside |= ~((at >= low - room) & (at <= high + room))
            at = np.clip(np.nan_to_num(at, nan=low, neginf=low, posinf=high), nodes[0], nodes[-1])
            left = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, max(0, len(nodes) - 2))
            right = np.minimum(left + 1, len(nodes) - 1)
            width = np.where(right > left, nodes[right] - nodes[left], 1.0)
            lower.append((left, right))
            fraction.append(np.where(width > 0, (at - nodes[left]) / np.where(width > 0, width, 1.0), 0.0))
        index, weight = [], []
        for sides in product((0, 1), repeat=len(lower)):
            places = [pair[side] for pair, side in zip(lower, sides, strict=True)]
            index.append(np.ravel_multi_index(places, self.cells.shape))
            shares = [part if side else 1 - part for part, side in zip(fraction, sides, strict=True)]
            weight.append(np.where(outside, np.nan, np.prod(shares, axis=0)))
        return np.stack(index, axis=1).astype(np.int64), np.stack(weight, axis=1)

    def save(self, folder_uri: str) -> None:
        """Write the grid, its resamples and the model as Parquet, what they are as JSON (last), to a folder or ``s3://``."""
        levels, size = len(self.cells.levels), self.cells.draws.shape[1]
        storage.make_folder(folder_uri)
        _write_table(storage.join(folder_uri, GRID), pa.Table.from_pandas(self.cells.table, preserve_index=False))
        draws = self.cells.draws.reshape(levels * size, -1)
        _write_table(storage.join(folder_uri, GRID_RESAMPLES), pa.table({"completeness": _lists(draws)}))
        if self.model is not None:
            _write_table(storage.join(folder_uri, SMOOTH), self.model.table())
        storage.write_json(storage.join(folder_uri, RECORD), {
            "schema_version": SCHEMA_VERSION,
            "axes": {name: nodes.tolist() for name, nodes in self.cells.axes.items()},
            "conditions": {name: values.tolist() for name, values in self.conditions.items()},
            "thresholds": self.thresholds, "model": None if self.model is None else self.model.record(),
        })  # fmt: skip

    @classmethod
    def load(cls, folder_uri: str) -> SelectionFunction:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            It is not there, or of another version.
        """
        record = storage.read_json(storage.join(folder_uri, RECORD))
        version = record.get("schema_version") if isinstance(record, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{folder_uri} holds a selection function of version {version}, expected {SCHEMA_VERSION}; make it again."
            )
        axes = {name: np.asarray(nodes, np.float64) for name, nodes in record["axes"].items()}
        table = _read_table(storage.join(folder_uri, GRID)).to_pandas(use_threads=False)
        table["hits"] = table["hits"].astype("Int64")
        drawn = _read_table(storage.join(folder_uri, GRID_RESAMPLES))["completeness"].combine_chunks()
        size = int(np.prod([len(nodes) for nodes in axes.values()]))
        draws = drawn.flatten().to_numpy(zero_copy_only=False).reshape(len(record["thresholds"]), size, -1)
        model = None
        if record["model"] is not None:
            model = SmoothModel.restored(record["model"], _read_table(storage.join(folder_uri, SMOOTH)))
        conditions = {name: np.asarray(values, np.float64) for name, values in record["conditions"].items()}
        return cls(Cells(table, draws, axes), conditions, record["thresholds"], model)


def weighted_total(found: Cells | SelectionFunction, weights: pd.DataFrame, kind: Kind = "grid") -> pd.DataFrame:
    """Completeness of a population, C = sum w C / sum w, with its 95% interval from the same resamples.

    Parameters
    ----------
    weights
        Over cells: the four axes and ``weight`` (`occupancy` crossed with a distribution of arcs). Or a population, for a
        selection function: ``theta_e, arc_snr | arc_mag, psf, depth, weight`` (and ``mag_r`` for the smooth model); what has
        ``psf`` and ``depth`` is one.
    kind
        How a population is evaluated.

    Returns
    -------
    pandas.DataFrame
        By ``fpr``: ``completeness, low, high`` of what was measured; shares of the weight ``measured``, ``outside`` (beyond the
        grid or the data) and ``empty`` (needs a cell without injections); ``n_effective``, the independent injections that
        would say as much of the grid. Nothing is extrapolated.

    Raises
    ------
    InputError
        A column is missing, or weights are not finite, negative or all zero.
    """
    grid = found if isinstance(found, Cells) else found.cells
    weight = _checked_weights(weights)
    # a population of galaxies has bins beside its seeing and depth, and does not lie on the nodes
    if set(grid.axes) <= set(weights.columns) and (
        isinstance(found, Cells) or not set(CONDITIONS) <= set(weights.columns)
    ):
        return _total_of_cells(grid, *_over_cells(grid, weights, weight))
    if isinstance(found, Cells):
        raise InputError(
            f"Weights over cells need the columns {', '.join(grid.axes)} and weight, found {list(weights.columns)}."
        )
    check_population(weights, found.brightness)
    names = ["theta_e", found.brightness, "psf", "depth"]
    names += ["mag_r"] if kind == "smooth" and "mag_r" in weights else []
    query = {name: weights[name].to_numpy(np.float64, na_value=np.nan) for name in names}
    if kind == "smooth":
        return _total_of_model(found, query, weight)
    index, corner = found._corners(query)
    inside = np.isfinite(corner).all(axis=1)
    # a point that leans on an empty cell is not measured: its weight must not be handed to the cells beside
    empty = grid.table["n"].to_numpy()[: grid.draws.shape[1]] == 0
    whole = inside & ~((corner > 0) & empty[index]).any(axis=1)
    over = np.bincount(index[whole].ravel(), (corner[whole] * weight[whole, None]).ravel(), len(empty)).astype(
        np.float64
    )
    return _total_of_cells(grid, over, weight.sum(), weight[~inside].sum())


def check_population(population: pd.DataFrame, brightness: str) -> None:
    """Refuse a table that is no population of lenses.

    Raises
    ------
    InputError
        A column is missing or holds no numbers, or weights are not finite, negative or all zero.
    """
    names = ("theta_e", brightness, "psf", "depth", "weight")
    lacking = [name for name in names if name not in population]
    if lacking:
        raise InputError(f"A population needs the columns {', '.join(names)}; it has no {', '.join(lacking)}.")
    for name in names:
        if not pd.api.types.is_numeric_dtype(population[name]):
            raise InputError(f"Column {name!r} of a population holds numbers, found {population[name].dtype}.")
    _checked_weights(population)


def _checked_weights(weights: pd.DataFrame) -> Floats:
    if "weight" not in weights:
        raise InputError(f"A population needs a column 'weight', found {list(weights.columns)}.")
    weight = np.asarray(weights["weight"].to_numpy(np.float64, na_value=np.nan))
    if not len(weight) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.sum() > 0:
        raise InputError("Weights of a population are finite, not negative and not all zero.")
    return weight


def _over_cells(grid: Cells, weights: pd.DataFrame, weight: Floats) -> tuple[Floats, float, float]:
    """Weight of each cell (C,), the sum of all, and what lies on no node."""
    code, inside = np.zeros(len(weights), np.int64), np.ones(len(weights), bool)
    for name, nodes in grid.axes.items():
        values = weights[name].to_numpy(np.float64)
        distance = np.abs(values[:, None] - nodes[None, :])
        nearest = np.argmin(np.nan_to_num(distance, nan=np.inf), axis=1)
        inside &= np.isclose(values, nodes[nearest], rtol=1e-6, atol=1e-9)
        code = code * len(nodes) + nearest
    over = np.bincount(code[inside], weight[inside], int(np.prod(grid.shape))).astype(np.float64)
    return over, float(weight.sum()), float(weight[~inside].sum())


def _total_of_cells(grid: Cells, over: Floats, everything: float, outside: float) -> pd.DataFrame:
    """Totals of weights over cells (C,); ``everything`` is the sum of all weights, ``outside`` what no cell stands for."""
    count = grid.table["n"].to_numpy(np.float64)[: len(over)]
    used = np.where(count > 0, over, 0.0)
    shares = {"measured": used.sum() / everything, "outside": outside / everything}
    shares["empty"] = max(0.0, 1.0 - shares["measured"] - shares["outside"])
    records = []
    for level, fpr in enumerate(grid.levels):
        value = grid.at(level, "completeness")
        if not used.sum() > 0 or np.isnan(value[used > 0]).any():
            records.append(
                {"fpr": fpr, "completeness": np.nan, "low": np.nan, "high": np.nan, **shares, "n_effective": 0.0}
            )
            continue
        share, draws = used[used > 0] / used.sum(), grid.draws[level][used > 0].astype(np.float64)
        value = value[used > 0]
        # a resample without any host of a cell says nothing of it: the sample's own value stands
        drawn = share @ np.where(np.isfinite(draws), draws, value[:, None])
        total, effective = float(share @ value), float(1 / (share**2 / count[used > 0]).sum())
        low, high = np.percentile(drawn, LIMITS)
        floor = jeffreys(total * effective, effective)
        records.append({
            "fpr": fpr, "completeness": total, "low": min(float(low), float(floor[0])), "high": max(float(high), float(floor[1])),
            **shares, "n_effective": effective,
        })  # fmt: skip
    return pd.DataFrame(records)


def _total_of_model(found: SelectionFunction, query: dict[str, Floats], weight: Floats) -> pd.DataFrame:
    """Totals of a population by the smooth model."""
    model, records = found._smooth(), []
    for level, threshold in enumerate(found.thresholds):
        if model.reports[level].get("reason"):
            records.append({"fpr": threshold["fpr"], "measured": 0.0})  # the rest null: there is no fit to say more
            continue
        total, drawn, inside = 0.0, np.zeros(model.resamples), 0.0
        for start in range(0, len(weight), QUERY_ROWS):
            part = {name: values[start : start + QUERY_ROWS] for name, values in query.items()}
            value, draws = model.resampled(level, **part)
            known = np.isfinite(value)
            share = np.where(known, weight[start : start + QUERY_ROWS], 0.0)
            total += float(share @ np.where(known, value, 0.0))
            drawn += share @ np.where(known[:, None], draws, 0.0)
            inside += float(share.sum())
        low, high = np.percentile(drawn / inside, LIMITS) if inside else (np.nan, np.nan)
        records.append({
            "fpr": threshold["fpr"], "completeness": total / inside if inside else np.nan, "low": float(low), "high": float(high),
            "measured": inside / weight.sum(), "outside": 1 - inside / weight.sum(), "empty": 0.0, "n_effective": np.nan,
        })  # fmt: skip
    names = ["fpr", "completeness", "low", "high", "measured", "outside", "empty", "n_effective"]
    return pd.DataFrame(records, columns=names)


def _interpolated(values: Floats, index: Ints, weight: Floats) -> Floats:
    """Weighted sums of ``values`` (C,) over corners (q, 16); a corner of no weight may be empty."""
    return np.asarray(np.where(weight == 0, 0.0, values[index] * weight).sum(axis=1))


def _lists(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _write_table(uri: str, table: pa.Table) -> None:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue())


def _read_table(uri: str) -> pa.Table:
    # one thread: the tables are small, and Arrow's threads, still starting when a short program ends, take it down with them
    return pq.ParquetFile(BytesIO(storage.read_bytes(uri))).read(use_threads=False)
