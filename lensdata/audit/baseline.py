"""What is known of a stamp without its pixels, and a classifier that sees only that (R-E4)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

FEATURES = (
    "mag_g", "mag_r", "mag_z", "gr", "rz", "shape_r", "axis_ratio", "sersic", "nobs_g", "nobs_r", "nobs_z",
    "psfsize_g", "psfsize_r", "psfsize_z", "psfdepth_g", "psfdepth_r", "psfdepth_z", "ebv",
)  # fmt: skip
CATALOGUE = ("mag_g", "mag_r", "mag_z", "gr", "rz", "shape_r", "axis_ratio", "ellipticity", "sersic")
CONDITIONS = ("nobs_", "psfsize_", "psfdepth_", "galdepth_", "ebv", "dec")  # columns that begin so; R-S8
FILE_TEXTS = ("route", "layer", "bands", "kind")
FILE_NUMBERS = ("missing_frac_", "saturated_frac", "edge_score")  # columns that begin so
MOST_VALUES = 20  # of a text column; more are names, not kinds


def observing_conditions(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Exposures, seeing, depth, reddening and declination, as features (n, k); depths as log10 of the inverse variance."""
    numbers = _numbers(rows, CONDITIONS)
    depths = [name for name in numbers if "depth" in name]
    numbers[depths] = np.log10(numbers[depths].where(numbers[depths] > 0))
    return np.asarray(numbers, np.float64)


def catalogue_values(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Magnitudes, colours, shape and morphological type (one column per type), as features (n, k)."""
    return np.concatenate([np.asarray(_numbers(rows, CATALOGUE), np.float64), _one_hot(rows, ("type",))], axis=1)


def file_properties(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """How a stamp came and what its file says, as features (n, k): route, layer, bands, kind, quality, whether a request is known.

    Type and shape of the pixels cannot differ: a reader refuses shards that do.
    """
    parts = [np.asarray(_numbers(rows, FILE_NUMBERS), np.float64), _one_hot(rows, FILE_TEXTS)]
    if "request_hash" in rows:
        parts.append(rows["request_hash"].isna().to_numpy(np.float64)[:, None])
    return np.concatenate(parts, axis=1)


def classifier(seed: int = 0, *, trees: int = 150, learning_rate: float = 0.05) -> HistGradientBoostingClassifier:
    """Gradient boosting for tables of some hundred to some hundred thousand rows; NaN is a value of its own."""
    return HistGradientBoostingClassifier(
        max_iter=trees, learning_rate=learning_rate, max_leaf_nodes=15, random_state=seed
    )


def with_catalogue_score(judged: pd.DataFrame, train: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Add ``catalogue_score``, the probability of being a lens from Tractor columns alone.

    Parameters
    ----------
    judged
        Rows to score; returned unchanged where the manifest has none of `FEATURES` (stamps without a catalogue).
    train
        Manifest rows with ``label`` to learn from.
    """
    features = [name for name in FEATURES if name in train and train[name].notna().any()]
    if not features:
        return judged
    model = classifier(seed).fit(train[features].astype(float), train["label"])
    return judged.assign(catalogue_score=model.predict_proba(judged[features].astype(float))[:, 1])


def _numbers(rows: pd.DataFrame, beginnings: tuple[str, ...]) -> pd.DataFrame:
    """The columns that begin so and hold any number, in sorted order."""
    names = sorted(name for name in rows if name.startswith(beginnings) and pd.api.types.is_numeric_dtype(rows[name]))
    return rows[[name for name in names if rows[name].notna().any()]].astype(np.float64)


def _one_hot(rows: pd.DataFrame, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """A column of zeros and ones per value of text columns, null a value too."""
    parts = [np.zeros((len(rows), 0))]
    for name in names:
        if name in rows:
            codes, values = pd.factorize(rows[name], use_na_sentinel=False, sort=False)
            if 1 < len(values) <= MOST_VALUES:
                parts.append(np.eye(len(values))[codes])
    return np.concatenate(parts, axis=1)
