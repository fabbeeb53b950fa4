"""The highest scores of a survey as a list that somebody looks at (R-E9).

    python -m ray_train.candidates --output candidates inputs.scores=scores/dr10 inputs.positions=pool \
        inputs.validation=runs/audit inputs.lenses=lenscat

``positions`` is any table with ``cutout_id`` or ``source_id``, ``ra`` and ``dec`` of what was scored; it is read in pieces.
``validation`` is the run: its validation split gives the probabilities and the conformal p-values. ``manifest/`` in the output
names the candidates' stamps, for ``lensdata vet``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lensdata import jobs, steps, storage, tables
from lensdata.audit import conformal, recalibration
from lensdata.catalogue.lenses import read_lenses
from lensdata.cleaning.scores import of_one_network
from lensdata.config.scoring import CandidatesConfig
from lensdata.errors import InputError
from lensdata.report import galleries, page
from lensdata.shards.derived import renamed, write_manifest
from lensdata.shards.manifests import Manifest, read_manifest
from lensdata.sky.crossmatch import SkyIndex
from lensdata.steps import JobRun, Outcome

ALL = "all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("candidates"), candidates, sys.argv[1:] if argv is None else list(argv))


def candidates(run: JobRun) -> Outcome:
    """Rank, place, calibrate, select, match and write."""
    config: CandidatesConfig = run.config
    rows, scored = highest(run.inputs["scores"])
    require_same_network(run.inputs, rows)
    rows, group_sizes, places = placed(rows, run.inputs["positions"], config)
    if places < scored:
        raise InputError(
            f"{run.inputs['positions']} has {places} positions, but {scored} stamps were scored; give the table of all of them."
        )
    validation = validation_rows(run.inputs, config)
    rows = calibrated(rows, validation, config)
    rows = selected(rows, validation[validation["label"] == 0], group_sizes, config)
    num_selected = int(rows["selected"].sum())
    rows = matched(rows.head(config.top), run.inputs.get("lenses"), config)
    rows["rank"] = np.arange(1, len(rows) + 1)
    table = renamed(_table(rows), run.inputs["scores"], run.final)
    content_of = [name for name in tables.CANDIDATES.names if name != "shard"]  # an address is no content
    count, content = tables.write_table(table, run.output, tables.CANDIDATES, identity=content_of)
    write_manifest(
        _stamps(rows, run.inputs["scores"], storage.join(run.final, "manifest")), run.path("manifest"), content
    )
    report = {
        "scored": scored, "listed": len(rows), "positions": places,
        "selected": num_selected, "selected_on_the_list": int(rows["selected"].sum()),
        "known_lenses": int(rows["known_lens"].notna().sum()), "calibration_negatives": int((validation["label"] == 0).sum()),
        "groups": group_sizes, "smallest_p_value": float(rows["p_value"].min()),
    }  # fmt: skip
    storage.write_bytes(run.path("candidates.html"), _page(run, rows, report).encode())
    return Outcome(count, content, report)


def highest(uri: str) -> tuple[pd.DataFrame, int]:
    """The kept rows of a survey's scores, from the highest down, and how many stamps were scored."""
    tables.require_kind(uri, tables.SURVEY_SCORES)
    rows = tables.read_table(uri, tables.SURVEY_SCORES).to_pandas()
    rows["plain_logit"] = rows["logit"]
    rows["logit"] = rows["pooled_logit"].fillna(rows["logit"])
    pooled = rows["pooled_logit"].notna()
    # pooled stamps are ranked among themselves, above the others: only they have had the second look
    order = np.lexsort((rows["cutout_id"], -rows["logit"], ~pooled))
    return rows.iloc[order].reset_index(drop=True), int(storage.read_json(storage.join(uri, "_report.json"))["stamps"])


def require_same_network(inputs: dict[str, str], rows: pd.DataFrame) -> None:
    """Refuse validation scores of another network than the survey's: neither probability nor p-value would hold.

    Raises
    ------
    InputError
        They are of another run, or of another checkpoint.
    """
    survey, validation = (_network_of(inputs[name]) for name in ("scores", "validation"))
    own = tables.read_table(of_one_network("validation", inputs["validation"]), columns=["run_id"])["run_id"]
    known = survey["run"] is not None and validation["run"] is not None
    if survey["run"] != validation["run"] if known else rows["run_id"].iloc[0] not in pc.unique(own).to_pylist():
        raise InputError(
            f"{inputs['scores']} was scored by another run ({rows['run_id'].iloc[0]}) than inputs.validation="
            f"{inputs['validation']}; give the run that scored the survey."
        )
    if survey["checkpoints"].isdisjoint(validation["checkpoints"]):
        raise InputError(
            f"{inputs['scores']} was scored with checkpoint {min(survey['checkpoints'])}, but the scores of "
            f"{inputs['validation']} are of {min(validation['checkpoints'])}; score the run's manifest with the same one, and "
            "give these scores as inputs.validation."
        )


def _network_of(uri: str) -> dict[str, Any]:
    """Content of the run that scores are of, null where they do not say, and the names of its checkpoint."""
    described, report = (
        storage.read_json(path) if storage.exists(path) else {}
        for path in (storage.join(uri, "_table.json"), storage.join(uri, "_report.json"))
    )
    is_run = storage.exists(storage.join(uri, "run_info.json"))
    run = described.get("content") if is_run else described.get("identity", {}).get("inputs", {}).get("run")
    names = {report.get("checkpoint", "best")}
    if is_run:  # its own scores are of the best checkpoint, which has a number, too, and may be the last
        pointers = {
            name: storage.read_json(storage.join(uri, f"{name}.json"))["checkpoint"] for name in ("best", "last")
        }
        names |= {pointers["best"], *(name for name, checkpoint in pointers.items() if checkpoint == pointers["best"])}
    return {"run": run, "checkpoints": names}


def placed(rows: pd.DataFrame, uri: str, config: CandidatesConfig) -> tuple[pd.DataFrame, dict[str, int], int]:
    """The rows with ``ra, dec, group``; the size of every group among all positions, and how many positions there are.

    Raises
    ------
    InputError
        The positions lack a column, or a stamp.
    """
    wanted = ["ra", "dec", *(name for name in config.group_by if name != "footprint")]
    sizes: Counter[str] = Counter()
    found: list[pd.DataFrame] = []
    keys = np.sort(rows["cutout_id"].to_numpy())
    total = 0
    key = _key_of(uri)
    for piece in tables.iterate(uri, [key, *wanted]):
        frame = piece.to_pandas().rename(columns={key: "cutout_id"})
        frame["group"] = groups_of(frame, config)
        sizes.update(frame["group"].value_counts().to_dict())
        total += len(frame)
        place = np.minimum(np.searchsorted(keys, frame["cutout_id"]), len(keys) - 1)
        found.append(frame[keys[place] == frame["cutout_id"]][["cutout_id", "ra", "dec", "group"]])
    positions = pd.concat(found).drop_duplicates("cutout_id")
    joined = rows.merge(positions, on="cutout_id", how="left", validate="one_to_one")
    if missing := int(joined["ra"].isna().sum()):
        raise InputError(f"{uri} has no position for {missing} of {len(rows)} kept stamps.")
    return joined, {str(name): int(count) for name, count in sorted(sizes.items())}, total


def _key_of(uri: str) -> str:
    files = tables.dataset_files(uri)
    if not files:
        raise InputError(f"Input {uri} has no Parquet file under dataset/; positions are a table with ra and dec.")
    import pyarrow.parquet as pq

    schema = pq.read_schema(storage.open_arrow(files[0]))
    for name in ("cutout_id", "source_id"):
        if name in schema.names and not pa.types.is_integer(schema.field(name).type):
            raise InputError(f"{uri} has {name} of type {schema.field(name).type}; keys of stamps are integers.")
        if name in schema.names:
            return name
    raise InputError(f"{uri} has neither cutout_id nor source_id; found {', '.join(schema.names)}.")


def groups_of(frame: pd.DataFrame, config: CandidatesConfig) -> Any:
    """Name of each row's group of like conditions."""
    if not config.group_by:
        return ALL
    parts = []
    for name in config.group_by:
        if name == "footprint":
            parts.append(np.where(frame["dec"] > config.footprint_dec, "north", "south"))
        else:
            parts.append(name.removesuffix("_bin") + " " + frame[name].fillna(-1).astype(int).astype(str))
    return [" / ".join(values) for values in zip(*parts, strict=True)]


def validation_rows(inputs: dict[str, str], config: CandidatesConfig) -> pd.DataFrame:
    """``label, logit, group`` of the run's validation split.

    Raises
    ------
    InputError
        It has one class only; or groups are asked for and the manifest is not given, or lacks stamps of the split.
    """
    rows = tables.read_table(of_one_network("validation", inputs["validation"]), tables.SCORES).to_pandas()
    rows = rows[rows["split"] == "val"][["cutout_id", "label", "logit"]]
    if not (np.any(rows["label"] == 1) and np.any(rows["label"] == 0)):
        raise InputError(f"Run {inputs['validation']} has no validation scores of both classes.")
    if not config.group_by:
        return rows.assign(group=ALL)
    if "validation_manifest" not in inputs:
        raise InputError(
            "group_by needs inputs.validation_manifest=URI: it says in which group each validation stamp is."
        )
    frame = read_manifest(inputs["validation_manifest"]).table.to_pandas()
    absent = [name for name in _columns_of_groups(config) if name not in frame]
    if absent:
        raise InputError(f"Manifest {inputs['validation_manifest']} has no column {', '.join(absent)} to group by.")
    frame["group"] = groups_of(frame, config)
    grouped = rows.merge(frame[["cutout_id", "group"]], on="cutout_id", how="left", validate="one_to_one")
    if missing := int(grouped["group"].isna().sum()):
        raise InputError(
            f"Manifest {inputs['validation_manifest']} lacks {missing} of the {len(rows)} validation stamps of "
            f"{inputs['validation']}; give the manifest that it was trained on."
        )
    return grouped


def _columns_of_groups(config: CandidatesConfig) -> list[str]:
    return ["dec" if name == "footprint" else name for name in config.group_by]


def calibrated(rows: pd.DataFrame, validation: pd.DataFrame, config: CandidatesConfig) -> pd.DataFrame:
    """The rows with ``probability`` at the validation split's share of lenses, and at the survey's.

    Both are of the stamp as it lies: the validation split, whose logits the map is fitted to, was seen in one view.
    """
    logit, label = validation["logit"].to_numpy(np.float64), validation["label"].to_numpy(np.int64)
    fitted = recalibration.METHODS[config.recalibration](logit, label)
    assert fitted.logits is not None
    shift = recalibration.shift_logit(float(label.mean()), config.prevalence)
    logits = fitted.logits(rows["plain_logit"].to_numpy(np.float64))
    return rows.assign(probability=1 / (1 + np.exp(-logits)), survey_probability=1 / (1 + np.exp(-logits - shift)))


def selected(
    rows: pd.DataFrame, negatives: pd.DataFrame, group_sizes: dict[str, int], config: CandidatesConfig
) -> pd.DataFrame:
    """The rows with ``p_value, q_value, selected``, group by group; by the logits of stamps as they lie, like the negatives'."""
    out = rows.assign(p_value=1.0, q_value=1.0)
    for name, part in rows.groupby("group"):
        known = negatives.loc[negatives["group"] == name, "logit"]
        p = conformal.p_values(part["plain_logit"], known)
        out.loc[part.index, "p_value"] = p
        out.loc[part.index, "q_value"] = conformal.q_values(p, group_sizes[str(name)])
    return out.assign(selected=out["q_value"] <= config.false_discovery_rate)


def matched(rows: pd.DataFrame, lenses: str | None, config: CandidatesConfig) -> pd.DataFrame:
    """The rows with the nearest known lens within the radius."""
    out = rows.assign(known_lens=None, separation_arcsec=np.nan)
    if lenses is None:
        return out
    known = read_lenses(lenses)
    index, separation = SkyIndex(known["ra"], known["dec"]).nearest(rows["ra"], rows["dec"], config.match_radius_arcsec)
    names = known["name"].astype(str).to_numpy()
    return out.assign(
        known_lens=[names[place] if place >= 0 else None for place in index], separation_arcsec=separation
    )


def _table(rows: pd.DataFrame) -> pa.Table:
    columns = {name: rows[name] for name in tables.CANDIDATES.names}
    return pa.Table.from_pandas(pd.DataFrame(columns), schema=tables.CANDIDATES.schema, preserve_index=False)


def _stamps(rows: pd.DataFrame, uri: str, folder: str) -> pa.Table:
    """The candidates as a manifest: nobody knows yet what they are, so that all are others of the test split."""
    table = pa.Table.from_pandas(rows[["cutout_id", "shard", "row_group", "row", "ra", "dec"]], preserve_index=False)
    count = len(rows)
    for name, values in (
        ("label", pa.array([0] * count, pa.int8())),
        ("sample_weight", pa.array([1.0] * count, pa.float32())),
        ("split", pa.array(["test"] * count)),
        ("lens_name", pa.array(rows["known_lens"].tolist(), pa.string())),
    ):
        table = table.append_column(name, values)
    return renamed(table, uri, folder)


def _page(run: JobRun, rows: pd.DataFrame, report: dict[str, Any]) -> str:
    config: CandidatesConfig = run.config
    shown = rows.head(config.gallery_stamps)
    pictures: list[galleries.Picture] = []
    if len(shown):
        part = Manifest(run.inputs["scores"], _stamps(shown, run.inputs["scores"], run.inputs["scores"]))
        unit = part.layout().unit
        captioned = shown.assign(score=shown["survey_probability"], label=0, lens_name=shown["known_lens"])
        pictures = galleries.pictures(captioned, part.stamps(), unit)
    thresholds = storage.read_json(storage.join(run.inputs["scores"], "_report.json"))["thresholds"]
    return page.render(
        "candidates.html", title=config.title, report=report, config=config, thresholds=thresholds,
        rows=list(zip(shown.to_dict("records"), pictures, strict=True)),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
