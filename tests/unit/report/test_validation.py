"""The page of a validated sample: complete, and without a crash on samples that lack something."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from lensdata.audit.conditions import conditions_gate
from lensdata.catalogue import checks
from lensdata.catalogue.covariates import COVARIATES, compare_all
from lensdata.config.catalogue import ValidateCatalogueConfig
from lensdata.report import galleries, validation
from tests.samples import random_sample

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects tags and text; complains of tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def labels(self, start: str) -> list[str]:
        return [found["aria-label"] for _, found in self.tags if (found.get("aria-label") or "").startswith(start)]


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    """Fifty figures take their time; one covariate per stratum shows what six do."""
    monkeypatch.setattr(validation, "PER_STRATUM", ("mag_r",))


def page_of(sample, pictures=None, **more) -> Page:
    config = ValidateCatalogueConfig(gate={"resamples": 100})
    done = checks.check_sample(sample, config)
    numbers = {
        "counts": checks.counts(sample),
        "gate": conditions_gate(sample, config.gate.rows_max, config.gate.resamples, config.seed),
        "covariates": compare_all(sample),
    }
    return Page(validation.render(sample, done, numbers | more, config, pictures or {}))


def test_a_full_page_has_maps_panels_and_every_check():
    page = page_of(random_sample(100, 1000))
    text = " ".join(page.words)
    assert len(page.labels("Sky map")) == 2
    assert len(page.labels("Close-up")) == 1
    overall = [name for name in page.labels("Distribution") if " in " not in name]
    assert overall == [f"Distribution of {covariate.label}" for covariate in COVARIATES]
    assert "Out-of-fold AUC" in text
    assert all(name in text for name in ("every source_id once", "no pixel in two splits", "0 differ", "PASS"))
    addresses = [found["src"] for tag, found in page.tags if tag in ("img", "script") and "src" in found]
    assert all(address.startswith("data:") for address in addresses)  # needs no network
    assert "script" not in {tag for tag, _ in page.tags}


def only(stratum):
    return lambda sample: sample[(sample["label"] == 0) | (sample["stratum"] == stratum)].reset_index(drop=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[s["label"] == 1].reset_index(drop=True),
        lambda s: s[s["label"] == 0].reset_index(drop=True),
        lambda s: s.iloc[[0, 1, -1]].reset_index(drop=True),
        lambda s: s.iloc[:0],
        lambda s: s.assign(stratum=None),
        only("DEV/3-5"),
        lambda s: s.assign(mag_r=np.nan, gr=None, ebv=0.02),
    ],
    ids=[
        "no negatives",
        "no positives",
        "three objects",
        "none",
        "no stratum",
        "positives in one stratum",
        "lost columns",
    ],
)
def test_a_sample_that_lacks_something_still_gets_its_page(change):
    assert "Checks" in page_of(change(random_sample(40, 300))).words


def test_galleries_show_each_kind_by_key_and_not_by_order():
    sample = random_sample(20, 2000)
    chosen = galleries.choose_examples(sample, 8, 42)
    assert list(chosen) == ["positives", "N1", "merger", "ring", "edge_on", "blue", "large"]
    assert all(len(rows) == 8 for rows in chosen.values())
    again = galleries.choose_examples(sample.sample(frac=1, random_state=2), 8, 42)
    assert all(again[kind]["source_id"].tolist() == chosen[kind]["source_id"].tolist() for kind in chosen)
    stamps = np.zeros((8, 101, 101, 3), np.float32)
    pictures = {kind: galleries.examples(rows, stamps, "nanomaggy") for kind, rows in chosen.items()}
    page = page_of(sample, pictures)
    assert sum(tag == "img" for tag, _ in page.tags) == 56
    assert any(word.startswith("r ") and word.endswith(("SER", "DEV", "REX")) for word in page.words)


def test_duplicates_across_splits_are_listed_on_the_page():
    exact = {"stamps": 9, "stamps_with_shared_pixels": 2, "stamps_across_splits": 2,
             "across_splits": [{"pixel_hash": "beef", "source_id": 5, "split": "val", "label": 1}]}  # fmt: skip
    near = {"searched": False, "reason": "stamps of 32 pixels have too little sky"}
    page = page_of(random_sample(30, 100), duplicates={"exact": exact, "near": near})
    assert "beef" in page.words
    assert "stamps of 32 pixels" in " ".join(page.words)
