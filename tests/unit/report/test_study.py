"""What a study writes: the same bytes for the same results, whole for any study, and readable."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html import unescape
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from lensdata.audit.decision import ArmFigures, decide
from lensdata.audit.studies import arm_figures
from lensdata.config.tuning import DecisionConfig
from lensdata.errors import InputError
from lensdata.report.study import Study, draw, markdown, render, results, write_study
from lensdata.report.study_screen import TrialLine, study_table
from lensdata.report.study_tables import of_steps
from tests import browser
from tests.trials import trial, validation_scores

pytestmark = pytest.mark.slow  # in CI by name

ARMS = {
    "A1": (0.96, 0.70, 0.06),
    "B1": (0.935, 0.67, 0.035),
    "B2": (0.92, 0.56, 0.02),
    "B3": (0.93, 0.54, 0.01),
    "B4": (0.92, 0.59, 0.026),
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WITHOUT_TEXT = "[...document.querySelectorAll('figure.plot')].filter(e => !e.getAttribute('aria-label')).length"


def study_of(trials, axes, decided=False, **more):
    decision = decide(arm_figures(trials, "masking"), DecisionConfig()) if decided else None
    seeds = sorted({one.seed for one in trials})
    return Study("example", axes, seeds, trials[0].cell, trials, validation_scores(trials), decision, **more)


def masking_study():
    rng = np.random.default_rng(0)
    trials = []
    for arm, known in ARMS.items():
        for seed in (1, 2, 3):
            auc, core, reliance = np.array(known) + rng.normal(0, (0.004, 0.01, 0.003))
            trials.append(trial(arm, seed, auc=float(auc), core=float(core), reliance=float(reliance)))
    del trials[-2]
    trials.append(trial("B4", 2, status="failed", reason="CUDA out of memory | lower batch_size."))
    winner = trial("B3", 42, trial="winner", test_auroc=0.91)
    found = study_of(
        trials,
        {"masking": tuple(ARMS)},
        decided=True,
        winner=winner,
        provenance={"commit": "0123abc", "manifests": {"paired": "aa11", "unpaired": None}},
    )
    return replace(found, reference="B1")


def grid_study():
    trials = [
        trial({"architecture": architecture, "cleaning": cleaning}, seed, auc=0.9 + 0.02 * (cleaning == "none") + 0.001 * seed)
        for architecture in ("resnet18", "shielded") for cleaning in ("none", "p > 0.4") for seed in (1, 2)
    ]  # fmt: skip
    return study_of(trials, {"architecture": ("resnet18", "shielded"), "cleaning": ("none", "p > 0.4")})


def search_study():
    trials = [
        trial({"optimizer.lr": 10.0**-exponent, "images": size}, 1, auc=0.9 + 0.01 * exponent, status=status)
        for exponent, size, status in ((2, 63, "done"), (3, 101, "stopped"), (4, 63, "done"))
    ]  # fmt: skip
    return study_of(trials, {"optimizer.lr": (), "images": ("63", "101")})


def failed_study():
    trials = [trial(arm, 1, status="failed", reason="the manifest does not exist.") for arm in ("A1", "B1")]
    return study_of(trials, {"masking": ("A1", "B1")}, decided=True)


def bare_study():
    """One trial, without theta_E, gates or costs."""
    nothing = dict.fromkeys(("auroc_by_thetae", "theta_e_spread", "worst_theta_e_auc", "core_sensitivity", "core_reliance",
                             "final_core_lr_auc", "final_radial_lr_auc", "cost"))  # fmt: skip
    return study_of([trial("B1", 1, **nothing)], {"masking": ("B1",)}, decided=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The masking study and the folder that it wrote."""
    folder, study = tmp_path_factory.mktemp("study"), masking_study()
    write_study(str(folder), study)
    return folder, study


STUDIES = {
    "masking": masking_study,
    "grid": grid_study,
    "search": search_study,
    "failed": failed_study,
    "bare": bare_study,
}
PICTURES = {
    "masking": {"decision", "seeds", "differences", "core_sensitivity", "theta_e"},
    "grid": {"map", "seeds", "differences", "core_sensitivity", "theta_e"},
    "search": {"parallel", "seeds", "differences", "core_sensitivity", "theta_e"},
    "failed": set(),
    "bare": {"seeds"},
}


@pytest.mark.parametrize("kind", STUDIES)
def test_every_study_gets_the_pictures_that_it_allows_and_a_whole_page(kind):
    found = results(STUDIES[kind]())
    drawn = draw(found)
    assert set(drawn) == PICTURES[kind]
    page = render(found, drawn)
    assert page.count('<figure class="plot" role="img" aria-label="') == page.count("<svg") == len(drawn)
    assert "<script" not in page
    assert all(one.trial in unescape(re.sub("<wbr>|</?span[^>]*>", "", page)) for one in found.trials)


def test_the_same_results_give_the_same_bytes_in_whatever_order_they_came(written, tmp_path):
    folder, study = written
    write_study(str(tmp_path), replace(study, trials=study.trials[::-1]))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert {str(path) for path in files if path.parent.name != "figures"} == {
        "EXPERIMENT_RESULTS.md", "experiment_metrics.csv", "experiment_cells.csv", "report.html", "decision.json",
    }  # fmt: skip
    for path in files:
        assert (folder / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_the_text_tells_decision_cells_differences_winner_and_failures():
    text = markdown(results(masking_study()))
    assert "**MASKED_ARM** Use B3: it passes every criterion." in text
    assert "The decision holds in " in text
    assert "## Differences from B1" in text
    assert "| test AUC " in text
    assert "PASS" in text
    assert "CUDA out of memory \\| lower batch_size." in text  # the stroke does not end the cell
    assert "- commit: 0123abc\n- manifests: paired aa11, unpaired unknown\n" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({len(line) for line in table}) == 1 for table in tables)  # columns stand under each other


def test_a_winner_that_was_not_trained_on_the_full_data_is_held_to_the_target_of_validation():
    text = markdown(results(replace(masking_study(), winner=None)))
    assert "B3, not trained on the full data; the test split was not read." in text
    [line] = [line for line in text.splitlines() if line.startswith("| test AUC")]
    assert "NOT MEASURED" in line


def test_a_study_in_which_all_failed_says_so():
    text = markdown(results(failed_study()))
    assert "No trial finished: there is nothing to compare." in text
    assert "**UNDECIDED**" in text
    assert text.count("the manifest does not exist.") == 2


def test_one_seed_is_told_to_be_one():
    text = markdown(results(search_study()))
    assert "how figures change with the seed is not measured" in text
    assert "one seed: its spread is not measured" in text


def test_a_row_per_trial_and_one_per_cell_come_back_from_the_csv(written):
    folder, study = written
    trials = list(csv.DictReader(StringIO((folder / "experiment_metrics.csv").read_text())))
    found = results(study)
    assert [row["trial"] for row in trials] == [one.trial for one in found.trials]
    assert [float(row["best_val_auroc"] or "nan") for row in trials] == pytest.approx(
        [np.nan if one.best_val_auroc is None else one.best_val_auroc for one in found.trials], nan_ok=True
    )
    assert trials[0]["auc_theta_e_0.5_0.75_n"] == "12"
    assert trials[-2]["reason"] == "CUDA out of memory | lower batch_size."
    cells = {row["cell"]: row for row in csv.DictReader(StringIO((folder / "experiment_cells.csv").read_text()))}
    assert list(cells) == list(ARMS)
    assert (cells["B4"]["seeds_done"], cells["B4"]["seeds_failed"]) == ("2", "1")
    assert cells["B1"]["difference_value"] == ""
    assert float(cells["B2"]["difference_value"]) == pytest.approx(found.differences["B2"].value)


def test_the_decision_is_written_with_its_steps_and_its_stability(written):
    folder, _ = written
    told = json.loads((folder / "decision.json").read_text())
    assert (told["branch"], told["winner"], told["needs"]) == ("MASKED_ARM", "B3", [])
    assert set(told["stability"]["by_seed"]) == {"1", "2", "3"}
    assert [step["limit"] for step in told["steps"][:4]] == [0.6, 0.03, 0.65, 0.05]
    assert told["rule"]["baseline"] == "B1"
    assert set(told["figures"]) == set(ARMS)


def test_a_study_whose_trials_are_another_studys_is_refused():
    study = grid_study()
    with pytest.raises(InputError, match="has no variant of masking, an axis of study example"):
        results(replace(study, axes={"masking": ("B1",)}))
    with pytest.raises(InputError, match="two trials called resnet18_none-s1"):
        results(replace(study, trials=[*study.trials, study.trials[0]]))


def shown(lines, width, **more):
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(study_table(lines, **more))
    return console.file.getvalue()


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("width", [80, 140])
def test_the_table_of_the_terminal_fits_and_hides_nothing(kind, width):
    trials = STUDIES[kind]().trials
    text = shown(trials, width, title="example")
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert all(f"{one.best_val_auroc:.4f}" in text for one in trials if one.best_val_auroc is not None)


def test_a_live_table_keeps_what_runs_and_counts_what_is_not_shown():
    lines = [
        *masking_study().trials,
        TrialLine("B5-s1", "running", 3, 0.81),
        TrialLine("B5-s2"),
    ]
    text = shown(lines, 80, rows_max=4)
    assert "B5-s1" in text
    assert "B4-s2" in text  # failed
    assert "B5-s2" not in text
    assert "14 done, 1 running, 1 failed, 1 waiting; 13 not shown" in " ".join(text.split())


def test_an_epoch_says_what_it_is():
    text = shown([TrialLine("B1-s1", "running", 4, 0.8), TrialLine("B1-s2", "done", 3, 0.9), TrialLine("B1-s3")], 80)
    assert ["4 done" in text, "best 3" in text] == [True, True]


def test_a_long_name_is_broken_between_axes_and_never_elsewhere():
    trials = [trial({"a": "resnet18-wide", "b": "no-cleaning-at-all", "c": "d4"}, seed) for seed in (1, 2)]
    found = results(study_of(trials, {"a": ("resnet18-wide",), "b": ("no-cleaning-at-all",), "c": ("d4",)}))
    page = render(found, draw(found))
    spans = [f'<span class="nowrap">{part}</span>' for part in ("resnet18-wide_", "no-cleaning-at-all_", "d4-s1")]
    assert "<wbr>".join(spans) in page
    assert "resnet18-wide_ " in shown(trials, 80)
    assert '<th scope="row"><span class="nowrap">B1-s1</span></th>' in render(results(bare_study()), {})


def test_a_cell_with_other_negatives_is_not_called_better_or_worse():
    trials = [trial(arm, seed, auc=auc) for arm, auc in (("B1", 0.8), ("B2", 0.97), ("A1", 0.97)) for seed in (1, 2, 3)]
    scores = validation_scores(trials)
    for seed in (1, 2, 3):
        ids, label, logit = scores[f"A1-s{seed}"]
        scores[f"A1-s{seed}"] = (np.where(np.asarray(label) == 0, np.asarray(ids) + 1, ids), label, logit)
    study = Study("example", {"masking": ("A1", "B1", "B2")}, (1, 2, 3), "B1", trials, scores)
    found = results(study)
    a1, b2 = found.differences["A1"], found.differences["B2"]
    assert (a1.note, a1.p_holm, a1.same_task) == ("other negatives: not the same task", None, False)
    assert b2.p_holm == b2.p_value < 0.05
    text = markdown(found)
    assert "1 of 1 other cells differ from B1" in text
    assert "Judged on another task than B1 and not compared with it: A1." in text
    assert [line.split("|")[2].strip() for line in text.splitlines() if re.match(r"\| A1 .*: 0 \|$", line)] == [a1.note]


def test_limits_are_told_as_they_were_set_and_values_stand_on_their_side():
    rule = DecisionConfig(core_gate_success=0.501, reliance_success=0.0275)
    decision = decide({"A1": [], "B1": [ArmFigures(1, core_gate_auc=0.501004, core_reliance=0.01)]}, rule)
    table = of_steps(decision)
    assert [(row[2], row[3], row[4]) for row in table.rows[:2]] == [
        ("no", "0.501004", "< 0.501"),
        ("yes", "0.0100", "< 0.0275"),
    ]
    assert decision.steps[0].sentence == "core gate AUC of B1 is 0.501004, not below 0.501"


@pytest.mark.browser
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1600, False), (1600, True)])
@pytest.mark.parametrize("kind", ["masking", "grid", "search", "failed"])
def test_the_page_fits_every_screen_and_asks_for_nothing(tmp_path, kind, width, dark):
    write_study(str(tmp_path), STUDIES[kind]())
    seen = browser.look(
        tmp_path / "report.html", width, {"overflow": OVERFLOW, "without_text": WITHOUT_TEXT}, dark=dark
    )
    assert (seen.complaints, seen.fetched) == ([], [])
    assert seen.answers == {"overflow": 0, "without_text": 0}
