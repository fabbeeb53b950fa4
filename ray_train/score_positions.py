"""Here are 500 positions: fetch their stamps, check them, score them, calibrate, and make a page.

    python -m ray_train.score_positions --output runs/mine/positions inputs.table=positions.csv inputs.model=bundles/demo

The output is a table of scores with a row for each row of the user's, ``results.csv`` with the same, ``page.html`` to look at, and
the stamps. Killed, it goes on with the stamps that are missing; ``--retry`` asks again for those that could not be had.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import jobs, steps, storage, tables
from lensdata.catalogue.lenses import lenscat_csv, read_lenses
from lensdata.catalogue.positions import read_positions
from lensdata.config.bundle import FPR_LEVELS, ScorePositionsConfig
from lensdata.config.cutouts import FetchCutoutsConfig, FetchExecution
from lensdata.cutouts.centring import OFF_CENTRE_PIXELS, peak_offset
from lensdata.cutouts.in_process import Position, fetch_positions, missing_of
from lensdata.cutouts.outcome import FAILED, STORED
from lensdata.cutouts.publishing import layout
from lensdata.cutouts.stored import read_stored
from lensdata.errors import InputError
from lensdata.report import positions as page
from lensdata.sky.crossmatch import SkyIndex
from lensdata.steps import JobRun, Outcome
from ray_train.bundle import Bundle, load
from ray_train.bundle_record import Input
from ray_train.context import choose_device, use_threads

log = logging.getLogger(__name__)

SCORED, INVALID = "scored", "invalid"
RESAMPLED_LESS = {"bricks", "tiles"}  # routes whose pixels are the coadd's own
BLOCK = 1024  # stamps in memory at once
MARKS = ("_SUCCESS", "_table.json", "ledger/_SUCCESS", "parts/_SUCCESS")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that begins so is a formula to a spreadsheet


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("score_positions"), score_positions, sys.argv[1:] if argv is None else list(argv))


def score_positions(run: JobRun) -> Outcome:
    """Fetch what is missing, score what came, and write table, CSV and page."""
    config: ScorePositionsConfig = run.config
    use_threads(config.execution.threads)
    bundle = load(run.inputs["model"], choose_device(config.execution.device), config.model_sha256)
    fetch = fetch_config(bundle.record.input, config)
    rows = read_positions(run.inputs["table"], config.columns).head(run.test_limit)
    known = known_lenses(rows, run.inputs.get("lenses"), config.lens_radius_arcsec)
    wanted = positions_of(rows)
    if run.retry and missing_of(run.output, wanted):
        for mark in MARKS:  # of the output that --retry goes on with; all that can be refused has been
            storage.remove(run.path(mark))
    ledger = fetch_positions(run.output, wanted, fetch, resumed=run.resumed).to_pandas()
    scores = scores_of(run.output, ledger, bundle, fetch, config.execution.batch)
    found = results(rows, ledger, scores, known, bundle, config.prevalence)
    write_csv(found, run.path("results.csv"))
    text = page.render(
        found, stamps_for(run.output, ledger), facts_of(bundle, config), notes(found, bundle, config), config.page_rows
    )
    storage.write_bytes(run.path("page.html"), text.encode())
    outcomes = dict(Counter(found["outcome"]))
    report = {"outcomes": outcomes, "reasons": reasons(found), "bundle": bundle.sha256, "stamps": len(wanted)}
    count, content = tables.write_table(
        pa.Table.from_pandas(found, preserve_index=False), run.output, tables.POSITION_SCORES, report=report
    )
    log.info(
        "rows=%d %s page=%s",
        count,
        " ".join(f"{name}={value}" for name, value in outcomes.items()),
        run.path("page.html"),
    )
    return Outcome(count, content, report)


def fetch_config(known: Input, config: ScorePositionsConfig) -> FetchCutoutsConfig:
    """The stamps that the bundle takes, as a fetch.

    Raises
    ------
    InputError
        No cutout service has stamps of that kind.
    """
    letters = "".join(known.bands)
    square = known.size[0] == known.size[1]
    if known.unit != "nanomaggy" or known.pixscale_arcsec is None or not set(letters) <= set("griz") or not square:
        raise InputError(
            f"The model takes stamps of {known.size[0]} x {known.size[1]} pixels, bands {', '.join(known.bands)}, in {known.unit}"
            f"{'' if known.pixscale_arcsec else ', of unknown pixel scale'}; the cutout service has "
            "square ones of g, r, i, z in nanomaggy. "
            "Score stamps of your own with ray_train.bundle.load."
        )
    return FetchCutoutsConfig(
        layer=config.layer, bands=letters, size=known.size[0], pixscale_arcsec=known.pixscale_arcsec, route="service",
        quality=config.quality, service=config.service,
        execution=FetchExecution(stamps_per_part=config.execution.stamps_per_part),
    )  # fmt: skip


def positions_of(rows: pd.DataFrame) -> list[Position]:
    """The places to get stamps of, each once, in the order of the table."""
    once = rows[rows["problem"].isna()].drop_duplicates("cutout_id")
    return [
        Position(int(key), float(ra), float(dec))
        for key, ra, dec in zip(once["cutout_id"], once["ra"], once["dec"], strict=True)
    ]


def known_lenses(rows: pd.DataFrame, uri: str | None, radius_arcsec: float) -> pd.DataFrame | None:
    """``known_lens, known_lens_grading, separation_arcsec`` of the nearest catalogued lens; None without a catalogue."""
    try:
        lenses = read_lenses(uri or str(lenscat_csv()))
    except InputError as error:
        if uri is not None:
            raise
        log.warning("no known lenses are named: %s", error)
        return None
    good = rows["problem"].isna().to_numpy()
    index = np.full(len(rows), -1)
    apart = np.full(len(rows), np.nan)
    sky = SkyIndex(lenses["ra"], lenses["dec"])
    index[good], apart[good] = sky.nearest(rows["ra"][good], rows["dec"][good], radius_arcsec)
    named = {
        column: np.where(index >= 0, lenses[name].astype(object).to_numpy()[index], None)
        for column, name in (("known_lens", "name"), ("known_lens_grading", "grading"))
    }
    return pd.DataFrame(named | {"separation_arcsec": apart})


def scores_of(folder: str, ledger: pd.DataFrame, bundle: Bundle, fetch: FetchCutoutsConfig, batch: int) -> pd.DataFrame:
    """``cutout_id, logit, light_offset_arcsec`` of every stored stamp."""
    stored, stamps_layout = stored_of(ledger), layout(fetch)
    logits, offsets = np.empty(len(stored)), np.empty(len(stored))
    for start in range(0, len(stored), BLOCK):
        part = slice(start, start + BLOCK)
        stamps = read_stored(folder, stored.iloc[part])
        logits[part] = bundle.score(stamps, stamps_layout, batch)
        offsets[part] = [peak_offset(stamp) * fetch.pixscale_arcsec for stamp in stamps]
        steps.progress(min(start + BLOCK, len(stored)), len(stored), "scores")
    return pd.DataFrame({"cutout_id": stored["cutout_id"].to_numpy(), "logit": logits, "light_offset_arcsec": offsets})


def stored_of(ledger: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows of stamps that are there, as they lie in the parts."""
    return ledger[ledger["outcome"] == STORED].sort_values(["part", "row"])


def stamps_for(folder: str, ledger: pd.DataFrame) -> page.Stamps:
    """A function from stamps' keys to their pixels."""
    stored = stored_of(ledger).set_index("cutout_id", drop=False)
    return lambda keys: read_stored(folder, stored.loc[keys])


def results(
    rows: pd.DataFrame,
    ledger: pd.DataFrame,
    scores: pd.DataFrame,
    known: pd.DataFrame | None,
    bundle: Bundle,
    prevalence: float,
) -> pd.DataFrame:
    """A row for each row of the user's table, in its order, in the columns of `tables.POSITION_SCORES`."""
    told_of = ledger[["cutout_id", "outcome", "reason", "survey", "version"]].merge(scores, on="cutout_id", how="left")
    found = rows.merge(told_of.astype({"cutout_id": "Int64"}), on="cutout_id", how="left", validate="many_to_one")
    logit = found["logit"].to_numpy(np.float64)
    told, reason = found["outcome"].to_numpy(object), found["reason"].to_numpy(object)
    invalid, lost = found["problem"].notna().to_numpy(), (told == STORED) & np.isnan(logit)
    outcome = np.select([invalid, lost, told == STORED], [INVALID, FAILED, SCORED], told)
    reason = np.where(invalid, found["problem"], np.where(lost, "no_number_from_network", reason))
    first = found.groupby("cutout_id")["row"].transform("min").to_numpy(np.float64, na_value=np.nan)
    again = (outcome == SCORED) & (first < found["row"])
    reason[again] = [f"same_place_as_row_{int(row)}" for row in first[again]]
    survey = [
        f"{name} {version}".replace(" None", "") if isinstance(name, str) else None
        for name, version in zip(found["survey"], found["version"], strict=True)
    ]
    scored = outcome == SCORED
    logit = np.where(scored, logit, np.nan)
    out = found[["row", "id", "ra", "dec", "cutout_id"]].assign(
        outcome=outcome, reason=[value if isinstance(value, str) else None for value in reason], logit=logit,
        probability=bundle.probability(logit), survey_probability=bundle.probability(logit, prevalence),
    )  # fmt: skip
    for level in FPR_LEVELS:
        limit = bundle.threshold(level)
        out[f"passes_fpr_{level:g}"] = pd.array(
            [
                None if limit is None or not use else bool(value >= limit)
                for value, use in zip(logit, scored, strict=True)
            ],
            dtype="boolean",
        )
    for name in ("known_lens", "known_lens_grading", "separation_arcsec"):
        out[name] = None if known is None else known[name].to_numpy()
    offset = np.where(scored, found["light_offset_arcsec"].to_numpy(np.float64), np.nan)
    return out.assign(light_offset_arcsec=offset, survey=survey)[tables.POSITION_SCORES.names]


def reasons(found: pd.DataFrame) -> dict[str, int]:
    """Reasons of rows without a score, the most frequent first."""
    counts = Counter(found["reason"][found["outcome"] != SCORED])
    return dict(counts.most_common())


def facts_of(bundle: Bundle, config: ScorePositionsConfig) -> page.Facts:
    """What the page says of the model."""
    record = bundle.record
    return page.Facts(
        model=" + ".join(member.run_id for member in record.members),
        networks=", ".join(sorted({member.arch for member in record.members})),
        sha256=bundle.sha256,
        thresholds=[(entry.fpr, entry.logit, entry.reason) for entry in record.thresholds],
        calibration=record.calibration.method,
        validation_prevalence=record.calibration.prevalence,
        prevalence=config.prevalence,
        failed=[line["title"] for line in (record.evaluation or {}).get("failed", [])],
        judged=record.evaluation is not None,
        lens_radius_arcsec=config.lens_radius_arcsec,
        off_centre_arcsec=OFF_CENTRE_PIXELS * (record.input.pixscale_arcsec or np.inf),
    )


def notes(found: pd.DataFrame, bundle: Bundle, config: ScorePositionsConfig) -> list[str]:
    """What one has to know to read these scores, in sentences; also logged."""
    known, out = bundle.record.input, []
    if RESAMPLED_LESS & set(known.routes):
        out.append(
            f"The model was trained on stamps by route {', '.join(known.routes)}; these came from the cutout service, which has "
            "resampled them once more and lowered their noise by about 11%: scores and thresholds are off by an unknown amount."
        )
    elif "service" not in known.routes:
        out.append("The model was trained on imported stamps, which need not be like those of the cutout service.")
    if known.layers and config.layer not in known.layers:
        out.append(f"The model was trained on layer {', '.join(known.layers)}; these stamps are of {config.layer}.")
    if known.dec_deg is not None:
        low, high = known.dec_deg
        outside = int((found["cutout_id"].notna() & ((found["dec"] < low) | (found["dec"] > high))).sum())
        if outside:
            out.append(
                f"{outside} of {len(found)} positions lie outside the declinations of the training stamps, {low:.2f} to "
                f"{high:.2f} degrees: depth and seeing may be others there."
            )
    off = int((found["light_offset_arcsec"] > OFF_CENTRE_PIXELS * (known.pixscale_arcsec or np.inf)).sum())
    if off:
        out.append(
            f"In {off} stamps the light uphill from the centre has its summit more than {OFF_CENTRE_PIXELS:g} pixels away: the "
            "position may be none of a galaxy. Off-centre galaxies pass more often than the false-positive rate says."
        )
    surveys = sorted(set(found["survey"].dropna()))
    if len(surveys) > 1:
        out.append(f"The stamps mix releases ({', '.join(surveys)}), whose scores need not compare.")
    if not bundle.record.evaluation:
        out.append("Nobody has judged this model on a test split: the bundle was made without an evaluation.")
    for sentence in out:
        log.warning("%s", sentence)
    return out


def write_csv(found: pd.DataFrame, uri: str) -> None:
    """The results for people and spreadsheets, to which a text that begins like a formula is quoted."""
    shown = found.copy()
    for name in ("id", "reason", "known_lens", "known_lens_grading", "survey"):  # texts of other people
        shown[name] = [safe_cell(value) if isinstance(value, str) else value for value in shown[name]]
    storage.write_bytes(uri, shown.to_csv(index=False, float_format="%.10g").encode())


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula; numbers stay.

    >>> safe_cell("=HYPERLINK(0)"), safe_cell("-12.5"), safe_cell("J0123-0456")
    ("'=HYPERLINK(0)", '-12.5', 'J0123-0456')
    """
    if not text.startswith(FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


if __name__ == "__main__":
    sys.exit(main())
