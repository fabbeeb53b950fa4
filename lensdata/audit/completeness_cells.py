"""Completeness of injections, cell by cell: thresholds, hosts and negatives resampled together, pairs (R-E7).

Hosts carry many arcs and are what is independent: every interval named ``total`` is of resampled hosts *and* negatives
together, the same resamples for every cell, so that sums over cells have intervals too. Where a host is four times in a cell,
Jeffreys' interval holds the truth in 83 to 86% of cells and the total one in 95% (tests/unit/audit/test_completeness_coverage.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lensdata.audit import roc
from lensdata.audit.intervals import CHUNK_VALUES, multinomial
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW = 100  # injections below which a cell is marked; Metcalf et al. 2019 leave such points out
BRIGHTNESS = ("arc_snr", "arc_mag")
CONDITIONS = {"psf": "psf_bin", "depth": "depth_bin"}
LIMITS = [2.5, 97.5]  # percentiles of a 95% interval


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
