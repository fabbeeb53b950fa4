"""What a finder looks at: from its logits of changed stamps to curves and verdicts (R-E5). It runs no model.

The logits come from ``ray_train.probe``. Limits without a requirement are this project's own and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lensdata.audit import intervals, roc
from lensdata.audit.paired import PairedSample, paired_bootstrap
from lensdata.audit.regions import MAD_TO_SIGMA
from lensdata.errors import InputError

Floats = npt.NDArray[np.float64]
UNTOUCHED = "none"
FPR = 1e-2  # of the fixed threshold
CORE_RADIUS = 7.0  # pixels; core reliance, R-E5
SHIFT_PIXELS = 3  # of the probe "shift"
SMALLEST_CLASS = 20  # lenses or others, for a verdict
MUST_DROP = ("arc_azimuthal", "scramble")  # probes that take away what makes a lens
SHARE_LOST = 0.10  # of the AUC above 0.5; less of a drop is hardly the shape's doing
OF_SPREAD = "of the others' spread (1.4826 MAD)"
OWN, REQUIRED = "this project's own limit", "the protocol's limit (R-E5)"


@dataclass(frozen=True)
class Limit:
    """A value below ``passed`` passes, below ``warned`` warns; where it comes from."""

    passed: float
    warned: float
    source: str

    def verdict(self, value: float) -> str:
        """PASS, WARN or FAIL."""
        return "PASS" if value < self.passed else "WARN" if value < self.warned else "FAIL"


CORE_RELIANCE = Limit(0.03, 0.05, REQUIRED)
BACKGROUND = Limit(0.55, 0.60, "the limit of a gate on the background")
VIEW_SPREAD = Limit(0.25, 0.50, OWN)
DRIFT = Limit(0.10, 0.25, OWN)


def wide(probes: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One column per (probe, level), one row per stamp, with ``label`` as index beside ``cutout_id``.

    Parameters
    ----------
    probes
        Table ``probes``: ``cutout_id, probe, level, logit``.
    rows
        ``cutout_id, label`` of the manifest.

    Raises
    ------
    InputError
        A probed stamp is not in the manifest, or a probe is missing for a stamp.
    """
    table = probes.pivot(index="cutout_id", columns=["probe", "level"], values="logit")
    label = rows.set_index("cutout_id")["label"].reindex(table.index)
    if label.isna().any():
        raise InputError(
            f"{int(label.isna().sum())} of {len(table)} probed stamps are not in the manifest; probe the stamps of this manifest."
        )
    if table.isna().any(axis=None):
        raise InputError(
            f"{int(table.isna().any(axis=1).sum())} of {len(table)} probed stamps lack a probe; probe again."
        )
    table.index = pd.MultiIndex.from_arrays([table.index, label.astype(int)], names=["cutout_id", "label"])
    return table.astype(np.float64)


def curves(table: pd.DataFrame, resamples: int, seed: int) -> list[dict[str, Any]]:
    """What every change does to the AUC, and to lenses and others at a fixed threshold.

    Parameters
    ----------
    table
        Of `wide`.

    Returns
    -------
    list of dict
        ``probe, level, auc`` (value, low, high), ``auc_lost`` against the untouched stamps (paired; value, low, high, p_value),
        ``completeness`` and ``false_positive_rate`` at the threshold where the untouched others have FPR 1e-2 (with intervals),
        ``false_positives_allowed`` there, ``median_change_lens`` and ``median_change_other`` of the logit. Of the probes in
        `MUST_DROP` also ``share_lost``, of the AUC above 0.5 (value, low, high; null where the untouched AUC may be 0.5). With
        fewer than 100 others FPR 1e-2 allows no false positive: completeness and false-positive rate are null, with a ``reason``.
    """
    label = table.index.get_level_values("label").to_numpy()
    plain = table[(UNTOUCHED, 0.0)].to_numpy()
    counts = roc.compress(label, plain)
    threshold, allowed = roc.threshold_at_fpr(counts, FPR), roc.allowed(FPR, counts.n_negative)
    out = []
    for (probe, level), logit in table.items():
        values = logit.to_numpy()
        found = intervals.bootstrap(roc.compress(label, values), (), resamples, seed)["auc"]
        entry: dict[str, Any] = {
            "probe": probe,
            "level": float(level),
            "auc": _plain(found),
            "false_positives_allowed": allowed,
        }
        if not allowed:
            entry["reason"] = f"FPR {FPR:g} allows no false positive among {counts.n_negative} others"
        if probe != UNTOUCHED:
            lost = paired_bootstrap(label, plain, values, (), resamples, seed)["auc"]
            entry["auc_lost"] = _plain(lost) | {"p_value": lost.p_value}
        if probe in MUST_DROP:
            entry["share_lost"] = _share_lost(label, plain, values, resamples, seed)
        for name, kind in (("completeness", 1), ("false_positive_rate", 0)):
            own = values[label == kind]
            entry[name] = _plain(intervals.binomial(int((own >= threshold).sum()), len(own))) if allowed else None
            entry[f"median_change_{'lens' if kind else 'other'}"] = float(np.median(own - plain[label == kind]))
        out.append(entry)
    return out


def _share_lost(
    label: npt.NDArray[np.int64], plain: Floats, changed: Floats, resamples: int, seed: int
) -> dict[str, float] | None:
    """Share of the AUC above 0.5 that a change takes, on resamples that hold the same stamps before and after."""
    sample = PairedSample.of(label, plain, changed)
    whole = sample.curves(sample.positives.counts, sample.negatives.counts)
    before, after = (float(roc.auc(curve)) for curve in whole)
    drawn = [np.stack([roc.auc(one), roc.auc(two)]) for one, two in sample.resampled(resamples, seed)]
    befores, afters = np.concatenate(drawn, axis=1)
    if intervals.percentiles(befores)[0] <= 0.5:
        return None
    low, high = intervals.percentiles((befores - afters) / np.maximum(befores - 0.5, np.finfo(float).eps))
    return {"value": (before - after) / (before - 0.5), "low": low, "high": high}


def verdicts(
    table: pd.DataFrame, found: Sequence[dict[str, Any]], pixscale_arcsec: float | None = None
) -> list[dict[str, Any]]:
    """PASS, WARN or FAIL of what the curves show.

    Parameters
    ----------
    table, found
        Of `wide` and of `curves`.
    pixscale_arcsec
        With it titles give pixels in arcsec, too.

    Returns
    -------
    list of dict
        ``check, title, value, low, high, n_positive, n_negative, limits, source, verdict, message``; ``verdict`` is "NOT MEASURED"
        where the stamps cannot show it. Of the checks on what must drop also ``auc_lost`` (value, low, high, p_value).
    """
    label = table.index.get_level_values("label").to_numpy()
    sizes = {"n_positive": int((label == 1).sum()), "n_negative": int((label == 0).sum())}
    by_name = {(entry["probe"], entry["level"]): entry for entry in found}
    checks = [
        _core(by_name.get(("core_zero", CORE_RADIUS)), pixscale_arcsec),
        _must_drop("arc_reliance", "share of the AUC above 0.5 lost with the arc annulus smoothed round",
                   by_name.get(("arc_azimuthal", 0.0)), "an arc is what makes a lens: without it the AUC has to fall"),
        _must_drop("coherence", "share of the AUC above 0.5 lost with the rings turned against each other",
                   by_name.get(("scramble", 0.0)), "profile, colour and noise are as before: what is lost was shape"),
        _background([entry for entry in found if entry["probe"] == "background_only"]),
        _view_spread(table),
        _shift(table, label, pixscale_arcsec),
        *(_drift(table, label, probe) for probe in ("seeing", "depth")),
    ]  # fmt: skip
    enough = min(sizes.values()) >= SMALLEST_CLASS
    return [
        (check if enough else _unmeasured(check["check"], check["title"], "too few stamps")) | sizes for check in checks
    ]


def _core(entry: dict[str, Any] | None, pixscale_arcsec: float | None) -> dict[str, Any]:
    name, title = "core_reliance", f"AUC lost with the central {_pixels(CORE_RADIUS, pixscale_arcsec)} filled with 0"
    if entry is None:
        return _unmeasured(name, title, "the stamps are too small")
    message = (
        "a finder that needs the core looks at the host; arcs within that radius are hidden too, and the azimuthal fill, which "
        "keeps the light and takes the shape, tells the two apart"
    )
    return _judged(name, title, entry["auc_lost"], CORE_RELIANCE, message)


def _pixels(count: float, pixscale_arcsec: float | None) -> str:
    """A length in pixels, and in arcsec where the pixel size is known."""
    arcsec = "" if pixscale_arcsec is None else f" ({count * pixscale_arcsec:.1f} arcsec)"
    return f"{count:g} pixels{arcsec}"


def _must_drop(name: str, title: str, entry: dict[str, Any] | None, message: str) -> dict[str, Any]:
    if entry is None:
        return _unmeasured(name, title, "the stamps are too small")
    share, lost = entry["share_lost"], entry["auc_lost"]
    if share is None:
        return _unmeasured(name, title, "the untouched AUC may be 0.5: there is nothing to lose")
    verdict = "PASS" if share["low"] > SHARE_LOST else "WARN" if lost["low"] > 0 else "FAIL"
    source = f"passes where the interval is above {SHARE_LOST:.2f}, warns where that of the AUC lost is above 0; {OWN}"
    return _check(name, title, share, None, source, verdict, message) | {"auc_lost": lost}


def _background(entries: list[dict[str, Any]]) -> dict[str, Any]:
    name, title = "background_only", 'AUC with all within 8" hidden'
    if not entries:
        return _unmeasured(name, title, "the network sees nothing that far out")
    auc = entries[0]["auc"]
    # a score that ranks others above lenses knows as much; no fold is held out here that could turn the order by chance
    verdict = BACKGROUND.verdict(1 - auc["high"] if auc["high"] < 0.5 else auc["low"])
    return _check(name, title, auc, BACKGROUND, BACKGROUND.source + ", on the end of the interval next to 0.5", verdict,
                  "no part of a lens is left: what the score still knows, in either direction, is a shortcut")  # fmt: skip


def _view_spread(table: pd.DataFrame) -> dict[str, Any]:
    name, title = "view_spread", f"spread of the logit over the eight views, {OF_SPREAD}"
    views = table.loc[:, [key for key in table.columns if key[0] in ("d4", UNTOUCHED)]].to_numpy()
    return _ratio(
        name, title, views.std(axis=1, ddof=1), table, VIEW_SPREAD, "a lens turned by a quarter is the same lens"
    )


def _shift(table: pd.DataFrame, label: npt.NDArray[np.int64], pixscale_arcsec: float | None) -> dict[str, Any]:
    moved = _pixels(SHIFT_PIXELS, pixscale_arcsec)
    name, title = "shift", f"change of lenses' logits when the stamp moves by {moved}, {OF_SPREAD}"
    change = np.abs(table["shift"].to_numpy() - table[[(UNTOUCHED, 0.0)]].to_numpy())[label == 1].mean(axis=1)
    return _ratio(
        name, title, change, table, VIEW_SPREAD, "catalogue positions are good to a pixel; a lens is where it is"
    )


def _drift(table: pd.DataFrame, label: npt.NDArray[np.int64], probe: str) -> dict[str, Any]:
    names = {"seeing": "wider seeing", "depth": "more noise"}
    made = [key for key in table.columns if key[0] == probe]
    if not made:
        title = f"median change of the others' logit with {names[probe]}"
        return _unmeasured(f"{probe}_drift", title, "pictures have no noise of a sky")
    worst = max(made)
    title = f"median change of the others' logit with {names[probe]} ({worst[1]:g} times), {OF_SPREAD}"
    change = (table[worst] - table[(UNTOUCHED, 0.0)]).to_numpy()[label == 0]
    return _ratio(f"{probe}_drift", title, change, table, DRIFT, "a galaxy is no likelier a lens for how it was observed",
                  at_size=True)  # fmt: skip


def _ratio(
    name: str, title: str, values: Floats, table: pd.DataFrame, limit: Limit, message: str, *, at_size: bool = False
) -> dict[str, Any]:
    """The median of some values in units of the spread of the others' untouched logits, whatever the share of lenses."""
    others = table.loc[table.index.get_level_values("label") == 0, [(UNTOUCHED, 0.0)]].to_numpy()
    spread = float(MAD_TO_SIGMA * np.median(np.abs(others - np.median(others)))) if len(others) else 0.0
    if spread == 0:
        return _unmeasured(name, title, "the others' logits are alike")
    found = {key: value / spread for key, value in _median(values).items()}
    verdict = limit.verdict(abs(found["value"]) if at_size else found["value"])
    return _check(name, title, found, limit, limit.source + (", on the size" if at_size else ""), verdict, message)


def _median(values: Floats) -> dict[str, float]:
    """A median with the exact 95% interval between order statistics."""
    ordered = np.sort(values)
    low = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    return {
        "value": float(np.median(ordered)), "low": float(ordered[max(low - 1, 0)]),
        "high": float(ordered[min(len(ordered) - low, len(ordered) - 1)]),
    }  # fmt: skip


def attribution(fractions: pd.DataFrame, rows: pd.DataFrame, area: Sequence[float]) -> dict[str, Any]:
    """Where the logits of lenses and others come from, beside what an even spread would give.

    Parameters
    ----------
    fractions
        Table ``attributions``: ``cutout_id, method, core, arc, background``.
    rows
        ``cutout_id, label``.
    area
        Share of the stamp's pixels in core, arc annulus and background.
    """
    zones = ("core", "arc", "background")
    joined = fractions.merge(rows[["cutout_id", "label"]], on="cutout_id", validate="many_to_one")
    out: dict[str, Any] = {"area": dict(zip(zones, map(float, area), strict=True)), "methods": []}
    for (method, label), group in joined.groupby(["method", "label"]):
        whole = group.dropna(subset=list(zones))
        entry: dict[str, Any] = {
            "method": str(method),
            "label": int(label),
            "n": len(whole),
            "empty": len(group) - len(whole),
        }
        if len(whole):
            entry |= {zone: _median(whole[zone].to_numpy(np.float64)) for zone in zones}
        out["methods"].append(entry)
    return out


def attribution_verdicts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether lenses' logits come from the arc annulus more than an even spread would have it."""
    area = found["area"]["arc"]
    out = []
    for entry in found["methods"]:
        # Grad-CAM's maps are coarse, and of a layer in the middle of the network: shown, not judged
        if entry["label"] != 1 or entry["n"] < SMALLEST_CLASS or entry["method"] == "grad_cam":
            continue
        arc, method = entry["arc"], entry["method"]
        verdict = "PASS" if arc["low"] > area and arc["value"] > entry["core"]["value"] else "WARN"
        out.append(
            _check(f"attribution_{method}", f"share of the arc annulus, {method.replace('_', ' ')} of lenses", arc, None,
                    f"passes above the annulus's share of the pixels ({area:.2f}) and above the core; " + OWN, verdict,
                   "the pixels that make a lens's score should be those of its arc")
            | {"n_positive": entry["n"], "n_negative": None}
        )  # fmt: skip
    return out


def _judged(name: str, title: str, found: dict[str, float], limit: Limit, message: str) -> dict[str, Any]:
    return _check(name, title, found, limit, limit.source, limit.verdict(found["value"]), message)


def _check(
    name: str, title: str, found: dict[str, float], limit: Limit | None, source: str, verdict: str, message: str
) -> dict[str, Any]:
    limits = None if limit is None else {"pass": limit.passed, "warn": limit.warned}
    return {"check": name, "title": title, "value": found["value"], "low": found["low"], "high": found["high"], "limits": limits,
            "source": source, "verdict": verdict, "message": message}  # fmt: skip


def _unmeasured(name: str, title: str, reason: str) -> dict[str, Any]:
    return {"check": name, "title": title, "value": None, "low": None, "high": None, "limits": None, "source": "",
            "verdict": "NOT MEASURED", "message": reason}  # fmt: skip


def _plain(found: Any) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
