"""The selection function of a finder from injections: completeness per Einstein radius, brightness, seeing and depth (R-E7).

An injection is an arc put onto a galaxy that the finder has never seen; its completeness is the share of injections whose logit
exceeds a threshold, and the threshold is what held-out negatives give at a fixed false-positive rate. Hosts carry many arcs and
are what is independent: every interval named ``total`` is of resampled hosts *and* negatives together, the same resamples for
every cell, so that sums over cells have intervals too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from lensdata import storage
from lensdata.audit import roc
from lensdata.audit.completeness_model import SmoothModel
from lensdata.audit.intervals import CHUNK_VALUES, multinomial
from lensdata.catalogue.strata import DEPTH_EDGES_MAG, PSF_EDGES_ARCSEC, bin_index, depth_magnitude
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["grid", "smooth"]

SCHEMA_VERSION = 1
FEW = 100  # injections below which a cell is marked; Metcalf et al. 2019 leave such points out
BRIGHTNESS = ("arc_snr", "arc_mag")
CONDITIONS = {"psf": "psf_bin", "depth": "depth_bin"}
LIMITS = [2.5, 97.5]  # percentiles of a 95% interval
QUERY_ROWS = 4000  # rows of a population evaluated at a time: (rows, resamples) stays at some 10 MB
RECORD = "selection_function.json"
GRID, GRID_RESAMPLES, SMOOTH = "grid.parquet", "grid_resamples.parquet", "smooth.parquet"


@dataclass(frozen=True)
class Threshold:
    """The logit to exceed at a false-positive rate.

    Attributes
    ----------
    level
        The false-positive rate.
    allowed
        False positives that it allows among ``n_negative``.
    above
        The logit to exceed; None with a ``reason`` where the rate allows nothing.
    """

    level: float
    allowed: int
    n_negative: int
    above: float | None
    reason: str = ""


@dataclass(frozen=True)
class Resamples:
    """Hosts and negatives resampled together; everything that is summed or compared uses the same.

    Attributes
    ----------
    thresholds
        Of the sample itself, one per false-positive rate (L).
    above
        (L, B) the logit to exceed in each resample; NaN where the rate allows nothing.
    hosts
        (H,) ``source_id``, ascending.
    weights
        (B, H) uint8, how often each resample drew each host.
    """

    thresholds: tuple[Threshold, ...]
    above: Floats
    hosts: Ints
    weights: npt.NDArray[np.uint8]

    @property
    def size(self) -> int:
        """Number of resamples, B."""
        return len(self.weights)

    def place(self, rows: pd.DataFrame) -> Ints:
        """Number of each row's host, (n,).

        Raises
        ------
        InputError
            A host was not among those that were resampled.
        """
        wanted = rows["source_id"].to_numpy(np.int64)
        found = np.minimum(np.searchsorted(self.hosts, wanted), len(self.hosts) - 1)
        unknown = np.unique(wanted[self.hosts[found] != wanted])
        if len(unknown):
            raise InputError(
                f"{len(unknown)} hosts of these injections, first {unknown[0]}, were not resampled; resample them all."
            )
        return np.asarray(found, np.int64)

    def records(self) -> list[dict[str, Any]]:
        """``fpr, allowed, n_negative, above, low, high`` of each threshold with its 95% limits, null with a ``reason``."""
        found = []
        for threshold, drawn in zip(self.thresholds, self.above, strict=True):
            limits = np.percentile(drawn, LIMITS).tolist() if threshold.above is not None else [None, None]
            found.append({
                "fpr": threshold.level, "allowed": threshold.allowed, "n_negative": threshold.n_negative,
                "above": threshold.above, "low": limits[0], "high": limits[1], "reason": threshold.reason,
            })  # fmt: skip
        return found


@dataclass(frozen=True)
class Cells:
    """Completeness of every cell of a grid.

    Attributes
    ----------
    table
        Level by level, one row per cell: ``fpr``, the axes, ``n, hosts, hits, completeness``; ``low, high`` (Jeffreys: of
        the injections at a fixed threshold); ``low_total, high_total`` (of resampled hosts and negatives, no narrower); ``few``.
    draws
        (L, C, B) float32, completeness in each resample; NaN where a cell has no injections or a rate no threshold.
    axes
        Nodes of each axis by name, in the order of the table (last axis fastest).
    """

    table: pd.DataFrame
    draws: npt.NDArray[np.float32]
    axes: dict[str, Floats]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of nodes of each axis; their product is C."""
        return tuple(len(nodes) for nodes in self.axes.values())

    @property
    def levels(self) -> list[float]:
        """False-positive rates, as in the table."""
        return [float(level) for level in pd.unique(self.table["fpr"])]

    def at(self, level: int, column: str) -> Floats:
        """(C,) a column of the table at one of the rates."""
        size = self.draws.shape[1]
        part = self.table[column].iloc[level * size : (level + 1) * size]
        return np.asarray(part.to_numpy(np.float64, na_value=np.nan))


def thresholds(negatives: npt.ArrayLike, fpr_levels: Sequence[float]) -> tuple[Threshold, ...]:
    """The logit to exceed at each false-positive rate, as `lensdata.audit.roc` counts: at most so many negatives do.

    Parameters
    ----------
    negatives
        (m,) logits of held-out negatives.

    Raises
    ------
    InputError
        There are none, one is not finite, or a rate is not between 0 and 1.

    >>> [(one.allowed, one.above, one.reason) for one in thresholds([5.0, 4.0, 3.0, 2.0], (0.5, 0.1))]
    [(2, 3.0, ''), (0, None, 'this rate allows no false positive among 4 negatives')]
    """
    logits = np.sort(_checked_negatives(negatives))[::-1]
    found = []
    for level in fpr_levels:
        if not 0 < level < 1:
            raise InputError(f"A false-positive rate lies between 0 and 1, found {level}.")
        allowed = roc.allowed(level, len(logits))
        reason = "" if allowed else f"this rate allows no false positive among {len(logits)} negatives"
        above = float(logits[allowed]) if allowed else None
        found.append(Threshold(float(level), allowed, len(logits), above, reason))
    return tuple(found)


def resampled(
    rows: pd.DataFrame,
    negatives: npt.ArrayLike,
    fpr_levels: Sequence[float],
    resamples: int,
    seed: int,
    groups: npt.ArrayLike | None = None,
) -> Resamples:
    """Draw hosts and negatives together.

    Hosts are drawn within their bin of seeing and depth, as the experiment chose them, so that no resample lacks a bin.

    Parameters
    ----------
    rows
        ``source_id, psf_bin, depth_bin`` of injections.
    negatives
        (m,) logits of held-out negatives.
    groups
        (m,) patch of sky of each negative; patches are then drawn as a whole.

    Raises
    ------
    InputError
        There are no injections, or a host is in two bins.
    """
    found = thresholds(negatives, fpr_levels)
    hosts = rows[["source_id", *CONDITIONS.values()]].drop_duplicates().sort_values("source_id")
    twice = int(hosts["source_id"].duplicated().sum())
    if twice or not len(hosts):
        raise InputError(
            f"{len(rows)} injections have {twice} hosts in two bins of seeing or depth; a host has one of each."
        )
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(hosts)), np.uint8)
    bins = hosts.groupby(list(CONDITIONS.values()), sort=True, dropna=False).ngroup().to_numpy()
    for number in np.unique(bins):
        members = np.flatnonzero(bins == number)
        step = max(1, CHUNK_VALUES // len(members))
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            weights[start : start + size, members] = multinomial(rng, np.ones(len(members), np.int64), size)
    above = _resampled_thresholds(rng, _checked_negatives(negatives), groups, found, resamples)
    return Resamples(found, above, hosts["source_id"].to_numpy(np.int64), weights)


def _checked_negatives(negatives: npt.ArrayLike) -> Floats:
    logits = np.asarray(negatives, np.float64)
    if logits.ndim != 1 or not len(logits) or not np.isfinite(logits).all():
        raise InputError(
            f"Thresholds need finite logits of negatives, found shape {logits.shape}; score negatives first."
        )
    return logits


def _resampled_thresholds(
    rng: np.random.Generator, logits: Floats, groups: npt.ArrayLike | None, found: Sequence[Threshold], resamples: int
) -> Floats:
    """(L, B) the logit to exceed in each resample of the negatives."""
    measured = [number for number, one in enumerate(found) if one.above is not None]
    above = np.full((len(found), resamples), np.nan)
    if not measured:
        return above
    if groups is None:
        rarest_first = sorted(measured, key=lambda number: found[number].allowed)
        above[rarest_first] = _of_single(
            rng, np.sort(logits)[::-1], [found[n].allowed for n in rarest_first], resamples
        )
    else:
        above[measured] = _of_patches(rng, logits, np.asarray(groups), [found[n].level for n in measured], resamples)
    return above


def _of_single(rng: np.random.Generator, descending: Floats, allowed: Sequence[int], resamples: int) -> Floats:
    """Thresholds of resampled negatives without resampling them; (len(allowed), B), ``allowed`` ascending.

    A resample is m draws of a place in the sorted list; the k-th smallest of m uniform numbers is beta(k, m - k + 1), and the
    next one wanted follows in the same way in the interval above it (David & Nagaraja 2003, Order Statistics, 2.5).
    """
    size, before, at = len(descending), 0, np.zeros(resamples)
    found = []
    for count in allowed:
        rank = count + 1
        if rank > before:
            at = at + (1 - at) * rng.beta(rank - before, size - rank + 1, resamples)
            before = rank
        found.append(descending[np.minimum((at * size).astype(np.int64), size - 1)])
    return np.stack(found)


def _of_patches(
    rng: np.random.Generator, logits: Floats, groups: npt.NDArray[Any], levels: Sequence[float], resamples: int
) -> Floats:
    """Thresholds of negatives resampled by whole patches of sky; (len(levels), B)."""
    _, patch, members = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(-logits, kind="stable")
    # few of the highest decide: twice as many as any rate allows, more where a resample needs them
    reach = min(len(logits), 2 * roc.allowed(max(levels), len(logits)) + 1000)
    found = np.empty((len(levels), resamples))
    for number in range(resamples):
        weight = multinomial(rng, np.ones(len(members), np.int64), 1)[0]
        allowed = [roc.allowed(level, int(weight @ members)) for level in levels]
        passed = np.cumsum(weight[patch[order[:reach]]])
        while passed[-1] <= max(allowed):
            reach = min(2 * reach, len(logits))
            passed = np.cumsum(weight[patch[order[:reach]]])
        found[:, number] = logits[order[np.searchsorted(passed, allowed, side="right")]]
    return found


def axes_of(rows: pd.DataFrame, brightness: str) -> dict[str, Floats]:
    """Nodes of the four axes: the values that occur.

    Raises
    ------
    InputError
        A column is missing.
    """
    names = ("theta_e", brightness, *CONDITIONS.values())
    for name in names:
        if name not in rows:
            raise InputError(f"Injections have no column {name!r}, an axis of the selection function.")
    return {name: np.unique(rows[name].dropna().to_numpy(np.float64)) for name in names}


def cells(rows: pd.DataFrame, axes: Mapping[str, npt.ArrayLike], drawn: Resamples) -> Cells:
    """Completeness of every cell, those without injections too.

    Parameters
    ----------
    rows
        Injections: ``source_id, logit`` and the axes; rows with a null in one are left out.
    axes
        Nodes by name (`axes_of`).

    Raises
    ------
    InputError
        A row does not lie on the nodes.
    """
    nodes = {name: np.asarray(values, np.float64) for name, values in axes.items()}
    known = rows[list(nodes)].notna().all(axis=1).to_numpy(bool)
    rows = rows[known]
    shape = tuple(len(values) for values in nodes.values())
    places = [_on_nodes(name, rows[name].to_numpy(np.float64), values) for name, values in nodes.items()]
    code = np.ravel_multi_index(places, shape).astype(np.int64) if len(rows) else np.empty(0, np.int64)
    where = pd.DataFrame(list(product(*nodes.values())), columns=list(nodes))
    for name in CONDITIONS.values():
        if name in where:
            where[name] = where[name].astype(np.int64)
    table, draws = _completeness(rows, code, where, drawn)
    return Cells(table, draws, nodes)


def marginal(
    rows: pd.DataFrame, by: Sequence[str], drawn: Resamples, edges: Mapping[str, Sequence[float]] | None = None
) -> pd.DataFrame:
    """The figures of `Cells.table` by one or two columns, for the values that occur.

    Parameters
    ----------
    by
        Columns; ``theta_e_fwhm`` is theta_e / psf.
    edges
        Of the bins of continuous columns, the last one closed: the table then has ``<name>_low`` and ``<name>_high``. Rows
        outside, and rows with a null, are left out.
    """
    values: dict[str, npt.NDArray[Any]] = {}
    for name in by:
        column = rows["theta_e"] / rows["psf"] if name == "theta_e_fwhm" else rows[name]
        if name not in (edges or {}):
            values[name] = column.to_numpy()
            continue
        borders = np.asarray((edges or {})[name], np.float64)
        number = np.searchsorted(borders, column.to_numpy(np.float64), side="right") - 1
        number[column.to_numpy(np.float64) == borders[-1]] = len(borders) - 2
        inside = (number >= 0) & (number < len(borders) - 1)
        for side, shift in (("low", 0), ("high", 1)):
            limit = borders[np.clip(number, 0, len(borders) - 2) + shift]
            values[f"{name}_{side}"] = np.where(inside, limit, np.nan)
    keys = pd.DataFrame(values, index=rows.index)
    known = keys.notna().all(axis=1).to_numpy(bool)
    groups = keys[known].groupby(list(values), sort=True)
    where = groups.size().index.to_frame(index=False)
    return _completeness(rows[known], groups.ngroup().to_numpy(np.int64), where, drawn)[0]


def _on_nodes(name: str, values: Floats, nodes: Floats) -> Ints:
    """Node of each value."""
    right = np.minimum(np.searchsorted(nodes, values), len(nodes) - 1)
    left = np.maximum(right - 1, 0)
    place = np.where(np.abs(values - nodes[left]) <= np.abs(values - nodes[right]), left, right)
    off = ~np.isclose(values, nodes[place], rtol=1e-6, atol=1e-9)
    if off.any():
        raise InputError(
            f"{int(off.sum())} injections have {name} off the nodes {nodes.tolist()}, first {values[off][0]:g}."
        )
    return np.asarray(place, np.int64)


def _completeness(
    rows: pd.DataFrame, code: Ints, where: pd.DataFrame, drawn: Resamples
) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    """Figures of the cells that ``code`` (n,) numbers and ``where`` (C rows) describes, and their resamples (L, C, B)."""
    order = np.argsort(rows["logit"].to_numpy(np.float64), kind="stable")
    logit, code = rows["logit"].to_numpy(np.float64)[order], code[order]
    if not np.isfinite(logit).all():
        raise InputError(f"{int((~np.isfinite(logit)).sum())} injections have no finite logit; score them all first.")
    host = drawn.place(rows)[order]
    size, levels = len(where), len(drawn.thresholds)
    count = np.bincount(code, minlength=size)
    hosts = np.bincount(np.unique(code * len(drawn.hosts) + host) // len(drawn.hosts), minlength=size)
    # the rows found are the last ones of the sorted list, so that a resample costs one pass over all and one over those
    first = np.searchsorted(logit, np.nan_to_num(drawn.above, nan=np.inf), side="right")
    draws = np.full((levels, size, drawn.size), np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        for number in range(drawn.size):
            weight = drawn.weights[number][host].astype(np.float64)
            total = np.bincount(code, weight, size)
            for level in range(levels):
                start = first[level, number]
                draws[level, :, number] = np.bincount(code[start:], weight[start:], size) / total
    parts = []
    for level, threshold in enumerate(drawn.thresholds):
        hits = np.full(size, np.nan)
        if threshold.above is None:
            draws[level] = np.nan
        else:
            hits[:] = np.bincount(code[np.searchsorted(logit, threshold.above, side="right") :], minlength=size)
        figures = _figures(np.where(count > 0, hits, np.nan), count, draws[level])
        given = {"n": count, "hosts": hosts, "hits": pd.array(hits, dtype="Int64")}
        head = where.reset_index(drop=True)
        head.insert(0, "fpr", threshold.level)
        parts.append(pd.concat([head, pd.DataFrame(given | figures | {"few": count < FEW})], axis=1))
    return pd.concat(parts, ignore_index=True), draws


def _figures(hits: Floats, count: Ints, draws: npt.NDArray[np.float32]) -> dict[str, Floats]:
    """Completeness with its intervals; (C,) each, NaN where ``hits`` is."""
    known = np.isfinite(hits)
    low, high = jeffreys(hits, count)
    low_total, high_total = low.copy(), high.copy()
    if known.any():
        # a resample cannot show what the sample never did (none found, all found): never narrower than the binomial interval
        limits = np.nanpercentile(draws[known].astype(np.float64), LIMITS, axis=1)
        low_total[known] = np.minimum(low[known], limits[0])
        high_total[known] = np.maximum(high[known], limits[1])
    value = np.where(known, hits, np.nan) / np.maximum(count, 1)
    return {"completeness": value, "low": low, "high": high, "low_total": low_total, "high_total": high_total}


def jeffreys(successes: npt.ArrayLike, trials: npt.ArrayLike) -> tuple[Floats, Floats]:
    """95% Jeffreys limits of fractions, as `intervals.binomial` but of arrays; NaN where a number is, or without trials.

    Neither need be whole: an effective number of trials has limits as well.

    >>> low, high = jeffreys([0, 5, 1], [10, 10, 0])
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.224, nan], [0.217, 0.776, nan])
    """
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    known = np.isfinite(k) & (n > 0)
    safe_k, safe_n = np.where(known, k, 0.0), np.where(known, n, 1.0)
    low, high = stats.beta.ppf(np.array([[0.025], [0.975]]), safe_k.ravel() + 0.5, (safe_n - safe_k).ravel() + 0.5)
    low, high = low.reshape(k.shape), high.reshape(k.shape)
    return (
        np.where(known, np.where(safe_k <= 0, 0.0, low), np.nan),
        np.where(known, np.where(safe_k >= safe_n, 1.0, high), np.nan),
    )


@dataclass(frozen=True)
class Paired:
    """What the arc itself did to the logit of its host.

    Attributes
    ----------
    deltas
        ``quantity, theta_e, n, median, low, high``: median difference of two logits of one injection with its 95% interval
        over resampled hosts, over all (``theta_e`` NaN) and by Einstein radius.
    levels
        By ``fpr``: ``n``, and with limits ``_low, _high``: ``with_arc`` (completeness), ``without_arc`` (share of the same
        hosts that exceed the threshold as they are), ``scrambled``, and ``net``: completeness among the others.
    """

    deltas: pd.DataFrame
    levels: pd.DataFrame


DELTAS = {
    "arc - host": ("logit", "logit_host"),
    "scrambled - host": ("logit_scrambled", "logit_host"),
    "arc - scrambled": ("logit", "logit_scrambled"),
}


def paired(rows: pd.DataFrame, drawn: Resamples) -> Paired:
    """Differences of the logits of host, host + arc and host + scrambled arc, and completeness beyond what hosts do alone.

    Parameters
    ----------
    rows
        ``source_id, theta_e, logit, logit_host, logit_scrambled``; a difference is of the rows that have both logits.
    """
    host = drawn.place(rows)
    theta_e = rows["theta_e"].to_numpy(np.float64)
    deltas = []
    for quantity, (one, two) in DELTAS.items():
        if one not in rows or two not in rows:
            continue
        values = rows[one].to_numpy(np.float64) - rows[two].to_numpy(np.float64)
        known = np.isfinite(values)
        parts = [(np.nan, known), *((node, known & (theta_e == node)) for node in np.unique(theta_e[known]))]
        for node, members in parts:
            if members.any():
                found = _median(values[members], host[members], drawn)
                deltas.append({"quantity": quantity, "theta_e": node, "n": int(members.sum()), **found})
    return Paired(pd.DataFrame(deltas), pd.DataFrame(list(_shares(rows, host, drawn))))


def _median(values: Floats, host: Ints, drawn: Resamples) -> dict[str, float]:
    """Median with its interval over resampled hosts: half of the resampled weight lies at or below it."""
    order = np.argsort(values, kind="stable")
    ordered, host = values[order], host[order]
    found = []
    for weights in drawn.weights:
        passed = np.cumsum(weights[host], dtype=np.int64)
        if passed[-1]:
            found.append(ordered[np.searchsorted(passed, 0.5 * passed[-1])])
    low, high = np.percentile(found, LIMITS)
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def _shares(rows: pd.DataFrame, host: Ints, drawn: Resamples) -> Iterator[dict[str, Any]]:
    """Shares above each threshold with and without the arc."""
    known = {
        name: rows[name].to_numpy(np.float64) for name in ("logit", "logit_host", "logit_scrambled") if name in rows
    }
    whole = np.isfinite(np.stack(list(known.values()))).all(axis=0)
    logits, host = {name: values[whole] for name, values in known.items()}, host[whole]
    for level, threshold in enumerate(drawn.thresholds):
        record: dict[str, Any] = {"fpr": threshold.level, "n": int(whole.sum())}
        if threshold.above is None or not whole.any():
            yield record | {"reason": threshold.reason or "no injection has all of its logits"}
            continue
        value = _shares_above(logits, threshold.above, np.ones(len(host)))
        draws: dict[str, list[float]] = {name: [] for name in value}
        for number in range(drawn.size):
            found = _shares_above(logits, drawn.above[level, number], drawn.weights[number][host].astype(np.float64))
            for name, share in found.items():
                draws[name].append(share)
        for name, share in value.items():
            limits = np.nanpercentile(draws[name], LIMITS)
            floor = jeffreys(share * whole.sum(), whole.sum())
            low, high = min(limits[0], float(floor[0])), max(limits[1], float(floor[1]))
            record |= {name: share, f"{name}_low": float(low), f"{name}_high": float(high)}
        yield record | {"reason": ""}


def _shares_above(logits: Mapping[str, Floats], above: float, weight: Floats) -> dict[str, float]:
    found = {name: values > above for name, values in logits.items()}
    total = max(float(weight.sum()), 1.0)
    shares = {"with_arc": float(weight @ found["logit"]) / total}
    if "logit_host" in found:
        alone = found["logit_host"]
        others = float(weight @ ~alone)
        shares["without_arc"] = float(weight @ alone) / total
        shares["net"] = float(weight @ (found["logit"] & ~alone)) / others if others else float("nan")
    if "logit_scrambled" in found:
        shares["scrambled"] = float(weight @ found["logit_scrambled"]) / total
    return shares


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
        table = _read_table(storage.join(folder_uri, GRID)).to_pandas()
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
        selection function: ``theta_e, arc_snr | arc_mag, psf, depth, weight`` (and ``mag_r`` for the smooth model).
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
    if set(grid.axes) <= set(weights.columns):
        return _total_of_cells(grid, *_over_cells(grid, weights, weight))
    if isinstance(found, Cells):
        raise InputError(
            f"Weights over cells need the columns {', '.join(grid.axes)} and weight, found {list(weights.columns)}."
        )
    names = [
        "theta_e",
        found.brightness,
        "psf",
        "depth",
        *(["mag_r"] if kind == "smooth" and "mag_r" in weights else []),
    ]
    lacking = [name for name in names if name not in weights]
    if lacking:
        raise InputError(
            f"A population needs the columns {', '.join(names)} and weight; it has no {', '.join(lacking)}."
        )
    query = {name: weights[name].to_numpy(np.float64) for name in names}
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


def _checked_weights(weights: pd.DataFrame) -> Floats:
    if "weight" not in weights:
        raise InputError(f"A population needs a column 'weight', found {list(weights.columns)}.")
    weight = np.asarray(weights["weight"].to_numpy(np.float64))
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
        total, drawn, inside = 0.0, np.zeros(model.resamples), 0.0
        for start in range(0, len(weight), QUERY_ROWS) if threshold["above"] is not None else ():
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
    return pd.DataFrame(records)


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
    return pq.read_table(BytesIO(storage.read_bytes(uri)))
