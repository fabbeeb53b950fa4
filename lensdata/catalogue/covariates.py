"""Do positives and negatives differ in what is no lensing? Every covariate compared, overall and per stratum (R-S8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lensdata.audit import intervals, roc
from lensdata.catalogue.strata import STRATA, depth_magnitude
from lensdata.tables import BANDS

Floats = npt.NDArray[np.float64]
MIN_OBJECTS = 5  # of each class; fewer say nothing about a distribution
KS_95 = 1.358  # times sqrt((n1 + n0) / (n1 n0)): the 95% point of the two-sample KS distance under equal parents


@dataclass(frozen=True)
class Covariate:
    """One column, or what follows from it."""

    name: str
    title: str
    unit: str
    values: Callable[[pd.DataFrame], Floats]
    observing: bool = False  # a condition of the observation, not a property of the galaxy

    @property
    def label(self) -> str:
        """Title with unit, for axes."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def _column(name: str) -> Callable[[pd.DataFrame], Floats]:
    return lambda sample: sample[name].to_numpy(np.float64, na_value=np.nan)


def _depth(name: str) -> Callable[[pd.DataFrame], Floats]:
    return lambda sample: depth_magnitude(sample[name].to_numpy(np.float64, na_value=np.nan))


def _sersic(sample: pd.DataFrame) -> Floats:
    """Fitted for SER only; the other models have a fixed index."""
    return np.where(sample["type"] == "SER", sample["sersic"].to_numpy(np.float64, na_value=np.nan), np.nan)


COVARIATES = (
    *(Covariate(f"psfsize_{b}", f"PSF FWHM, {b}", "arcsec", _column(f"psfsize_{b}"), True) for b in BANDS),
    *(Covariate(f"psfdepth_{b}", f"point-source depth, {b}", "mag, 5σ", _depth(f"psfdepth_{b}"), True) for b in BANDS),
    *(Covariate(f"galdepth_{b}", f"galaxy depth, {b}", "mag, 5σ", _depth(f"galdepth_{b}"), True) for b in BANDS),
    *(Covariate(f"nobs_{b}", f"exposures, {b}", "", _column(f"nobs_{b}"), True) for b in BANDS),
    Covariate("dec", "declination", "deg", _column("dec"), True),
    Covariate("ebv", "E(B-V)", "mag", _column("ebv"), True),
    *(Covariate(f"mag_{b}", b, "mag", _column(f"mag_{b}")) for b in BANDS),
    Covariate("gr", "g - r", "mag", _column("gr")),
    Covariate("rz", "r - z", "mag", _column("rz")),
    Covariate("shape_r", "half-light radius", "arcsec", _column("shape_r")),
    Covariate("ellipticity", "ellipticity 1 - b/a", "", _column("ellipticity")),
    Covariate("sersic", "Sérsic index, SER only", "", _sersic),
)
BY_NAME = {covariate.name: covariate for covariate in COVARIATES}


def ks_distance(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Largest difference of the two cumulative distributions (Kolmogorov-Smirnov).

    >>> ks_distance([1, 2], [3, 4])
    1.0
    """
    first, second = np.sort(np.asarray(one, np.float64)), np.sort(np.asarray(two, np.float64))
    at = np.concatenate([first, second])
    below = [np.searchsorted(values, at, side="right") / len(values) for values in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def compare(values: npt.ArrayLike, label: npt.ArrayLike) -> dict[str, Any] | None:
    """How the positives' values differ from the negatives'; None where a class has fewer than `MIN_OBJECTS`.

    Returns
    -------
    dict
        ``ks`` and the distance that chance alone exceeds in 5% of cases, ``auc`` (the fraction of pairs in which the
        positive has the larger value: 0.5 is no difference), medians and counts.
    """
    numbers, labels = np.asarray(values, np.float64), np.asarray(label) == 1
    known = np.isfinite(numbers)
    positives, negatives = numbers[known & labels], numbers[known & ~labels]
    if min(len(positives), len(negatives)) < MIN_OBJECTS:
        return None
    gaps = intervals.compress(labels[known], numbers[known])
    return {
        "ks": ks_distance(positives, negatives),
        "ks_chance_95": KS_95 * float(np.sqrt(1 / len(positives) + 1 / len(negatives))),
        "auc": float(roc.auc(gaps.roc())),
        "median_positive": float(np.median(positives)),
        "median_negative": float(np.median(negatives)),
        "n_positive": len(positives),
        "n_negative": len(negatives),
    }


def compare_all(sample: pd.DataFrame) -> dict[str, dict[str, dict[str, Any] | None]]:
    """`compare` of every covariate for ``all`` objects and for each stratum that has any: {covariate: {where: numbers}}."""
    strata = [name for name in STRATA if (sample["stratum"] == name).any()]
    masks = {"all": np.ones(len(sample), bool)} | {name: (sample["stratum"] == name).to_numpy() for name in strata}
    label = sample["label"].to_numpy()
    out: dict[str, dict[str, dict[str, Any] | None]] = {}
    for covariate in COVARIATES:
        values = covariate.values(sample)
        out[covariate.name] = {where: compare(values[mask], label[mask]) for where, mask in masks.items()}
    return out
