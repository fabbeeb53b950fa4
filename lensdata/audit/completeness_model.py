"""A smooth selection function: logistic regression on penalised splines, with bands (R-E7).

logit C = f(ln theta_E/FWHM, brightness) + g(host magnitude) + h(depth) + products of the last two with the first two; f is a
tensor product of cubic B-splines, brightness is log10 of the arc's S/N or its magnitude. Second differences of neighbouring
coefficients are penalised (Eilers & Marx 1996, Statist. Sci. 11, 89), so that where the data say little the logit goes on straight.
Nothing forces it to rise with brightness or Einstein radius; whether it does is reported. Evaluating needs numpy and SciPy alone.

Bands hold the truth on average over the surface, not at every point. They are least to be trusted where completeness is below 0.01
or above 0.99: there a band is narrower than what the form of the model gets wrong, some thousandths
(tests/unit/audit/test_completeness_coverage.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy.interpolate import BSpline
from scipy.linalg import block_diag, cho_factor, cho_solve
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency

from lensdata.errors import InputError

if TYPE_CHECKING:
    from lensdata.audit.completeness_cells import Resamples

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DEGREE = 3
INTERVALS = {"theta_e_fwhm": 5, "brightness": 5, "mag_r": 4, "depth": 3}  # of the splines, over the range of the data
PENALTIES = tuple(10.0**power for power in range(-2, 5))
UNDERSMOOTHED = 0.1
"""Of the best penalty: the best mean error lets bias grow as large as the scatter, and no resample shows a bias (Hall 1992,
Ann. Statist. 20, 675). What it takes and gives is measured in tests/unit/audit/test_completeness_coverage.py."""
RIDGE = 1e-5  # keeps coefficients that no injection touches finite; a thousandth of what one injection weighs
FOLDS = 5
BLOCK_ROWS = 8192  # rows of a pass: a few MB, so that the products stay in the cache
BLOCK_RESAMPLES = 50
THRESHOLD_GROUPS = 16  # fits at as many thresholds, from which the resamples step
MAG_NODES = 9  # quantiles of the hosts' magnitudes that stand for all of them
MIN_OF_EACH = 50  # injections found, and not found, that a fit needs
MIN_HOSTS = 20  # that a fit needs: fewer leave folds without any, and say nothing about their spread
FEW = 100  # injections of a cell whose residual is looked at, at least


@dataclass(frozen=True)
class Basis:
    """Where the splines have their knots.

    Attributes
    ----------
    brightness
        ``arc_snr`` or ``arc_mag``.
    ranges
        Least and largest of each quantity in the data: ``theta_e, psf, theta_e_fwhm, brightness, mag_r, depth``; the last four
        as the splines take them (`coordinates`).
    intervals
        Between knots, by term; 0 where the data have one value only.
    """

    brightness: str
    ranges: dict[str, tuple[float, float]]
    intervals: dict[str, int]

    @classmethod
    def over(cls, brightness: str, values: dict[str, Floats], theta_e: Floats, psf: Floats) -> Basis:
        """Knots over the range of the data."""
        quantities = {"theta_e": theta_e, "psf": psf, **values}
        ranges = {name: (float(numbers.min()), float(numbers.max())) for name, numbers in quantities.items()}
        intervals = {
            name: min(most, len(np.unique(values[name])) - 1) if ranges[name][1] > ranges[name][0] else 0
            for name, most in INTERVALS.items()
        }
        return cls(brightness, ranges, intervals)

    def coordinates(self, theta_e: Floats, psf: Floats, brightness: Floats) -> tuple[Floats, Floats]:
        """ln(theta_E / FWHM), and log10 of an S/N or the magnitude as it is."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(theta_e / psf), np.log10(brightness) if self.brightness == "arc_snr" else brightness

    def spline(self, term: str, values: Floats) -> Floats:
        """B-splines of a term, (n, intervals + 3); ones where it has one value only. Values are held inside the range."""
        if not self.intervals[term]:
            return np.ones((len(values), 1))
        low, high = self.ranges[term]
        step = (high - low) / self.intervals[term]
        knots = low + step * np.arange(-DEGREE, self.intervals[term] + DEGREE + 1)
        # rounding of the last inner knot must not leave the largest value outside of it
        inside = np.clip(values, knots[DEGREE], knots[-DEGREE - 1])
        return np.asarray(BSpline.design_matrix(inside, knots, DEGREE).toarray())

    def design(self, ratio: Floats, brightness: Floats, mag_r: Floats, depth: Floats) -> Floats:
        """All columns, (n, p): the surface, the terms of the host and their products."""
        hosts = self.host("mag_r", mag_r), self.host("depth", depth)
        return np.concatenate(
            [self.surface(ratio, brightness), *hosts, self.crossed(ratio, brightness, mag_r, depth)], axis=1
        )

    def surface(self, ratio: Floats, brightness: Floats) -> Floats:
        """Columns of f, (n, p_f); they add up to 1, so that f holds the constant as well."""
        one, two = self.spline("theta_e_fwhm", ratio), self.spline("brightness", brightness)
        return (one[:, :, None] * two[:, None, :]).reshape(len(one), -1)

    def host(self, term: str, values: Floats) -> Floats:
        """Columns of g or h, (n, p_g); without the first, which the constant in f stands for."""
        return self.spline(term, values)[:, 1:]

    def crossed(self, ratio: Floats, brightness: Floats, mag_r: Floats, depth: Floats) -> Floats:
        """Products of the host's magnitude and depth with theta_E/FWHM and brightness, (n, 4), all scaled to -1 to 1."""
        given = {"theta_e_fwhm": ratio, "brightness": brightness, "mag_r": mag_r, "depth": depth}
        scaled = {}
        for name, values in given.items():
            low, high = self.ranges[name]
            scaled[name] = (2 * values - low - high) / (high - low) if self.intervals[name] else np.zeros(len(values))
        pairs = ((host, arc) for host in ("mag_r", "depth") for arc in ("theta_e_fwhm", "brightness"))
        return np.stack([scaled[host] * scaled[arc] for host, arc in pairs], axis=1)

    def penalties(self) -> tuple[Floats, Floats]:
        """Penalty matrices of f and of g and h together, (p, p) each."""
        one, two = self._roughness("theta_e_fwhm"), self._roughness("brightness")
        surface = np.kron(one, np.eye(len(two))) + np.kron(np.eye(len(one)), two)
        hosts = [self._roughness(term)[1:, 1:] for term in ("mag_r", "depth")]
        hosts.append(np.zeros((len(("mag_r", "depth")) * 2,) * 2))
        empty = [np.zeros_like(part) for part in (surface, *hosts)]
        return block_diag(surface, *empty[1:]), block_diag(empty[0], *hosts)

    def _roughness(self, term: str) -> Floats:
        size = self.intervals[term] + DEGREE if self.intervals[term] else 1
        if size < 3:
            return np.zeros((size, size))
        differences = np.diff(np.eye(size), n=2, axis=0)
        return np.asarray(differences.T @ differences)


@dataclass(frozen=True)
class SmoothModel:
    """Completeness as a smooth function, at each false-positive rate.

    Attributes
    ----------
    mag_nodes
        Quantiles of the hosts' magnitudes, averaged over where no magnitude is given.
    fpr
        (L,) rates.
    coefficients
        (L, p); NaN at a rate that could not be fitted.
    draws
        (L, B, p) float32 coefficients of the resamples.
    reports
        Of each rate: penalties, goodness and monotonicity (`fit`), or a ``reason``.
    """

    basis: Basis
    mag_nodes: Floats
    fpr: tuple[float, ...]
    coefficients: Floats
    draws: npt.NDArray[np.float32]
    reports: list[dict[str, Any]]

    @property
    def resamples(self) -> int:
        """Number of resamples, B."""
        return int(self.draws.shape[1])

    def completeness(self, level: int, **where: Floats) -> Floats:
        """Completeness (q,) at ``theta_e, psf, depth``, the brightness and perhaps ``mag_r``, (q,) each; NaN outside the data."""
        return self._evaluated(level, self.coefficients[level][None], where)[:, 0]

    def resampled(self, level: int, **where: Floats) -> tuple[Floats, Floats]:
        """Completeness (q,) and that of every resample (q, B)."""
        return self.completeness(level, **where), self._evaluated(level, self.draws[level].astype(np.float64), where)

    def band(self, level: int, **where: Floats) -> tuple[Floats, Floats]:
        """95% limits, (q,) each."""
        size = len(where["theta_e"])
        low, high = np.full(size, np.nan), np.full(size, np.nan)
        for start in range(0, size, 2000):
            part = slice(start, start + 2000)
            drawn = self._evaluated(
                level, self.draws[level].astype(np.float64), {name: values[part] for name, values in where.items()}
            )
            low[part], high[part] = np.percentile(drawn, [2.5, 97.5], axis=1)
        return low, high

    def _evaluated(self, level: int, coefficients: Floats, where: dict[str, Floats]) -> Floats:
        """Completeness (q, draws) for coefficients (draws, p)."""
        if self.reports[level].get("reason"):
            raise InputError(
                f"The smooth model has no fit at FPR {self.fpr[level]:g}: {self.reports[level]['reason']}."
            )
        theta_e, psf, depth = where["theta_e"], where["psf"], where["depth"]
        ratio, brightness = self.basis.coordinates(theta_e, psf, where[self.basis.brightness])
        checked = {"theta_e": theta_e, "psf": psf, "theta_e_fwhm": ratio, "brightness": brightness, "depth": depth}
        if "mag_r" in where:
            checked["mag_r"] = where["mag_r"]
        inside = np.ones(len(theta_e), bool)
        for name, values in checked.items():
            low, high = self.basis.ranges[name]
            room = 1e-9 * max(abs(low), abs(high), 1.0)
            inside &= (values >= low - room) & (values <= high + room)
        held = {name: np.where(inside, values, self.basis.ranges[name][0]) for name, values in checked.items()}
        mags = [held["mag_r"]] if "mag_r" in where else [np.full(len(theta_e), mag) for mag in self.mag_nodes]
        value = np.zeros((len(theta_e), len(coefficients)))
        for mag_r in mags:
            design = self.basis.design(held["theta_e_fwhm"], held["brightness"], mag_r, held["depth"])
            value += expit(design @ coefficients.T) / len(mags)
        return np.where(inside[:, None], value, np.nan)

    def record(self) -> dict[str, Any]:
        """All but the coefficients, for JSON."""
        return {
            "brightness": self.basis.brightness, "ranges": {name: list(pair) for name, pair in self.basis.ranges.items()},
            "intervals": self.basis.intervals, "mag_nodes": self.mag_nodes.tolist(), "fpr": list(self.fpr), "reports": self.reports,
        }  # fmt: skip

    def table(self) -> pa.Table:
        """Coefficients: per rate one row for the sample (``resample`` -1) and one for each resample."""
        both = np.concatenate([self.coefficients[:, None], self.draws.astype(np.float64)], axis=1)
        levels, rows, size = both.shape
        return pa.table({
            "fpr": np.repeat(np.asarray(self.fpr), rows), "resample": np.tile(np.arange(-1, rows - 1), levels),
            "coefficients": pa.FixedSizeListArray.from_arrays(pa.array(both.ravel()), size),
        })  # fmt: skip

    @classmethod
    def restored(cls, record: dict[str, Any], table: pa.Table) -> SmoothModel:
        """The model that `record` and `table` describe."""
        ranges = {name: (float(low), float(high)) for name, (low, high) in record["ranges"].items()}
        basis = Basis(record["brightness"], ranges, record["intervals"])
        values = table["coefficients"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        both = values.reshape(len(record["fpr"]), table.num_rows // len(record["fpr"]), -1)
        fpr = tuple(record["fpr"])
        return cls(
            basis, np.asarray(record["mag_nodes"]), fpr, both[:, 0], both[:, 1:].astype(np.float32), record["reports"]
        )


def fit(rows: pd.DataFrame, brightness: str, drawn: Resamples, seed: int = 0) -> SmoothModel:
    """Fit the model at every rate of ``drawn``, with the bands that its resamples of hosts and negatives give.

    Parameters
    ----------
    rows
        Injections: ``source_id, theta_e, psf, depth, mag_r, logit``, the brightness, and perhaps ``psf_bin, depth_bin`` (cells).
        Rows with a null in any are left out and counted.
    brightness
        ``arc_snr`` or ``arc_mag``.

    Returns
    -------
    SmoothModel
        Its ``reports`` hold, per rate: ``n, n_left_out, hosts, hits``; ``penalties`` of the surface and of the terms of the
        host; ``log_loss`` of ``model``, ``cells`` (their own rates) and ``constant``, held out by host;
        ``calibration_slope`` of the held-out logits (1 is right); ``largest_residual`` over the ``cells_checked``, those of
        at least `FEW`, in binomial standard deviations; ``falls``: see `_falls`. Or a ``reason``.

    Raises
    ------
    InputError
        A column is missing, or no row is whole.
    """
    sample, data, cell = _prepared(rows, brightness, drawn, seed)
    coefficients, draws, reports = [], [], []
    for level, threshold in enumerate(drawn.thresholds):
        head = {
            "fpr": threshold.level, "n": len(data), "n_left_out": len(rows) - len(data),
            "hosts": len(np.unique(sample.host)),
        }  # fmt: skip
        # One thread: blocks of rows are too little work for several, and on a busy machine those wait for each other
        with threadpool_limits(1):
            fitted = _fit_level(sample, level, drawn, cell, seed)
        coefficients.append(fitted.coefficients)
        draws.append(fitted.draws)
        reports.append(head | fitted.report)
    levels = tuple(threshold.level for threshold in drawn.thresholds)
    of_hosts = data["mag_r"].groupby(sample.host).first().to_numpy()
    mag_nodes = np.quantile(of_hosts, (np.arange(MAG_NODES) + 0.5) / MAG_NODES)
    model = SmoothModel(
        sample.basis, mag_nodes, levels, np.stack(coefficients), np.stack(draws).astype(np.float32), reports
    )
    for level, report in enumerate(reports):
        if not report.get("reason"):
            report["falls"] = _falls(model, level, data)
    return model


@dataclass(frozen=True)
class _Sample:
    """Rows of a fit, folds of hosts one after the other: design (n, p), logits and hosts (n,), rows of each fold (FOLDS,).

    ``prior`` (m, p) are nodes at each of which half an injection counts as found and half as missed, beside the rows: as in
    Jeffreys' prior. Where none was found, the logit would else run off, and a normal draw about it mean nothing.
    """

    design: Floats
    logits: Floats
    host: Ints
    folds: Ints
    basis: Basis
    prior: Floats

    def slices(self) -> list[slice]:
        """Rows of each fold."""
        stops = np.cumsum(self.folds)
        return [slice(int(stop - size), int(stop)) for stop, size in zip(stops, self.folds, strict=True)]


def _prepared(rows: pd.DataFrame, brightness: str, drawn: Resamples, seed: int) -> tuple[_Sample, pd.DataFrame, Ints]:
    """The whole rows as a fit takes them, their quantities in the same order, and the number of each one's cell."""
    names = ["theta_e", brightness, "psf", "depth", "mag_r", "logit"]
    lacking = [name for name in names if name not in rows]
    if lacking:
        raise InputError(f"The smooth model needs the column {lacking[0]!r} of the injections.")
    values = rows[names].to_numpy(np.float64, na_value=np.nan)
    good = np.isfinite(values).all(axis=1) & (values[:, :3] > 0).all(axis=1)
    if not good.any():
        raise InputError(f"None of {len(rows)} injections has all of {', '.join(names)}; the smooth model needs them.")
    host = drawn.place(rows)
    fold = np.random.default_rng(seed).permutation(len(drawn.hosts)) % FOLDS
    # folds of hosts lie together: one pass over the rows then gives the sums of each
    order = np.flatnonzero(good)[np.argsort(fold[host[good]], kind="stable")]
    data = pd.DataFrame(values[order], columns=names)
    theta_e, psf = data["theta_e"].to_numpy(), data["psf"].to_numpy()
    ratio, bright = Basis(brightness, {}, {}).coordinates(theta_e, psf, data[brightness].to_numpy())
    mag_r, depth = data["mag_r"].to_numpy(), data["depth"].to_numpy()
    basis = Basis.over(
        brightness, {"theta_e_fwhm": ratio, "brightness": bright, "mag_r": mag_r, "depth": depth}, theta_e, psf
    )
    design = basis.design(ratio, bright, mag_r, depth)
    nodes = data[["theta_e", brightness]].drop_duplicates().to_numpy()
    typical = [np.full(len(nodes), float(np.median(values))) for values in (psf, mag_r, depth)]
    prior = basis.design(*basis.coordinates(nodes[:, 0], typical[0], nodes[:, 1]), *typical[1:])
    sample = _Sample(
        design, data["logit"].to_numpy(), host[order], np.bincount(fold[host[order]], minlength=FOLDS), basis, prior
    )
    cell_columns = [name for name in ("theta_e", brightness, "psf_bin", "depth_bin") if name in rows]
    cell = rows.iloc[order][cell_columns].groupby(cell_columns, dropna=False).ngroup().to_numpy()
    return sample, data, cell


@dataclass(frozen=True)
class _Sums:
    """What one pass over the rows gives per fold: curvature (F, p, p), gradient (F, p) and log likelihood (F,)."""

    curvature: Floats
    gradient: Floats
    likelihood: Floats


@dataclass(frozen=True)
class _Fitted:
    coefficients: Floats
    draws: Floats
    report: dict[str, Any]


def _fit_level(sample: _Sample, level: int, drawn: Resamples, cell: Ints, seed: int) -> _Fitted:
    """Fit one rate."""
    size, threshold = sample.design.shape[1], drawn.thresholds[level]
    nothing = np.full(size, np.nan), np.full((drawn.size, size), np.nan)
    if threshold.above is None:
        return _Fitted(*nothing, {"reason": threshold.reason})
    found = (sample.logits > threshold.above).astype(np.float64)
    hits = int(found.sum())
    if min(hits, len(found) - hits) < MIN_OF_EACH:
        reason = f"{hits} of {len(found)} injections are found; a fit needs {MIN_OF_EACH} found and as many not"
        return _Fitted(*nothing, {"hits": hits, "reason": reason})
    hosts = len(np.unique(sample.host))
    if hosts < MIN_HOSTS:
        return _Fitted(
            *nothing, {"hits": hits, "reason": f"{hosts} hosts carry all injections; a fit needs {MIN_HOSTS}"}
        )
    start = np.zeros(size)
    start[: sample.basis.surface(np.zeros(1), np.zeros(1)).shape[1]] = logit(found.mean())
    penalties = _choose_penalties(sample, found, start)
    penalty = _penalty(sample.basis, penalties)
    coefficients, _ = _newton(sample, found, penalty, start, range(FOLDS))
    draws = _draws(sample, drawn, level, coefficients, penalty, seed)
    report = {"hits": hits, "penalties": {"surface": penalties[0], "host": penalties[1]}}
    return _Fitted(coefficients, draws, report | _goodness(sample, found, coefficients, penalty, cell))


def _penalty(basis: Basis, strengths: tuple[float, float]) -> Floats:
    surface, host = basis.penalties()
    return np.asarray(strengths[0] * surface + strengths[1] * host + RIDGE * np.eye(len(surface)))


def _choose_penalties(sample: _Sample, found: Floats, start: Floats) -> tuple[float, float]:
    """Strengths with the least log loss on hosts left out, `UNDERSMOOTHED`: of the surface, then of the terms of the host.

    Not REML: that takes rows for independent, and what hosts have in common would pass for structure in the terms of the
    host. A fold's own fit is one Newton step from that of all, which costs no pass over the rows and ranks penalties as whole
    fits do.
    """
    strengths, at = [1.0, 1.0], start
    for term in (0, 1):
        losses = []
        for strength in PENALTIES[::-1]:  # from stiff to loose, each starting where the last one ended
            strengths[term] = strength
            penalty = _penalty(sample.basis, (strengths[0], strengths[1]))
            at, sums = _newton(sample, found, penalty, at, range(FOLDS))
            total = sums.curvature.sum(axis=0) + penalty
            loss = 0.0
            for fold, rows in enumerate(sample.slices()):
                left = at - cho_solve(cho_factor(total - sums.curvature[fold]), sums.gradient[fold])
                loss += _log_loss(sample.design[rows] @ left, found[rows])
            losses.append(loss)
        strengths[term] = PENALTIES[::-1][int(np.argmin(losses))]
    return UNDERSMOOTHED * strengths[0], UNDERSMOOTHED * strengths[1]


def _newton(
    sample: _Sample, found: Floats, penalty: Floats, start: Floats, folds: range | list[int]
) -> tuple[Floats, _Sums]:
    """Coefficients that maximise the penalised likelihood of these folds, and the sums there."""
    at, best, step = start, -np.inf, np.zeros_like(start)
    for _ in range(60):
        sums = _pass(sample, found, at, folds)
        value = sums.likelihood.sum() - 0.5 * at @ penalty @ at
        if value < best - 1e-9 * abs(best):
            step = 0.5 * step
            at = at - step
            continue
        gradient = sums.gradient.sum(axis=0) - penalty @ at
        best, step = value, cho_solve(cho_factor(sums.curvature.sum(axis=0) + penalty), gradient)
        if gradient @ step < 1e-4:  # what is left to gain is far below what one injection says
            return at, sums
        at = at + step
    raise InputError("The smooth model did not converge; leave out columns that have hardly any spread.")


def _pass(sample: _Sample, found: Floats, at: Floats, folds: range | list[int]) -> _Sums:
    size, slices = len(at), sample.slices()
    curvature, gradient, likelihood = np.zeros((FOLDS, size, size)), np.zeros((FOLDS, size)), np.zeros(FOLDS)
    for fold in folds:
        for start in range(slices[fold].start, slices[fold].stop, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, slices[fold].stop))
            part = sample.design[rows]
            linear = part @ at
            chance = expit(linear)
            gradient[fold] += part.T @ (found[rows] - chance)
            scaled = part * np.sqrt(chance * (1 - chance))[:, None]
            curvature[fold] += scaled.T @ scaled
            likelihood[fold] -= _log_loss(linear, found[rows])
        linear = sample.prior @ at  # a fold has its share of it
        chance = expit(linear)
        gradient[fold] += sample.prior.T @ (0.5 - chance) / FOLDS
        curvature[fold] += (sample.prior.T * (chance * (1 - chance))) @ sample.prior / FOLDS
        likelihood[fold] -= _log_loss(linear, np.full(len(linear), 0.5)) / FOLDS
    return _Sums(curvature, gradient, likelihood)


def _draws(sample: _Sample, drawn: Resamples, level: int, coefficients: Floats, penalty: Floats, seed: int) -> Floats:
    """Coefficients of every resample, (B, p).

    Resamples of like thresholds have a fit of their own, of all hosts at the middle one: a threshold that is badly known moves
    small completenesses by factors, which no straight line from the sample's fit does. From there a resample is one Newton step.
    """
    random = np.random.default_rng(seed).normal(size=(len(coefficients), drawn.size))
    out = np.empty((drawn.size, len(coefficients)))
    order, at = np.argsort(drawn.above[level], kind="stable"), coefficients
    for members in np.array_split(order, min(THRESHOLD_GROUPS, drawn.size)):
        middle = drawn.above[level, members[len(members) // 2]]
        found = (sample.logits > middle).astype(np.float64)
        at, sums = _newton(sample, found, penalty, at, range(FOLDS))
        out[members] = _steps(sample, drawn, level, members, at, sums, penalty, random[:, members])
    return out


def _steps(
    sample: _Sample,
    drawn: Resamples,
    level: int,
    members: Ints,
    coefficients: Floats,
    sums: _Sums,
    penalty: Floats,
    random: Floats,
) -> Floats:
    """Coefficients of some resamples, (b, p): one Newton step from a fit near all of them.

    A resample has other weights of hosts and another threshold; its gradient at the fit says where its own lies (the score
    bootstrap of Kline & Santos 2012, J. Econometric Methods 1, 23). What the penalty flattens no resample shows, so a
    normal draw of the smoothing bias is added, the difference between the Bayesian and the sampling covariance of the
    coefficients: with it bands cover on average over the surface (Nychka 1988; Marra & Wood 2012, Scand. J. Statist. 39, 53).
    """
    factor = cho_factor(sums.curvature.sum(axis=0) + penalty)
    of_prior = sample.prior.T @ (0.5 - expit(sample.prior @ coefficients))
    gradient = np.repeat(of_prior[:, None], len(members), axis=1)
    for start in range(0, len(sample.design), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        part = sample.design[rows]
        chance = expit(part @ coefficients)[:, None]
        for first in range(0, len(members), BLOCK_RESAMPLES):
            chosen = members[first : first + BLOCK_RESAMPLES]
            found = sample.logits[rows, None] > drawn.above[level, chosen]
            weight = drawn.weights[chosen].T[sample.host[rows]]
            gradient[:, first : first + BLOCK_RESAMPLES] += part.T @ (weight * (found - chance))
    steps = cho_solve(factor, gradient - (penalty @ coefficients)[:, None])
    # residuals are smaller than errors by what the fit has used up, which with few hosts shows
    used = float(np.trace(cho_solve(factor, sums.curvature.sum(axis=0))))
    hosts = len(np.unique(sample.host))
    steps *= np.sqrt(hosts / max(hosts - used, 1.0))
    values, vectors = np.linalg.eigh(penalty)
    bias = cho_solve(factor, vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * random))
    return np.asarray((coefficients[:, None] + steps + bias).T)


def _goodness(sample: _Sample, found: Floats, coefficients: Floats, penalty: Floats, cell: Ints) -> dict[str, Any]:
    """How well hosts are predicted that a fit has not seen."""
    linear, of_cells, constant = np.empty(len(found)), np.empty(len(found)), np.empty(len(found))
    cells = int(cell.max()) + 1
    for fold, rows in enumerate(sample.slices()):
        others = [number for number in range(FOLDS) if number != fold]
        linear[rows] = sample.design[rows] @ _newton(sample, found, penalty, coefficients, others)[0]
        seen = np.ones(len(found), bool)
        seen[rows] = False
        hits, count = np.bincount(cell[seen], found[seen], cells), np.bincount(cell[seen], minlength=cells)
        of_cells[rows] = logit((hits + 0.5) / (count + 1.0))[cell[rows]]
        constant[rows] = logit(found[seen].mean())
    chance, count = expit(linear), np.bincount(cell, minlength=cells)
    spread = np.sqrt(np.bincount(cell, chance * (1 - chance), cells))
    large = (count >= FEW) & (spread > 0)
    residual = np.bincount(cell, found - chance, cells)[large] / spread[large]
    losses = {"model": linear, "cells": of_cells, "constant": constant}
    return {
        "log_loss": {name: _log_loss(values, found) / len(found) for name, values in losses.items()},
        "calibration_slope": _slope(linear, found),
        "largest_residual": float(residual[np.argmax(np.abs(residual))]) if large.any() else None,
        "cells_checked": int(large.sum()),
    }


def _slope(linear: Floats, found: Floats) -> float:
    """Slope of a logistic regression of what was found on predicted logits."""
    columns, at = np.stack([np.ones_like(linear), linear], axis=1), np.array([0.0, 1.0])
    for _ in range(25):
        chance = expit(columns @ at)
        step = np.linalg.solve((columns * (chance * (1 - chance))[:, None]).T @ columns, columns.T @ (found - chance))
        at = at + step
        if np.abs(step).max() < 1e-8:
            break
    return float(at[1])


def _falls(model: SmoothModel, level: int, data: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Where completeness falls with Einstein radius or with brightness, between the nodes, at the hosts' median conditions.

    Returns
    -------
    dict
        Of ``theta_e`` and ``brightness``: ``largest_drop`` in completeness between neighbouring nodes, its ``largest_drop_low``
        (2.5% of the resamples: above 0 the drop is real, at one node) and the share of steps that fall, ``share``.
    """
    basis = model.basis
    nodes = [np.unique(data[name].to_numpy()) for name in ("theta_e", basis.brightness)]
    if basis.brightness == "arc_mag":
        nodes[1] = nodes[1][::-1]  # from faint to bright
    theta_e, bright = np.meshgrid(*nodes, indexing="ij")
    where = {"theta_e": theta_e.ravel(), basis.brightness: bright.ravel()}
    where |= {name: np.full(theta_e.size, float(data[name].median())) for name in ("psf", "depth")}
    value, draws = model.resampled(level, **where)
    value, draws = value.reshape(theta_e.shape), draws.reshape(*theta_e.shape, -1)
    out = {}
    for axis, name in enumerate(("theta_e", "brightness")):
        drop, drop_draws = -np.diff(value, axis=axis), -np.diff(draws, axis=axis)
        if not np.isfinite(drop).any():
            continue
        worst = np.unravel_index(np.nanargmax(drop), drop.shape)
        out[name] = {
            "largest_drop": max(0.0, float(drop[worst])),
            "largest_drop_low": float(np.percentile(drop_draws[worst], 2.5)),
            "share": float((drop[np.isfinite(drop)] > 1e-6).mean()),
        }
    return out


def _log_loss(linear: Floats, found: Floats) -> float:
    """Sum of -log likelihood of what was found, given logits."""
    return float((np.logaddexp(0.0, linear) - found * linear).sum())
