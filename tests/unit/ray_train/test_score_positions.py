"""A user's positions: every row comes back, with its score or the reason why it has none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from lensdata import tables
from lensdata.catalogue.positions import position_id, read_positions
from lensdata.config.bundle import PositionColumns
from lensdata.errors import InputError
from ray_train import bundle as bundles
from ray_train import score_positions
from tests.browser import look
from tests.stamp_server import Asked, serve, stamp_body

Bundled = dict[str, Path]
FAST = (
    "service.requests_per_second=1000", "service.backoff_s=0.001", "service.backoff_max_s=0.01", "service.max_attempts=2",
    "quality.edge_score_max=1", "execution.threads=1",
)  # fmt: skip


def positions(count: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Name": [f"G{place}" for place in range(count)],
            "RA": 10 + 0.1 * np.arange(count),
            "DEC": -5.0 + 0.01 * np.arange(count),
        }
    )


def run(folder: Path, bundle: Path, asked: Asked, table: pd.DataFrame | None = None, *settings: str) -> int:
    """Score a table into ``folder``/out; the table is written once."""
    place = folder / "positions.csv"
    if table is not None:
        table.to_csv(place, index=False)
    (folder / "lenses.csv").write_text("name,ra,dec,grading\nL1,10.1005,-4.99,=1+1\n")
    line = [f"inputs.table={place}", f"inputs.model={bundle}", f"inputs.lenses={folder / 'lenses.csv'}"]
    line += [f"service.url={asked.url}", *FAST, *settings]
    return score_positions.main(["--output", str(folder / "out"), *line])


def found(folder: Path) -> pd.DataFrame:
    return tables.read_table(str(folder / "out"), tables.POSITION_SCORES).to_pandas()


@pytest.fixture
def server() -> Iterator[Asked]:
    with serve() as asked:
        yield asked


def test_every_row_is_scored_as_the_bundle_scores_its_stamp(tmp_path: Path, bundled: Bundled, server: Asked) -> None:
    assert run(tmp_path, bundled["bundle"], server, positions(), "prevalence=1e-3") == 0
    out, bundle = found(tmp_path), bundles.load(str(bundled["bundle"]))
    assert out["outcome"].tolist() == ["scored"] * 12
    assert out["id"].tolist() == [f"G{place}" for place in range(12)]
    assert out["row"].tolist() == list(range(1, 13))
    np.testing.assert_allclose(out["ra"], positions()["RA"])
    np.testing.assert_allclose(out["probability"], bundle.probability(out["logit"]), rtol=1e-5)
    np.testing.assert_allclose(out["survey_probability"], bundle.probability(out["logit"], 1e-3), rtol=1e-5)
    assert (out["survey_probability"] < out["probability"]).all()
    assert (out["light_offset_arcsec"] <= 0.262 * 3).all()
    query = {"ra": "10.3", "dec": "-4.97", "size": "16", "bands": "grz", "pixscale": "0.262"}
    stamp = stamp_of(query)
    layout = score_positions.layout(
        score_positions.fetch_config(bundle.record.input, score_positions.ScorePositionsConfig())
    )
    np.testing.assert_allclose(bundle.score(stamp[None], layout)[0], out["logit"][3], atol=1e-4)


def stamp_of(query: dict[str, str]) -> np.ndarray:
    """(H, W, bands) as the server sends it."""
    return np.moveaxis(fits.HDUList.fromstring(stamp_body(query))[0].data.astype(np.float32), 0, -1)


def test_a_known_lens_nearby_is_named(tmp_path: Path, bundled: Bundled, server: Asked) -> None:
    assert run(tmp_path, bundled["bundle"], server, positions()) == 0
    out = found(tmp_path)
    assert out["known_lens"].dropna().to_dict() == {1: "L1"}
    assert out["separation_arcsec"][1] == pytest.approx(1.8 * np.cos(np.radians(4.99)), abs=0.01)


def test_rows_without_a_position_and_repeated_ones_are_told_and_not_lost(
    tmp_path: Path, bundled: Bundled, server: Asked
) -> None:
    table = positions(3).astype(object)
    more = [
        ("a", "", 1),
        ("b", "10:20:30", 2),
        ("c", 400, 2),
        ("d", 10, -91),
        ("e", 10.1, -4.99),
        ("f", -349.9, -4.99),
        ("g", 1, "inf"),
    ]
    table = pd.concat([table, pd.DataFrame(more, columns=table.columns)])
    assert run(tmp_path, bundled["bundle"], server, table) == 0
    out = found(tmp_path)
    assert len(out) == len(table)
    assert out["outcome"].tolist() == ["scored"] * 3 + ["invalid"] * 4 + ["scored"] * 2 + ["invalid"]
    assert out["reason"].tolist()[3:] == [
        "ra_not_a_number", "ra_not_a_number", "ra_out_of_range", "dec_out_of_range", "same_place_as_row_2", "same_place_as_row_2",
        "dec_not_a_number",
    ]  # fmt: skip
    assert out["logit"][7] == out["logit"][8] == out["logit"][1]
    assert len(server.positions) == 3


def garbage(ra: float, dec: float, number: int) -> tuple[int, bytes] | None:
    """What a server may do instead of sending a stamp, by the tenth of a degree."""
    return {
        0: (500, b"no coverage"), 1: (404, b"gone"), 2: (200, b"<html>maintenance</html>"), 3: (200, b""),
        4: (200, stamp_body({"ra": "1", "dec": "1", "size": "16", "bands": "grz", "pixscale": "0.262"})),
        5: (200, stamp_body({"ra": f"{ra}", "dec": f"{dec}", "size": "16", "bands": "grz", "pixscale": "0.262"})[:4000]),
        6: (302, b""), 7: (429, b""), 8: (200, b"SIMPLE  = garbage"),
        9: (200, stamp_body({"ra": f"{ra}", "dec": f"{dec}", "size": "17", "bands": "grz", "pixscale": "0.262"})),
    }.get(round((ra - 10) * 10))  # fmt: skip


def test_whatever_the_server_answers_each_row_has_its_reason(tmp_path: Path, bundled: Bundled) -> None:
    with serve(garbage) as asked:
        assert run(tmp_path, bundled["bundle"], asked, positions(), "service.outage_max_s=60") == 0
    out = found(tmp_path)
    assert out["reason"].tolist() == [
        "http_500", "http_404", "not_fits", "not_fits", "wrong_position_or_scale", "truncated", "http_302", "http_429", "truncated",
        "wrong_size", None, None,
    ]  # fmt: skip
    assert out["outcome"].tolist() == ["failed"] * 10 + ["scored"] * 2
    text = (tmp_path / "out" / "page.html").read_text()
    assert "the service failed; outside the survey it always does" in text
    report = json.loads((tmp_path / "out" / "_report.json").read_text())
    assert report["outcomes"] == {"failed": 10, "scored": 2}


def test_a_stamp_without_data_is_excluded_with_the_band(tmp_path: Path, bundled: Bundled) -> None:
    def fault(ra: float, dec: float, number: int) -> tuple[int, bytes] | None:
        query = {"ra": f"{ra}", "dec": f"{dec}", "size": "16", "bands": "grz", "pixscale": "0.262"}
        return (200, stamp_body(query, empty="r")) if ra < 10.05 else None

    with serve(fault) as asked:
        assert run(tmp_path, bundled["bundle"], asked, positions(2)) == 0
    assert found(tmp_path)[["outcome", "reason"]].values.tolist() == [["excluded", "empty_band_r"], ["scored", None]]


def test_a_killed_fetch_asks_only_for_what_is_missing(
    tmp_path: Path, bundled: Bundled, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensdata.cutouts import in_process

    published = in_process.publish

    def killed(folder: str, ledger: str, index: int, *rest: Any) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return published(folder, ledger, index, *rest)

    small = "execution.stamps_per_part=3"
    with serve() as asked:
        monkeypatch.setattr(in_process, "publish", killed)
        assert run(tmp_path, bundled["bundle"], asked, positions(), small) == 130
        monkeypatch.setattr(in_process, "publish", published)
        first = len(asked.positions)
        assert run(tmp_path, bundled["bundle"], asked, None, small) == 0
        again = asked.positions[first:]
    assert len(again) == 6  # two parts of three had been published
    assert sorted(again) == sorted(zip(positions()["RA"].round(7)[6:], positions()["DEC"].round(7)[6:], strict=True))
    assert found(tmp_path)["outcome"].tolist() == ["scored"] * 12


def test_a_finished_output_is_left_alone_and_retry_asks_for_failures_alone(tmp_path: Path, bundled: Bundled) -> None:
    down = {"now": True}

    def fault(ra: float, dec: float, number: int) -> tuple[int, bytes] | None:
        return (500, b"") if down["now"] and ra < 10.25 else None

    with serve(fault) as asked:
        assert run(tmp_path, bundled["bundle"], asked, positions()) == 0
        assert (found(tmp_path)["outcome"] == "failed").sum() == 3
        before = len(asked.positions)
        assert run(tmp_path, bundled["bundle"], asked) == 0
        assert len(asked.positions) == before
        down["now"] = False
        assert run(tmp_path, bundled["bundle"], asked, None, "--retry") == 0
        assert len(asked.positions) == before + 3
    assert found(tmp_path)["outcome"].tolist() == ["scored"] * 12
    assert len(tables.read_table(str(tmp_path / "out" / "ledger"), tables.LEDGER)) == 12


def test_an_outage_fails_the_step_and_the_next_run_goes_on(
    tmp_path: Path, bundled: Bundled, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(ra: float, dec: float, number: int) -> tuple[int, bytes] | None:
        return (503, b"") if number > 3 else None

    short = ("service.connections_per_task=1", "execution.stamps_per_part=2")
    with serve(fault) as asked:
        assert (
            run(
                tmp_path,
                bundled["bundle"],
                asked,
                positions(),
                *short,
                "service.outage_max_s=0.05",
                "service.max_attempts=50",
            )
            == 1
        )
    assert "did not answer for 0.05 s; run again to go on" in capsys.readouterr().err
    with serve() as asked:
        assert run(tmp_path, bundled["bundle"], asked, None, *short) == 0
        assert len(asked.positions) == 9
    assert found(tmp_path)["outcome"].tolist() == ["scored"] * 12


def test_the_page_is_one_file_that_a_name_cannot_break_and_nothing_is_a_formula(
    tmp_path: Path, bundled: Bundled, server: Asked
) -> None:
    table = positions(3).assign(Name=["<script>alert(1)</script>", "=HYPERLINK(1)", "-3"])
    assert run(tmp_path, bundled["bundle"], server, table) == 0
    text = (tmp_path / "out" / "page.html").read_text()
    assert "<script" not in text
    assert text.count("data:image/jpeg") == 3
    assert 'src="http' not in text
    shown = pd.read_csv(tmp_path / "out" / "results.csv")
    assert shown["id"].tolist() == ["<script>alert(1)</script>", "'=HYPERLINK(1)", "-3"]
    assert shown["known_lens_grading"][1] == "'=1+1"
    np.testing.assert_allclose(shown["logit"], found(tmp_path)["logit"], rtol=1e-6)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_a_phone_and_a_screen_and_asks_nobody(
    tmp_path: Path, bundled: Bundled, server: Asked, width: int
) -> None:
    table = positions(3).astype(object)
    table.loc[3] = ["a-name-without-any-place-to-break-it-" * 3, "x", 1]
    assert run(tmp_path, bundled["bundle"], server, table) == 0
    page = tmp_path / "out" / "page.html"
    questions = {
        "wide": "document.documentElement.scrollWidth > innerWidth",
        "rows": "document.images.length",
        "cut off": "[...document.querySelectorAll('.found td')].filter(cell => cell.getBoundingClientRect().right"
        " > cell.parentElement.getBoundingClientRect().right + 1).length",
    }
    seen = look(page, width, questions)
    assert (seen.complaints, seen.answers) == ([], {"wide": False, "rows": 3, "cut off": 0})
    assert [address for address in seen.fetched if not address.startswith(("file:", "data:"))] == []


def test_a_model_trained_on_another_route_or_elsewhere_on_the_sky_is_said(
    tmp_path: Path, bundled: Bundled, server: Asked
) -> None:
    copy = Path(shutil.copytree(bundled["bundle"], tmp_path / "bundle"))
    record = json.loads((copy / "bundle.json").read_text())
    record["input"] |= {"routes": ["tiles"], "layers": ["ls-dr9"], "dec_deg": [0, 30]}
    (copy / "bundle.json").write_text(json.dumps(record))
    assert run(tmp_path, copy, server, positions(3)) == 0
    text = (tmp_path / "out" / "page.html").read_text()
    assert "was trained on stamps by route tiles" in text
    assert "was trained on layer ls-dr9; these stamps are of ls-dr10" in text
    assert "3 of 3 positions lie outside the declinations of the training stamps, 0.00 to 30.00" in text
    assert "Nobody has judged this model" in text


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "ecsv"])
def test_tables_of_every_kind_give_the_same_positions(tmp_path: Path, ending: str) -> None:
    place, table = tmp_path / f"t.{ending}", positions(3).rename(columns={"Name": "TARGETID"})
    if ending == "parquet":
        table.to_parquet(place)
    elif ending == "csv":
        table.to_csv(place, index=False)
    else:
        Table.from_pandas(table).write(place, format="fits" if ending == "fits" else "ascii.ecsv")
    out = read_positions(str(place), PositionColumns())
    assert out["id"].tolist() == ["G0", "G1", "G2"]
    assert out["cutout_id"].tolist() == [position_id(ra, dec) for ra, dec in table[["RA", "DEC"]].to_numpy()]


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet"])
def test_a_name_of_digits_keeps_each_of_them(tmp_path: Path, ending: str) -> None:
    """Beside a row without a name pandas makes floats of whole numbers, and 39633123456789013 has more digits than those."""
    place = tmp_path / f"t.{ending}"
    if ending == "parquet":
        names = pa.array([39633123456789013, None, 7], pa.int64())
        pq.write_table(pa.table({"TARGETID": names, "ra": [1.0, 2.0, 3.0], "dec": [1.0, 2.0, 3.0]}), place)
    else:
        frame = pd.DataFrame({"TargetID": ["39633123456789013", None, "007"], "ra": [1, 2, 3], "dec": [1, 2, 3]})
        frame.to_csv(place, index=False, sep="\t" if ending == "tsv" else ",")
    out = read_positions(str(place), PositionColumns())
    assert out["id"].tolist() == ["39633123456789013", None, "7" if ending == "parquet" else "007"]
    assert out["ra"].tolist() == [1.0, 2.0, 3.0]


def test_both_sides_of_the_meridian_and_of_the_equator_are_one_place(tmp_path: Path) -> None:
    place = tmp_path / "t.csv"
    place.write_text("ra,dec\n0,0\n360,0\n-360,-0.0\n-1e-12,-1e-9\n359.99999999,1e-9\n")
    out = read_positions(str(place), PositionColumns())
    assert out["cutout_id"].nunique() == 1
    assert (out["ra"] < 360).all()


@pytest.mark.parametrize(
    ("text", "columns", "sentence"),
    [
        ("x,dec\n1,2\n", {}, r"column 'ra' is missing \(columns\.ra\); found x, dec"),
        ("ra,dec\n", {}, "has no rows"),
        ("ra,dec\n10h,2d\n", {}, "none of 1 rows has a position in decimal degrees; the first: ra not a number"),
        ("ra,dec\n1,2\n", {"id": "who"}, "column 'who' is missing"),
        ("a,b\n1,2\n", {"ra": "A", "dec": "B"}, None),
    ],
)
def test_a_table_without_positions_is_refused_in_a_sentence(
    tmp_path: Path, text: str, columns: dict[str, str], sentence: str | None
) -> None:
    place = tmp_path / "t.csv"
    place.write_text(text)
    if sentence is None:
        assert read_positions(str(place), PositionColumns(**columns))["ra"].tolist() == [1.0]
        return
    with pytest.raises(InputError, match=sentence):
        read_positions(str(place), PositionColumns(**columns))


def test_a_bundle_whose_stamps_no_service_has_is_refused(
    tmp_path: Path, bundled: Bundled, server: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(bundled["bundle"], tmp_path / "bundle"))
    record = json.loads((copy / "bundle.json").read_text())
    record["input"] |= {"unit": "other"}
    (copy / "bundle.json").write_text(json.dumps(record))
    assert run(tmp_path, copy, server, positions(1)) == 2
    assert "the cutout service has square ones of g, r, i, z in nanomaggy" in capsys.readouterr().err
    assert not server.positions


def test_the_address_where_a_cloud_keeps_credentials_is_never_asked(
    tmp_path: Path, bundled: Bundled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LENSDATA_ALLOWED_HOSTS", ".legacysurvey.org")
    with serve() as asked:
        assert run(tmp_path, bundled["bundle"], asked, positions(1)) == 2
        assert not asked.positions
    assert "is not among the hosts that LENSDATA_ALLOWED_HOSTS allows" in capsys.readouterr().err


def test_no_reachable_service_and_no_bundle_are_sentences(
    tmp_path: Path, bundled: Bundled, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Asked("http://127.0.0.1:9/x")
    assert run(tmp_path, bundled["bundle"], nowhere, positions(1)) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "none", nowhere) == 2
    assert "does not exist" in capsys.readouterr().err
