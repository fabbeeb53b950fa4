"""Take the lenses that were found among the negatives out of a manifest (R-N1, R-N2).

    python -m ray_train.clean_negatives --output cleaned inputs.manifest=manifests/audit inputs.ranking=ranking inputs.grades=grades

The manifest names the same shards. What it no longer holds is in the table ``removed/``, and ``audit.html`` says how many were
flagged, looked at and found. Splits that are not named in ``splits`` stay as they are; give ``inputs.scores`` (a run) to see
the metrics of val and test with and without what was found there, side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, storage, tables
from lensdata.audit import metrics
from lensdata.cleaning.outcomes import DROP, KEEP, RELABEL, counts, with_outcomes
from lensdata.cleaning.scores import collected, of_one_network
from lensdata.config.cleaning import CleanConfig
from lensdata.config.evaluation import EvaluateConfig
from lensdata.errors import InputError
from lensdata.report import cleaning as cleaning_page
from lensdata.shards.derived import renamed, write_manifest
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.steps import JobRun, Outcome

FIGURES = ("auc", "average_precision", "tpr_at_fpr_")
EVALUATED = ("val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("clean_negatives"), clean_negatives, sys.argv[1:] if argv is None else list(argv))


def clean_negatives(run: JobRun) -> Outcome:
    """Join manifest, ranking and grades, decide on each negative, write manifest, table and page."""
    config: CleanConfig = run.config
    needed = {"graded": "grades", "above_threshold": "ranking"}[config.remove]
    if needed not in run.inputs:
        raise InputError(f"remove {config.remove} needs inputs.{needed}=URI.")
    manifest = read_manifest(run.inputs["manifest"])
    rows = with_outcomes(joined(manifest, run.inputs), config)
    found = counts(rows) | {"remove": config.remove, "splits_changed": list(config.splits)}
    if "scores" in run.inputs:
        found["metrics"] = side_by_side(rows, run.inputs["scores"], config)
    _, content = write_manifest(
        cleaned(manifest, rows, config, run.final), run.output, str(steps.input_identity(manifest.uri))
    )
    tables.write_table(removed(rows), run.path("removed"), tables.CLEANED)
    storage.write_json(run.path("audit.json"), found)
    text = cleaning_page.render(manifest, rows, found, config)
    storage.write_bytes(run.path("audit.html"), text.encode())
    kept = int((rows["outcome"] != DROP).sum())
    report = {name: found[name] for name in ("negatives", "flagged", "inspected", "plausible", "dropped", "relabelled")}
    return Outcome(kept, content, report | {"rows_of_the_manifest": len(rows)})


def joined(manifest: Manifest, inputs: dict[str, str]) -> pd.DataFrame:
    """The manifest's rows with ``flagged, probability`` of the ranking and ``verdict`` of the graders, null without.

    Raises
    ------
    InputError
        Ranking or grades are of another manifest.
    """
    rows = manifest.table.to_pandas()
    for name, default in (("confuser", None), ("stratum", None), ("pool", None), ("source_id", None)):
        rows = rows if name in rows else rows.assign(**{name: default})
    given = {
        "ranking": (tables.RANKING, ["cutout_id", "flagged", "probability", "label", "split"]),
        "grades": (tables.GRADES, ["cutout_id", "verdict"]),
    }
    for name, (spec, columns) in given.items():
        if name not in inputs:
            rows = rows.assign(**dict.fromkeys(columns[1:3]))
            continue
        found = tables.read_table(inputs[name], spec, columns=columns).to_pandas()
        strange = found.loc[~found["cutout_id"].isin(rows["cutout_id"]), "cutout_id"]
        if len(strange):
            raise InputError(
                f"{len(strange)} of {len(found)} rows of {inputs[name]} are not in manifest {manifest.uri}, the first "
                f"cutout_id {strange.iloc[0]}; give the manifest that it was made from."
            )
        if name == "ranking":
            _require_of(manifest, found, inputs[name])
        rows = rows.merge(found[columns[:3]], on="cutout_id", how="left", validate="one_to_one")
    return rows.assign(verdict=rows["verdict"].where(rows["verdict"] != "ungraded", None))


def _require_of(manifest: Manifest, ranking: pd.DataFrame, uri: str) -> None:
    """Refuse a ranking of lenses, and one whose networks learnt from other splits than the manifest's (R-T10)."""
    if len(ranking) and not (ranking["label"] == 0).any():
        raise InputError(f"{uri} ranks lenses (label=1), and none of the negatives that are to be cleaned.")
    own = manifest.table.select(["cutout_id", "split"]).to_pandas().rename(columns={"split": "own"})
    moved = ranking.merge(own, on="cutout_id", how="left").query("split != own")
    if len(moved):
        raise InputError(
            f"{uri} has {len(moved)} of {len(ranking)} stamps in another split than manifest {manifest.uri}, the first cutout_id "
            f"{moved['cutout_id'].iloc[0]}: its networks learnt from others; rank this manifest."
        )


def cleaned(manifest: Manifest, rows: pd.DataFrame, config: CleanConfig, folder: str) -> pa.Table:
    """The manifest's rows that stay; what was relabelled is a lens of tier B."""
    table = renamed(manifest.table, manifest.uri, folder)
    new = (rows["outcome"] == RELABEL).to_numpy()
    changes = {"label": 1, "sample_weight": config.relabelled_weight, "tier": "B", "pool": None, "confuser": None}
    for name, value in changes.items():
        if name in table.column_names and new.any():
            place, values = table.column_names.index(name), table[name].to_pylist()
            changed = [value if is_new else old for old, is_new in zip(values, new, strict=True)]
            table = table.set_column(
                place, table.schema.field(place), pa.array(changed, table.schema.field(place).type)
            )
    return table.filter(pa.array((rows["outcome"] != DROP).to_numpy()))


def removed(rows: pd.DataFrame) -> pa.Table:
    """The negatives that are dropped or relabelled, with the reason."""
    out = rows[rows["outcome"] != KEEP]
    columns = {name: out[name] for name in tables.CLEANED.names}
    return pa.Table.from_pandas(pd.DataFrame(columns), schema=tables.CLEANED.schema, preserve_index=False)


def side_by_side(rows: pd.DataFrame, uri: str, config: CleanConfig) -> dict[str, Any]:
    """Metrics of the evaluation splits as labelled (raw), and without negatives that were seen to be lenses (vetted).

    Only what graders saw counts here, never a network's own opinion: it would judge itself. Where nobody looked at a split the
    two are equal, and raw is a lower bound: a lens among the negatives is a false positive to every metric.
    """
    scores = collected({"scores": of_one_network("scores", uri)})
    scores = scores[scores["fold"].isna()][["cutout_id", "logit", "split"]].rename(columns={"split": "run_split"})
    judged = rows.merge(scores, on="cutout_id", how="inner")
    measure = EvaluateConfig(resamples=config.resamples, seed=config.seed, fpr_levels=config.fpr_levels)
    out: dict[str, Any] = {}
    for split in EVALUATED:
        part = judged[(judged["split"] == split) & (judged["run_split"] == split)]
        if not (np.any(part["label"] == 1) and np.any(part["label"] == 0)):
            continue
        lenses = (part["label"] == 0) & part["verdict"].isin(["lens", "maybe"])
        vetted = part[~lenses]
        out[split] = {
            "inspected": int((part["verdict"].notna() & (part["label"] == 0)).sum()),
            "taken_out": int(lenses.sum()),
            "raw": _figures(part, measure),
            "vetted": _figures(vetted, measure),
        }
    if not out:
        raise InputError(
            f"{uri} judges no split of the manifest: it has no scores of lenses and others in val or test as both have them; give "
            "a run that was trained on the manifest, without data.held_out_fold."
        )
    return out


def _figures(rows: pd.DataFrame, config: EvaluateConfig) -> dict[str, Any]:
    found = {name: entry for name, entry in metrics.ranking(rows, config).items() if name.startswith(FIGURES)}
    for entry in found.values():
        if (
            entry.get("false_positives_allowed") == 0
        ):  # no threshold was reached: the figure would be that of another rate
            entry |= {"value": None, "low": None, "high": None, "reason": "this rate allows no false positive"}
    return found


if __name__ == "__main__":
    sys.exit(main())
