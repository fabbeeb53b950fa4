"""Combining the scores of several networks (R-M3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from lensdata import tables
from lensdata.config.stack import FORMS, StackConfig
from lensdata.errors import InputError
from ray_train import stack, stacking
from ray_train.training import write_part
from tests.unit.ray_train.test_train import run

pytestmark = pytest.mark.slow  # in CI by name

MEMBERS = ["one", "two"]
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
    sample, _ = stack.sample_of(rows, MEMBERS, config)
    fitted = (rows["split"] == config.fit_on).to_numpy()
    fold = stack.folds_of(sample, fitted, config)
    return {
        form: stacking.combined(form, sample, fitted, fold, stacking.Options(offset=config.offset))
        for form in config.forms
    }


def compared(rows: pd.DataFrame, config: StackConfig, scores: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    sample, _ = stack.sample_of(rows, MEMBERS, config)
    return stack.compare(rows, sample, MEMBERS, scores or scores_of(rows, config), config)


def sample_from(logits: np.ndarray, labels: np.ndarray | None = None) -> stacking.Sample:
    count = len(logits)
    labels = np.zeros(count, int) if labels is None else labels
    return stacking.Sample(logits, np.empty((count, 0)), labels, np.arange(count))


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
    sample = sample_from(logits)
    mean = special.expit(logits).mean(axis=1)
    found = stacking.FORMS["mean_probability"](sample, stacking.Options())(sample)
    np.testing.assert_allclose(special.expit(found), mean, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(stacking.FORMS["mean_logit"](sample, stacking.Options())(sample), logits.mean(axis=1))
    ranks = np.mean([stats.rankdata(each) for each in logits.T], axis=0)
    rank_form = stacking.FORMS["mean_rank"](sample, stacking.Options())(sample)
    np.testing.assert_allclose(special.expit(rank_form), ranks / (len(logits) + 1), rtol=1e-9)
    sure = sample_from(np.array([[38.0, 39.0], [38.0, 40.0]]))
    assert np.diff(stacking.FORMS["mean_probability"](sure, stacking.Options())(sure)) > 0


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
    found = compared(rows, config, scores)
    lowest = {form: found["forms"][form]["metrics"]["tpr_at_fpr_0.03"]["value"] for form in forms[2:]}
    assert found["accepted"] in lowest
    assert lowest[found["accepted"]] == max(lowest.values())
    assert not found["forms"]["mean_logit"]["accepted"]


def test_nothing_is_accepted_where_the_members_agree_or_the_rate_cannot_be_measured() -> None:
    config = SMALL.model_copy(update={"forms": ("best_member", "mean_logit", "logistic")})
    found = compared(survey(800, alike=True), config)
    assert found["accepted"] is None
    assert found["message"].startswith("No combination is shown to be better")
    assert found["forms"]["logistic"]["reason"].startswith("not shown to be better than ")
    found = compared(survey(300), config.model_copy(update={"fpr_levels": (0.1, 1e-3)}))
    assert found["accepted"] is None
    assert "240 negatives do not allow a false positive at FPR 0.001" in found["message"]
    entry = found["forms"]["logistic"]
    for place in (entry["metrics"], entry["against"]["members.one"]):
        assert place["tpr_at_fpr_0.001"]["value"] is None
        assert "240 negatives" in place["tpr_at_fpr_0.001"]["reason"]
        assert place["tpr_at_fpr_0.1"]["value"] is not None


def test_what_could_never_be_accepted_is_said_to_be_so() -> None:
    rows = survey(300)
    few = SMALL.model_copy(update={"forms": ("logistic", "mean_rank"), "resamples": 100, "fpr_levels": (0.1,)})
    scores = {form: rows["label"] + np.random.default_rng(5).random(300) / 2 for form in few.forms}
    assert (
        "100 resamples cannot show p < 0.05 among 6 comparisons; take 240 or more"
        in compared(rows, few, scores)["message"]
    )
    assert compared(rows, few.model_copy(update={"resamples": 240}), scores)["accepted"] == "logistic"
    assert "nothing besides" in compared(rows, few.model_copy(update={"forms": ("mean_logit",)}))["message"]


def test_the_best_member_is_chosen_once_and_keeps_its_own_logits() -> None:
    rows = survey(600)
    rows["logit two"] = rows["logit one"] * np.where(rows["healpix_128"] % 2, 1, -1) * 0.01  # unlike in scale
    config = SMALL.model_copy(update={"forms": ("best_member", "logistic")})
    scores = scores_of(rows, config)
    np.testing.assert_array_equal(scores["best_member"], rows["logit one"])
    assert set(compared(rows, config, scores)["forms"]["logistic"]["against"]) == {
        "members.one",
        "members.two",
        "mean_logit",
    }


@pytest.mark.parametrize("offset", [False, True])
def test_features_that_tell_the_label_alone_are_refused(offset: bool) -> None:
    rows = survey(600, alike=True)
    rows[["logit one", "logit two"]] += np.random.default_rng(3).normal(0, 3, 600)[:, None]
    rows["nobs_z"] = rows["label"] + np.random.default_rng(2).normal(0, 0.3, len(rows))
    config = SMALL.model_copy(
        update={"forms": ("weighted_free",), "offset": offset, "resamples": 300, "fpr_levels": (0.1,)}
    )
    scores = scores_of(rows, config)
    gain = roc_auc_score(rows["label"], scores["weighted_free"]) - roc_auc_score(
        rows["label"], rows["logit one"] + rows["logit two"]
    )
    assert (gain > 0.05) if offset else (gain < 0.03)
    found = compared(rows, config, scores)
    assert found["accepted"] is None
    assert found["forms"]["weighted_free"]["features_alone"]["low"] > 0.9
    assert "features alone tell lenses from others" in found["forms"]["weighted_free"]["reason"]
    assert "weighted_free is refused" in found["message"]


def test_free_weights_cannot_count_against_a_lens() -> None:
    model = stacking.FreeCombiner(3, 2).double()
    torch.nn.init.normal_(model.layers[-1].weight, std=5.0)
    features, logits = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    assert (model.weights(features) >= 0).all()
    assert (model(logits + torch.eye(3)[1], features) >= model(logits, features)).all()
    assert torch.equal(model(torch.zeros_like(logits), features), torch.zeros(50, dtype=torch.float64))


@pytest.mark.parametrize("form", ["mlp", "weighted_free", "weighted_constrained"])
def test_where_there_is_nothing_to_learn_a_network_is_no_worse_than_the_mean(form: str) -> None:
    random = np.random.default_rng(4)
    label = (np.arange(372) % 8 == 0).astype(int)  # 47 lenses
    signal = 1.5 * (2 * label - 1) + random.normal(0, 1.3, 372)
    logits = signal[:, None] + random.normal(0, 0.4, (372, 2))
    sample = stacking.Sample(logits, random.normal(size=(372, 10)), label, np.arange(372) // 3)
    fitted = np.ones(372, bool)
    fold = stacking.fold_numbers(sample, 5, 42)
    found = stacking.combined(form, sample, fitted, fold, stacking.Options())
    assert roc_auc_score(label, found) > roc_auc_score(label, logits.mean(axis=1)) - 0.01


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
    rows["group_id"] = np.arange(700)
    rows.loc[[0, 100], "group_id"] = -1  # one galaxy, listed in two pixels
    sample, _ = stack.sample_of(rows, MEMBERS, SMALL)
    fitted = (rows["split"] == "val").to_numpy()
    fold = stack.folds_of(sample, fitted, SMALL)
    assert fold is not None
    assert fold[0] == fold[100]
    assert (fold[350:] == -1).all()
    assert (rows.assign(fold=fold).head(350).groupby("healpix_128")["fold"].nunique() == 1).all()
    own = stacking.FORMS["logistic"](sample.of(fitted), stacking.Options())(sample)
    found = scores_of(rows, SMALL.model_copy(update={"forms": ("logistic",)}))["logistic"]
    np.testing.assert_allclose(found[350:], own[350:])
    assert not np.allclose(found[:350], own[:350])


def test_a_judge_may_not_have_seen_the_answers() -> None:
    with pytest.raises(ValueError, match="judged on what it was fitted to"):
        StackConfig(folds=0)
    other = StackConfig(folds=0, fit_on="train", judge_on="val")
    assert stack.folds_of(sample_from(np.zeros((5, 2))), np.ones(5, bool), other) is None


def test_a_rate_is_a_rate_and_has_one_name() -> None:
    for levels in ((0.0,), (1.0,), (0.1, 0.1 + 1e-9)):
        with pytest.raises(ValueError, match="fpr_levels"):
            StackConfig(fpr_levels=levels)
    config = SMALL.model_copy(update={"fpr_levels": (0.0333333333,), "forms": ("logistic",)})
    assert "tpr_at_fpr_0.0333333" in compared(survey(300), config)["forms"]["logistic"]["metrics"]


def test_features_are_numbers_that_the_manifest_has() -> None:
    rows = survey(100).assign(type="REX")
    assert stack.sample_of(rows, MEMBERS, StackConfig())[1] == ["nobs_z"]
    with pytest.raises(InputError, match="no column nobz_z with a value and text in type"):
        stack.sample_of(rows, MEMBERS, SMALL.model_copy(update={"features": ("nobz_z", "type")}))


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
    assert found["folded_by"] in ("stamp", "patch of sky")
    both = {name: tables.read_table(str(tmp_path / name / "scores")).to_pandas() for name in ("run1", "run2")}
    val = both["run1"]["split"] == "val"
    # separate files for the split that fits and the one that judges; nobody scores test
    parts = [
        f"inputs.members.{name}.{split}={stored(tmp_path / f'{name}-{split}', rows[rows['split'] == split])}"
        for name, rows in both.items()
        for split in ("train", "val")
    ]
    parity = [*base[2:], "fit_on=train", "forms=[mean_logit,logistic]"]
    assert stack.main(["--output", str(tmp_path / "parts"), *parity, *parts]) == 0
    written = tables.read_table(str(tmp_path / "parts"), tables.SCORES).to_pandas()
    assert set(written["split"]) == {"train", "val"}

    def refused(*inputs: str) -> str:
        assert stack.main([*base, *inputs, "--force"]) == 2
        return capsys.readouterr().err

    without = both["run1"].drop(index=both["run1"].index[val][:5])
    broken = both["run1"].assign(
        logit=both["run1"]["logit"].where(both["run1"].index != both["run1"].index[val][0], np.inf)
    )
    two = "inputs.members.two="
    assert "Member two has no score for 5 of" in refused(members[0], f"{two}{stored(tmp_path / 'without', without)}")
    assert "Member two has 1 logits that" in refused(members[0], f"{two}{stored(tmp_path / 'broken', broken)}")
    assert "one and two have the same logits" in refused(members[0], f"{two}{stored(tmp_path / 'copy', both['run1'])}")
    assert "is given twice" in refused(members[0], f"{two}{tmp_path}/run1")
    assert "is given twice" in refused(
        members[0], f"{two[:-1]}.train={tmp_path}/run2", f"{two[:-1]}.val={tmp_path}/run2"
    )
    assert "one table, or one for each" in refused(members[0], f"{two[:-1]}.deep={tmp_path}/run2")


def stored(folder: Path, scores: pd.DataFrame) -> Path:
    table = tables.validate(pa.Table.from_pandas(scores, preserve_index=False), tables.SCORES)
    write_part(table, str(folder / "dataset" / "part-0.parquet"))
    (folder / "_SUCCESS").touch()
    return folder
