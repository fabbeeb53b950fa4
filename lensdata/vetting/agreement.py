"""How far graders agree with each other and with what is known: kappa, and the recall of the controls."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.audit.intervals import Interval, binomial, multinomial, percentiles, widened
from lensdata.vetting.grades import GRADES, Standing
from lensdata.vetting.items import CONTROLS
from lensdata.vetting.session import Session

RESAMPLES = 2000
FEWEST_RESAMPLES = 200
DRAWN_MAX = 4_000_000  # counts of all resamples; many graders of a long list hardly ever say the same of two stamps
UNGRADED = -1

Codes = npt.NDArray[np.int64]  # (stamps, graders): place in GRADES, or UNGRADED
Floats = npt.NDArray[np.float64]


def summary(session: Session, standing: Standing) -> dict[str, Any]:
    """All that is said at the end, ready for JSON; figures that cannot be had are None."""
    graders = sorted(name for name, grades in standing.grades.items() if grades)
    codes, control = codes_of(session, standing, graders), np.asarray(session.items["control"].to_pylist(), object)
    listed = codes[control == None]  # noqa: E711 - elementwise
    return {
        "stamps": len(session),
        "controls": {sort: int((control == sort).sum()) for sort in CONTROLS},
        "graders": [
            _of_grader(name, codes[:, place], control, standing) for place, name in enumerate(graders)
        ],
        "agreement": agreement(codes, graders),
        "agreement_without_controls": agreement(listed, graders) if len(listed) < len(codes) else None,
    }  # fmt: skip


def codes_of(session: Session, standing: Standing, graders: list[str]) -> Codes:
    """What each grader says of each stamp, in the order of the list."""
    place = {name: code for code, name in enumerate(GRADES)}
    out = np.full((len(session), len(graders)), UNGRADED, np.int64)
    rows = {int(key): row for row, key in enumerate(session.cutout_ids)}
    for column, name in enumerate(graders):
        for key, line in standing.grades[name].items():
            out[rows[key], column] = place[str(line.grade)]
    return out


def agreement(codes: Codes, graders: list[str]) -> dict[str, Any] | None:
    """Cohen's kappa of each pair of graders and, of more than two, the mean over pairs (Light 1971); None for one grader."""
    if len(graders) < 2:
        return None
    patterns, counts = np.unique(codes, axis=0, return_counts=True)
    resamples = int(np.clip(DRAWN_MAX // max(len(counts), 1), FEWEST_RESAMPLES, RESAMPLES))
    drawn = multinomial(np.random.default_rng(0), counts, resamples) if len(codes) else np.zeros((0, 0), np.int64)
    pairs, resampled = [], []
    for one, two in itertools.combinations(range(len(graders)), 2):
        tables = contingency(patterns[:, [one, two]], np.vstack([counts[None], drawn]))
        values = kappa(tables)
        resampled.append(values[1:])
        found = _interval(values[0], values[1:], tables[0])
        pairs.append({"graders": [graders[one], graders[two]], "n": int(tables[0].sum()), **found})
    mean = None
    if len(pairs) > 1 and all(pair["value"] is not None for pair in pairs):
        values = np.mean(resampled, axis=0)
        low, high = percentiles(values[np.isfinite(values)]) if np.isfinite(values).any() else (None, None)
        mean = {"value": float(np.mean([pair["value"] for pair in pairs])), "low": low, "high": high}
    return {"pairs": pairs, "mean": mean}


def contingency(patterns: Codes, counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How often two graders said what of the stamps that both graded: (resamples, grades, grades).

    Parameters
    ----------
    patterns
        (patterns, 2) what the two say.
    counts
        (resamples, patterns) stamps with that pattern.
    """
    both = (patterns != UNGRADED).all(axis=1)
    out = np.zeros((len(counts), len(GRADES) ** 2), np.int64)
    cells = patterns[both, 0] * len(GRADES) + patterns[both, 1]
    for cell, column in zip(cells, counts[:, both].T, strict=True):
        out[:, cell] += column
    return out.reshape(len(counts), len(GRADES), len(GRADES))


def kappa(tables: npt.ArrayLike) -> Floats:
    """Cohen's kappa of contingency tables (..., k, k); nan where both use one and the same grade only, or without stamps.

    Cohen 1960, Educ. Psychol. Meas. 20, 37.

    >>> round(float(kappa([[20, 5], [10, 15]])), 2)
    0.4
    """
    counts = np.asarray(tables, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / counts.sum(axis=(-2, -1), keepdims=True)
        observed = np.trace(share, axis1=-2, axis2=-1)
        expected = (share.sum(axis=-1) * share.sum(axis=-2)).sum(axis=-1)
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def _interval(value: float, drawn: Floats, table: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """Percentiles over resampled stamps, at least as wide as the Jeffreys interval of the observed agreement makes it.

    Where all grades agree every resample says 1, and nothing of how sure that is.
    """
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    stamps, same = int(table.sum()), int(np.trace(table))
    expected = float((table.sum(axis=0) * table.sum(axis=1)).sum() / stamps**2)
    floor = binomial(same, stamps)
    low, high = ((limit - expected) / (1 - expected) for limit in (floor.low, floor.high))
    found = Interval(float(value), *percentiles(drawn[np.isfinite(drawn)])) if np.isfinite(drawn).any() else None
    limits = Interval(float(value), low, high)
    return asdict(widened(found, limits) if found else limits)


def _of_grader(name: str, codes: Codes, control: npt.NDArray[np.object_], standing: Standing) -> dict[str, Any]:
    seconds = [line.seconds for line in standing.grades[name].values()]
    out: dict[str, Any] = {"name": name, "graded": int((codes != UNGRADED).sum())}
    out |= {grade: int((codes == place).sum()) for place, grade in enumerate(GRADES)}
    out["median_seconds"] = float(np.median(seconds))
    lens, maybe = GRADES.index("lens"), GRADES.index("maybe")
    for sort in CONTROLS:
        own = codes[(control == sort) & (codes != UNGRADED)]
        out[f"controls_{sort}"] = {
            "n": len(own),
            "as_lens": _share(int((own == lens).sum()), len(own)),
            "as_lens_or_maybe": _share(int(np.isin(own, (lens, maybe)).sum()), len(own)),
        }
    return out


def _share(successes: int, trials: int) -> dict[str, float | None]:
    found = asdict(binomial(successes, trials))
    return found if trials else {"value": None, "low": None, "high": None}
