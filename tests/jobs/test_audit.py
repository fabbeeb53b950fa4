"""The audit of two runs on the small survey: gates, probes, stacking, the report of one and of both (R-E, R-M3)."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.compute as pc
import pytest

from infra import cli
from lensdata import tables
from ray_train import evaluate, gates, probe, stack, train
from ray_train.training import write_part
from tests import browser

pytestmark = pytest.mark.slow  # half a minute beside the survey that other tests share
TINY_TRAINING = Path(__file__).parents[2] / "configs" / "training" / "tiny.yaml"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WITHOUT_TEXT = "[...document.querySelectorAll('img')].filter(e => !e.alt).length + " \
               "[...document.querySelectorAll('figure.plot')].filter(e => !e.getAttribute('aria-label')).length"  # fmt: skip
INK_ON_PAPER = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('figure.plot svg')).fill]"


@pytest.fixture(scope="module")
def audited(built, trained, tmp_path_factory):
    """Two runs with their evaluations; the first with every section a report can have."""
    out = tmp_path_factory.mktemp("audited")
    manifest = f"inputs.manifest={built}/audit_70_15_15"
    (out / "run1").symlink_to(trained)
    argv = ["--config", str(TINY_TRAINING), manifest, "--output", f"{out}/run2", "seed=2"]
    assert train.main([*argv, "execution.runtime=local"]) == 0
    run = f"inputs.run={out}/run1"
    assert gates.main([manifest, run, "--output", f"{out}/gates", "sample_size=0", "resamples=200"]) == 0
    assert (
        probe.main([manifest, run, "--output", f"{out}/probe", "rows_max=24", "attribution_stamps=2", "split=test"])
        == 0
    )
    members = [f"inputs.members.{name}={out}/run{seed}" for name, seed in (("one", 1), ("two", 2))]
    quick = ["resamples=200", "forms=[best_member,mean_logit,logistic]", "folds=2"]
    assert stack.main([manifest, *members, "--output", f"{out}/stack", *quick]) == 0
    known_lenses(out)
    more = [f"inputs.{name}={out}/{name}" for name in ("gates", "probe", "stack")] + [
        f"inputs.recovery.known={out}/listed"
    ]
    small = ["resamples=200", "smallest_stratum=2", "gallery_stamps=2"]
    more += ["targets={auc: 0.99}", "circular_lists=[known]"]
    assert evaluate.main([manifest, run, *more, *small, "--output", f"{out}/one"]) == 0
    assert evaluate.main([manifest, f"inputs.run={out}/run2", *small, "--output", f"{out}/two"]) == 0
    return out


def known_lenses(out):
    """The run's own scores of the lenses it validated on and was judged on, as an external list."""
    scores = tables.read_table(str(out / "run1" / "scores"), tables.SCORES)
    rows = scores.filter(pc.and_(pc.equal(scores["label"], 1), pc.not_equal(scores["split"], "train")))
    write_part(rows, str(out / "listed" / "dataset" / "part-00000.parquet"))
    (out / "listed" / "_SUCCESS").touch()


def test_the_numbers_fit_the_published_schema(audited):
    schema = json.loads(resources.files("lensdata.report").joinpath("metrics.schema.json").read_text())
    for name in ("one", "two"):
        text = (audited / name / "metrics.json").read_text()
        assert "NaN" not in text
        assert "Infinity" not in text
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_every_section_that_was_asked_for_is_told(audited):
    found = json.loads((audited / "one" / "metrics.json").read_text())
    assert {"gates", "sensitivity", "stacking", "recovery", "paper_iv", "metadata"} <= found.keys()
    assert found["recovery"]["known"]["circular"]
    scores = tables.read_table(str(audited / "run1" / "scores")).to_pandas()
    lenses = scores[scores["label"] == 1]
    assert found["recovery"]["known"]["n"] == int((lenses["split"] != "train").sum())
    assert found["recovery"]["known"]["n_trained_on"] == int((lenses["split"] == "val").sum())
    assert found["targets"][0]["verdict"] == ("PASS" if found["auc"]["value"] > 0.99 else "FAIL")
    text = (audited / "one" / "report.html").read_text()
    for section in ("gates", "network", "stacking", "recovery", "paper_iv", "strata", "calibration", "methods"):
        assert f'<h2 id="{section}">' in text
    assert "circular: made by finders of this family" in text


def test_no_page_points_to_a_section_that_it_does_not_have(audited):
    for name in ("one", "two"):
        text = (audited / name / "report.html").read_text()
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r' id="([^"]+)"', text))


def test_every_figure_of_the_page_is_a_file_for_a_paper(audited):
    text = (audited / "one" / "report.html").read_text()
    files = sorted((audited / "one" / "figures").iterdir())
    assert {"roc.pdf", "gates.pdf", "core.pdf", "changes.pdf", "attributions.pdf", "strata.pdf"} <= {
        file.name for file in files
    }
    assert all(file.read_bytes().startswith(b"%PDF") for file in files)
    assert text.count('<figure class="plot"') == len(files)


def test_two_evaluations_are_compared_in_pairs(audited, capsys):
    output = audited / "reports"
    assert cli.main(["report", f"one={audited}/one", f"two={audited}/two", "--output", str(output)]) == 0
    assert f"report  {output}/comparison/report.html" in capsys.readouterr().out
    compared = json.loads((output / "comparison" / "comparison.json").read_text())
    auc = [json.loads((audited / name / "metrics.json").read_text())["auc"]["value"] for name in ("one", "two")]
    difference = compared["differences"]["two"]["metrics"]["auc"]
    assert difference["value"] == pytest.approx(auc[1] - auc[0])
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["p_holm"] >= difference["p_value"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("inputs.probe={out}/probe", "inputs.probe={out}/probe was made of another run than inputs.run={out}/run2"),
        ("inputs.gates={out}/gates", "inputs.gates={out}/gates was made of another run than inputs.run={out}/run2"),
        ("inputs.controls={out}/run2/scores", "The controls hold none of the"),
        ("circular_lists=[unheard]", "circular_lists names unheard; the lists are none"),
        ("targets={{acu: 0.9}}", "targets.acu is no metric that can be asked for"),
    ],
)
def test_what_belongs_to_another_run_or_does_not_exist_is_refused(audited, built, tmp_path, capsys, given, sentence):
    argv = [f"inputs.manifest={built}/audit_70_15_15", f"inputs.run={audited}/run2", "--output", str(tmp_path / "e")]
    assert evaluate.main([*argv, "resamples=100", given.format(out=audited)]) == 2
    assert sentence.format(out=audited) in capsys.readouterr().err


def test_a_run_is_evaluated_where_it_is_not(audited, tmp_path, capfd):
    assert cli.main(["report", str(audited / "run2"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "run2" / "report.html").is_file()
    assert "ray_train.evaluate inputs.run=" in capfd.readouterr().out


def test_what_cannot_be_reported_is_said_in_a_sentence(audited, tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds neither metrics.json" in capsys.readouterr().err
    assert cli.main(["report", f"one={audited}/one", f"one={audited}/two"]) == 2
    assert "give them names" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1600, False), (1600, True)])
@pytest.mark.parametrize("page", ["one/report.html", "reports/comparison/report.html"])
def test_the_page_fits_every_screen_and_asks_for_nothing(audited, page, width, dark):
    if not (audited / "reports").exists():
        assert (
            cli.main(["report", f"one={audited}/one", f"two={audited}/two", "--output", str(audited / "reports")]) == 0
        )
    questions = {"overflow": OVERFLOW, "without_text": WITHOUT_TEXT, "colours": INK_ON_PAPER}
    seen = browser.look(audited / page, width, questions, dark=dark)
    assert seen.complaints == []
    assert seen.fetched == []
    assert seen.answers["overflow"] == 0
    assert seen.answers["without_text"] == 0
    paper, ink = (
        np.mean([int(n) for n in colour[colour.index("(") + 1 : -1].split(",")[:3]])
        for colour in seen.answers["colours"]
    )
    assert (paper < 80 and ink > 180) if dark else (paper > 240 and ink < 80)
