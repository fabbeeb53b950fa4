"""Combining the scores of several networks (R-M3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from lensdata import tables
from lensdata.config.stack import FORMS, StackConfig
from ray_train import stack
from ray_train.core import stacking
from tests.unit.ray_train.test_train import run

SMALL = StackConfig(folds=3, resamples=500, fpr_levels=(0.1, 0.03), features=("nobs_z",))


def survey(count: int = 3000, seed: int = 0, *, alike: bool = False) -> pd.DataFrame:
    """Two members; each is right where the other is blind: one on deep images, one on shallow ones. Or both everywhere alike."""
    random = np.random.default_rng(seed)
    label = (np.arange(count) % 5 == 0).astype(int)
    deep = random.random(count) < 0.5
    signal = 4 * label - 2 + random.normal(0, 1, count)
    if alike:
        members = [signal + random.normal(0, 0.1, count) for _ in range(2)]
    else:
        members = [np.where(sees, signal, random.normal(0, 4, count)) for sees in (deep, ~deep)]
    return pd.DataFrame({
        "cutout_id": np.arange(count), "label": label, "split": "val", "nobs_z": np.where(deep, 12.0, 4.0),
        "healpix_128": np.arange(count) // 7, "logit one": members[0], "logit two": members[1],
    })  # fmt: skip


def scores_of(rows: pd.DataFrame, config: StackConfig = SMALL) -> dict[str, np.ndarray]:
    sample, _ = stack.sample_of(rows, ["one", "two"], config)
    fold = stack.folds_of(rows, config)
    return {
        form: stack.combined(stack.FORMS[form], sample, rows["split"].to_numpy(str), fold, config)
        for form in config.forms
    }


def test_the_mlp_of_paper_iv_has_1201_parameters() -> None:
    assert sum(weight.numel() for weight in stacking.MlpCombiner(2).parameters()) == 1201


@settings(max_examples=30, deadline=None)
@given(members=st.integers(2, 5), seed=st.integers(0, 999))
def test_constrained_weights_are_those_of_the_inverse_error_matrix(members: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = stacking.ConstrainedCombiner(members, 3).double()
    torch.nn.init.normal_(model.layers[-1].weight, std=0.1)
    torch.nn.init.normal_(model.layers[-1].bias)
    features = torch.randn(4, 3, dtype=torch.float64)
    flat = model.layers(features).detach().numpy()
    for found, values in zip(model.weights(features).detach().numpy(), flat, strict=True):
        lower = np.zeros((members, members))
        lower[np.tril_indices(members)] = values
        lower[np.diag_indices(members)] = np.log1p(np.exp(np.diag(lower)))
        errors = np.linalg.inv(lower @ lower.T + stacking.RIDGE * np.eye(members))
        ones = np.ones(members)
        wanted = np.linalg.solve(errors, ones) / (ones @ np.linalg.solve(errors, ones))
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found.sum(), 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=2, max_size=20))
def test_means_are_those_of_scipy_and_do_not_tie_where_probabilities_do(values: list[tuple[float, float]]) -> None:
    logits = np.array(values)
    sample = stack.Sample(logits, np.empty((len(logits), 0)), np.zeros(len(logits), int))
    mean = special.expit(logits).mean(axis=1)
    found = stack.FORMS["mean_probability"](sample, 0)(sample)
    np.testing.assert_allclose(special.expit(found), mean, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(stack.FORMS["mean_logit"](sample, 0)(sample), logits.mean(axis=1))
    ranks = np.mean([stats.rankdata(each) for each in logits.T], axis=0)
    rank_form = stack.FORMS["mean_rank"](sample, 0)(sample)
    np.testing.assert_allclose(special.expit(rank_form), ranks / (len(logits) + 1), rtol=1e-9)
    sure = stack.Sample(np.array([[38.0, 39.0], [38.0, 40.0]]), np.empty((2, 0)), np.array([0, 1]))
    assert np.diff(stack.FORMS["mean_probability"](sure, 0)(sure)) > 0


def test_weights_that_follow_the_depth_win_where_each_member_sees_half_the_sky() -> None:
    rows = survey(1500)
    forms = ("best_member", "mean_logit", "weighted_free", "weighted_constrained")
    config = SMALL.model_copy(
        update={"forms": forms, "resamples": 2000, "folds": 2}
    )  # few resamples cannot show a small p-value
    scores = scores_of(rows, config)
    auc = {form: roc_auc_score(rows["label"], logit) for form, logit in scores.items()}
    for form in ("weighted_free", "weighted_constrained"):
        assert auc[form] > auc["mean_logit"] + 0.03
        assert auc[form] > auc["best_member"] + 0.03
    found = stack.compare(rows, scores, config)
    assert found["accepted"] in ("weighted_free", "weighted_constrained")
    assert not found["forms"]["mean_logit"]["accepted"]


def test_nothing_is_accepted_where_the_members_agree_or_the_rate_cannot_be_measured() -> None:
    rows = survey(800, alike=True)
    found = stack.compare(rows, scores_of(rows), SMALL)
    assert found["accepted"] is None
    assert found["message"].startswith("No combination is shown to be better")
    few = survey(300)
    config = SMALL.model_copy(update={"fpr_levels": (0.1, 1e-3), "forms": ("best_member", "mean_logit", "logistic")})
    found = stack.compare(few, scores_of(few, config), config)
    assert found["accepted"] is None
    assert "240 negatives do not allow a false positive at FPR 0.001" in found["message"]


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("best_member", "mean_logit")])
def test_labels_that_mean_nothing_cannot_be_learned_by_cross_fitting(form: str) -> None:
    rows = survey(600)
    rows["label"] = np.random.default_rng(1).permutation(rows["label"])
    rows["nobs_z"] = np.arange(600.0)  # what an in-sample fit would remember
    config = SMALL.model_copy(update={"forms": (form,)})
    assert abs(roc_auc_score(rows["label"], scores_of(rows, config)[form]) - 0.5) < 0.12


def test_pixels_stay_in_one_fold_and_other_splits_get_the_whole_fit() -> None:
    rows = survey(700)
    rows.loc[rows.index[350:], "split"] = "test"
    fold = stack.folds_of(rows, SMALL)
    assert fold is not None
    assert (fold[350:] == -1).all()
    assert (rows.assign(fold=fold).head(350).groupby("healpix_128")["fold"].nunique() == 1).all()
    sample, _ = stack.sample_of(rows, ["one", "two"], SMALL)
    own = stack.FORMS["logistic"](sample.of((rows["split"] == "val").to_numpy()), 0)(sample)
    found = scores_of(rows, SMALL.model_copy(update={"forms": ("logistic",)}))["logistic"]
    np.testing.assert_allclose(found[350:], own[350:])
    assert not np.allclose(found[:350], own[:350])


def test_a_judge_may_not_have_seen_the_answers() -> None:
    with pytest.raises(ValueError, match="judged on what it was fitted to"):
        StackConfig(folds=0)
    assert stack.folds_of(survey(50), StackConfig(folds=0, fit_on="train", judge_on="val")) is None


def test_two_runs_become_one_table_of_scores(
    tmp_path: Path, arc_manifest: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = arc_manifest(300)
    for seed in (1, 2):
        assert run(tmp_path / f"run{seed}", manifest, "epochs=1", f"seed={seed}") == 0
    base = ["--output", str(tmp_path / "stack"), f"inputs.manifest={manifest}", "resamples=200"]
    members = [f"inputs.members.{name}={tmp_path}/run{seed}" for name, seed in (("one", 1), ("two", 2))]
    assert stack.main([*base, members[0]]) == 2
    assert "stack needs two members or more, found 1" in capsys.readouterr().err
    assert stack.main([*base, "inputs.memberz.one=x"]) == 2
    assert "it takes manifest, members.NAME" in capsys.readouterr().err
    assert stack.main([*base, *members, "folds=3"]) == 0
    found = json.loads((tmp_path / "stack" / "stacking.json").read_text())
    assert found["members"] == ["one", "two"]
    assert found["accepted"] is None
    scores = tables.read_table(str(tmp_path / "stack"), tables.SCORES).to_pandas()
    assert set(scores["model"]) == set(FORMS)
    assert scores.groupby("model")["cutout_id"].nunique().nunique() == 1
    one, two = (
        tables.read_table(str(tmp_path / f"run{seed}" / "scores")).to_pandas().set_index("cutout_id")["logit"]
        for seed in (1, 2)
    )
    mean = scores[scores["model"] == "mean_logit"].set_index("cutout_id")["logit"]
    np.testing.assert_allclose(mean, (one + two)[mean.index] / 2, rtol=1e-5, atol=1e-6)
    assert scores.loc[scores["split"] == "val", "fold"].notna().all()
    # Paper IV's way: fitted on what the members were trained on, and told so
    again = [
        *base[:1],
        str(tmp_path / "parity"),
        *base[2:],
        *members,
        "fit_on=train",
        "forms=[mlp,mean_logit,best_member]",
    ]
    assert stack.main(again) == 0
    assert json.loads((tmp_path / "parity" / "stacking.json").read_text())["in_sample"] == ["one", "two"]
    (tmp_path / "other").mkdir()
    strange = tables.read_table(str(tmp_path / "run1" / "scores")).slice(5)
    from ray_train.training import write_scores

    write_scores(strange, str(tmp_path / "other" / "dataset" / "part-0.parquet"))
    (tmp_path / "other" / "_SUCCESS").touch()
    assert stack.main([*base, members[0], f"inputs.members.two={tmp_path}/other", "--force"]) == 2
    assert "has no score for 5 of" in capsys.readouterr().err
