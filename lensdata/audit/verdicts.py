"""Everything that passed, warned or failed, in one list (R-E4, R-E5, R-E10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

VERDICTS = ("FAIL", "WARN", "NOT MEASURED", "FLOOR", "PASS")  # from what a reader must see to what may be skipped
THETA_SPREAD = (0.15, 0.20)  # PASS below the first, FAIL above the second; R-E5
THETA_WORST = (0.80, 0.70)  # PASS above the first, FAIL below the second; R-E5


def entry(
    section: str, title: str, verdict: str, message: str, figures: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One line of the list: where it is told in full, what was asked, the answer, what it means, and its numbers."""
    known = figures or {}
    return {"section": section, "title": title, "verdict": verdict, "message": message,
            **{key: known.get(key) for key in ("value", "low", "high")}}  # fmt: skip


def collect(found: dict[str, Any], health: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts of ``metrics.json`` and of the training's health, the worst first.

    Parameters
    ----------
    found
        ``metrics.json``: ``gates, sensitivity, metadata, selection, strata`` and ``targets``, as far as they are there.
    health
        Checks of the run (R-T9).
    """
    out = [
        entry(
            "training",
            f"in training: {check['check'].replace('_', ' ')}",
            check["status"],
            check["message"],
            {"value": check["value"]},
        )
        for check in health
    ]
    out += _gates(found.get("gates", {}).get("gates", []))
    out += [
        entry("network", c["title"], c["verdict"], c["message"], c)
        for c in found.get("sensitivity", {}).get("checks", [])
    ]
    if "metadata" in found:
        known = found["metadata"]
        out.append(entry("observation", known["title"], known["verdict"], known["message"], known))
    if "selection" in found:
        gate = found["selection"]["realism"]
        out.append(
            entry("selection", "injections look like real lenses", gate["verdict"], gate["message"], gate["auc"])
        )
    out += theta_e(found.get("strata", {}).get("groups", {}).get("theta_e", []))
    out += [
        entry("performance", target["title"], target["verdict"], target["message"], target)
        for target in found.get("targets", [])
    ]
    return sorted(out, key=lambda line: VERDICTS.index(line["verdict"]))


def counts(lines: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many of each verdict."""
    found = dict.fromkeys(VERDICTS, 0)
    for line in lines:
        found[line["verdict"]] += 1
    return found


def _gates(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per gate, sample and input: its worse learner, of equal ones that which tells the classes better apart."""

    def badness(gate: dict[str, Any]) -> tuple[int, float]:
        return -VERDICTS.index(gate["verdict"]), abs(gate["auc"]["value"] - 0.5) if gate["auc"] else -1.0

    worst: dict[tuple[str, str, str], dict[str, Any]] = {}
    for gate in entries:
        key = (gate["gate"], gate["sample"], gate["input"])
        if key not in worst or badness(gate) > badness(worst[key]):
            worst[key] = gate
    alike = {"random": "as drawn", "host_matched": "hosts matched"}
    return [
        entry("gates", f"{gate['title']}, {gate['input']}, {alike[gate['sample']]}, {gate['learner']}", gate["verdict"],
              gate["message"], gate["auc"])
        for gate in worst.values()
    ]  # fmt: skip


def highest_floor(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The gate that a network has most to beat."""
    floors = [gate for gate in entries if gate["verdict"] == "FLOOR"]
    return max(floors, key=lambda gate: gate["auc"]["value"], default=None)


def theta_e(strata: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spread of the AUC over bins of Einstein radius, and the worst bin; nothing with fewer than two bins of enough lenses."""
    areas = [stratum["auc"]["value"] for stratum in strata if "value" in stratum["auc"]]
    if len(areas) < 2:
        return []
    spread, worst = max(areas) - min(areas), min(areas)
    fewest = min(stratum["n_positive"] for stratum in strata if "value" in stratum["auc"])
    counted = f"of {len(areas)} bins with enough lenses, the smallest of {fewest}"
    of_spread = "PASS" if spread < THETA_SPREAD[0] else "FAIL" if spread > THETA_SPREAD[1] else "WARN"
    of_worst = "PASS" if worst > THETA_WORST[0] else "FAIL" if worst < THETA_WORST[1] else "WARN"
    return [
        entry(
            "strata",
            "spread of the AUC over Einstein radii",
            of_spread,
            f"best less worst {counted}",
            {"value": spread},
        ),
        entry(
            "strata",
            "AUC of the worst bin of Einstein radius",
            of_worst,
            counted,
            {"value": worst},
        ),
    ]


def targets(wanted: dict[str, float], found: dict[str, Any]) -> list[dict[str, Any]]:
    """PASS or FAIL of metrics that a study asks for (R-E10).

    Parameters
    ----------
    wanted
        Smallest value by the metric's name in ``found``.
    """
    out = []
    for name, least in wanted.items():
        metric = found.get(name)
        known = metric if isinstance(metric, dict) and metric.get("value") is not None else {}
        line = {"metric": name, "title": known.get("title", name.replace("_", " ")), "least": least,
                **{key: known.get(key) for key in ("value", "low", "high")}}  # fmt: skip
        if not known:
            verdict, message = "NOT MEASURED", f"more than {least:g} is asked for; this sample does not say"
        else:
            sure = known["low"] > least or known["high"] <= least
            verdict = "PASS" if known["value"] > least else "FAIL"
            message = f"more than {least:g} is asked for" + ("" if sure else ", and the interval holds both answers")
        out.append(line | {"verdict": verdict, "message": message})
    return out
