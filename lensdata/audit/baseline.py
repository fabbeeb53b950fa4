"""A classifier that sees no pixel: what the catalogue alone gives away (R-E4)."""

from __future__ import annotations

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

FEATURES = (
    "mag_g", "mag_r", "mag_z", "gr", "rz", "shape_r", "axis_ratio", "sersic", "nobs_g", "nobs_r", "nobs_z",
    "psfsize_g", "psfsize_r", "psfsize_z", "psfdepth_g", "psfdepth_r", "psfdepth_z", "ebv",
)  # fmt: skip


def classifier(
    seed: int = 0, *, trees: int = 150, learning_rate: float = 0.05, class_weight: str | None = None
) -> HistGradientBoostingClassifier:
    """Gradient boosting for tables of some hundred to some hundred thousand rows; NaN is a value of its own."""
    return HistGradientBoostingClassifier(
        max_iter=trees, learning_rate=learning_rate, max_leaf_nodes=15, random_state=seed, class_weight=class_weight
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
