"""Do out-of-fold scores find unlabelled lenses that a network trained on them does not, and what is gained by removing them?

    python benchmarks/cleaning.py [--negatives 6000] [--lenses 600] [--hidden 0.005] [--folds 5] [--seeds 1] [--keep FOLDER]

A simulated sky gives lenses and galaxies. A share of the negatives are lenses whose label was taken away. One network is trained
on all of it (in-sample, R-N1), one per fold and seed on the other folds (out-of-fold, R-N2), by `ray_train.train` with
`configs/training/demo.yaml` at 41 pixels. Printed are how many of the hidden lenses each ranking has among its first 300 and
above p > 0.4, and what a retraining without those that a grader would find changes on a fresh test sample of the same sky, whose
labels are true: paired 95% intervals. A grader is taken to be perfect: what is measured is the ranking.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensdata import tables
from lensdata.audit import intervals, roc
from lensdata.audit.paired import paired_bootstrap
from lensdata.catalogue.lenses import lenscat_csv, read_lenses
from lensdata.cleaning import rank_negatives
from lensdata.config.base import load_config
from lensdata.config.simulation import MockSurveyConfig
from lensdata.shards import ImageLayout, ShardWriter
from lensdata.shards.derived import write_manifest
from lensdata.simulation.cutouts import CutoutRequest, cutout_pixels
from lensdata.simulation.rendering import Renderer
from lensdata.simulation.survey import lens_list, make_survey
from lensdata.sky.healpix import ang2pix
from lensdata.sky.splits import assign_folds
from ray_train import clean_negatives, score, train

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE, TOP = 101, 300
LEVELS = (1e-2, 1e-3)
NETWORK = ("images.crop=41", "execution.runtime=local", "trackers.tensorboard=false", "model.arch=resnet18")


@lru_cache(maxsize=1)
def renderer() -> Renderer:
    """The demo's sky in a box eight times as large."""
    config = load_config(
        MockSurveyConfig, str(CONFIGS / "simulation" / "demo.yaml"), ["sky.ra_max=165.0", "sky.dec_max=15.0"]
    )
    return Renderer(make_survey(config, lens_list(read_lenses(str(lenscat_csv())), config)))


def draw(positions: np.ndarray) -> np.ndarray:
    """Stamps (n, 101, 101, 3) at positions (n, 2) in degrees, as the cutout service gives them."""
    asked = (CutoutRequest(ra, dec, "ls-dr10", "grz", 0.262, SIZE, SIZE) for ra, dec in positions)
    return np.stack([cutout_pixels(renderer(), one).transpose(1, 2, 0) for one in asked])


def samples(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the training and of the test sample, with what they are (``truth``) and what they are called (``label``)."""
    sources = renderer().survey.sources
    rng = np.random.default_rng(args.seed)
    hosts, pool = (rng.permutation(np.flatnonzero(sources["origin"] == origin)) for origin in ("host", "pool"))
    hidden = round(args.hidden * args.negatives)
    needed = (args.lenses + hidden + args.test_lenses, args.negatives + args.test_negatives)
    if len(hosts) < needed[0] or len(pool) < needed[1]:
        raise SystemExit(
            f"the sky has {len(hosts)} lenses and {len(pool)} galaxies, wanted are {needed[0]} and {needed[1]}"
        )
    known, taken_away, judged = np.split(hosts[: needed[0]], [args.lenses, args.lenses + hidden])
    others, judged_others = np.split(pool[: needed[1]], [args.negatives])

    def rows(lenses: np.ndarray, hidden_ones: np.ndarray, negatives: np.ndarray) -> pd.DataFrame:
        places = np.concatenate([lenses, hidden_ones, negatives])
        frame = pd.DataFrame({name: sources[name][places] for name in ("source_id", "ra", "dec")})
        frame["cutout_id"] = frame["source_id"]
        frame["truth"] = (np.arange(len(places)) < len(lenses) + len(hidden_ones)).astype(np.int8)
        frame["label"] = (np.arange(len(places)) < len(lenses)).astype(np.int8)
        pixel = ang2pix(frame["ra"], frame["dec"])
        frame["healpix_128"], frame["fold"] = pixel, assign_folds(pixel, args.folds)
        return frame.sample(frac=1, random_state=args.seed).reset_index(drop=True)

    training = rows(known, taken_away, others)
    training["split"] = np.where(training["fold"] == 0, "val", "train")
    return training, rows(judged, np.empty(0, np.int64), judged_others).assign(split="test")


def write(rows: pd.DataFrame, folder: Path) -> str:
    """Draw the stamps, write shards and a manifest; returns the manifest's folder, made before or now."""
    manifest = folder / "manifest"
    if (manifest / "_SUCCESS").exists():
        return str(manifest)
    layout = ImageLayout(shape=(SIZE, SIZE, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy")
    pieces = np.array_split(rows[["ra", "dec"]].to_numpy(), max(2, len(rows) // 200))
    with ShardWriter(str(folder / "shards"), layout) as writer, ProcessPoolExecutor(os.cpu_count()) as processes:
        done = 0
        for stamps in processes.map(draw, pieces):
            writer.add(pa.table({"cutout_id": rows["cutout_id"].to_numpy()[done : done + len(stamps)]}), stamps)
            done += len(stamps)
        writer.close()
        places = writer.locations.to_pandas()
    table = rows.merge(places, on="cutout_id", validate="one_to_one").assign(sample_weight=np.float32(1))
    table["shard"] = "../shards/" + table["shard"]
    write_manifest(pa.Table.from_pandas(table, preserve_index=False), str(manifest))
    return str(manifest)


def run(step: Callable[[Sequence[str]], int], output: Path, *words: str) -> Path:
    """A step, or its finished output of an earlier call."""
    if code := step(["--output", str(output), *words]):
        raise SystemExit(code)
    return output


def trained(folder: Path, manifest: str, args: argparse.Namespace, seed: int, *words: str) -> Path:
    """A training of the demo's network at 41 pixels."""
    demo = ("--config", str(CONFIGS / "training" / "demo.yaml"))
    return run(
        train.main,
        folder,
        *demo,
        f"inputs.manifest={manifest}",
        f"seed={seed}",
        f"epochs={args.epochs}",
        *NETWORK,
        *words,
    )


def hidden_of(ranking: Path, training: pd.DataFrame) -> pd.DataFrame:
    """A ranking's rows with whether each is a hidden lens."""
    found = tables.read_table(str(ranking), tables.RANKING).to_pandas()
    return found.merge(training[["cutout_id", "truth"]], on="cutout_id")


def graded(ranking: pd.DataFrame, folder: Path) -> str:
    """What a perfect grader says of the first 300; returns the table's folder."""
    top = ranking[ranking["rank"] <= TOP]
    lens = top["truth"].to_numpy() == 1
    columns: dict[str, Any] = {
        "cutout_id": top["cutout_id"].to_numpy(), "verdict": np.where(lens, "lens", "not"), "n_graders": 1, "n_lens": lens,
        "n_maybe": 0, "n_not": ~lens, "n_artefact": 0, "kind": None, "control": None, "graders": "truth",
    }  # fmt: skip
    table = pa.Table.from_pandas(pd.DataFrame(columns), schema=tables.GRADES.schema, preserve_index=False)
    tables.write_table(table, str(folder), tables.GRADES)
    return str(folder)


def judged(run_folder: Path, test: str, folder: Path) -> pd.DataFrame:
    """Logits of the test sample, sorted by key."""
    run(
        score.main,
        folder,
        f"inputs.manifest={test}",
        f"inputs.run={run_folder}",
        "splits=[test]",
        "execution.runtime=local",
    )
    return tables.read_table(str(folder), tables.SCORES).to_pandas().sort_values("cutout_id", ignore_index=True)


def main() -> None:
    """Make the samples, train, rank, remove, train again, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("negatives", 6000), ("lenses", 600), ("test-negatives", 8000), ("test-lenses", 300), ("folds", 5),
                        ("epochs", 6), ("seed", 42), ("resamples", 10_000)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--hidden", type=float, default=0.005)
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[1], help="of fold models, and of the networks compared"
    )
    parser.add_argument("--keep", help="folder of everything that is made; a second call goes on there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args, Path(args.keep or temporary))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Print the table of rankings, and that of networks."""
    training, test = samples(args)
    manifest, test_manifest = write(training, folder / "training"), write(test, folder / "test")
    hidden = int(((training["truth"] == 1) & (training["label"] == 0)).sum())
    print(f"{args.lenses} lenses, {args.negatives + hidden} negatives, {hidden} of them hidden lenses")
    in_sample = trained(folder / "in_sample", manifest, args, args.seeds[0])
    folds = [
        f"inputs.scores.f{fold}s{seed}=" + str(
            trained(folder / f"fold{fold}-{seed}", manifest, args, seed, f"data.held_out_fold={fold}")
        )
        for fold in range(args.folds)
        for seed in args.seeds
    ]  # fmt: skip
    of_manifest = f"inputs.manifest={manifest}"
    seen = run(
        rank_negatives.main, folder / "ranking_in", of_manifest, f"inputs.scores.run={in_sample}", "scores=in_sample"
    )
    unseen = run(rank_negatives.main, folder / "ranking_out", of_manifest, *folds)
    rankings = {"in-sample": hidden_of(seen, training), "out-of-fold": hidden_of(unseen, training)}
    print(f"\nranking      in the first {TOP}         p > 0.4: hidden          flagged in all   median rank")
    for name, found in rankings.items():
        lens = found["truth"] == 1
        shares = [
            intervals.binomial(int((lens & chosen).sum()), hidden)
            for chosen in (found["rank"] <= TOP, found["flagged"])
        ]
        text = "   ".join(f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in shares)
        print(f"{name:12s} {text}   {int(found['flagged'].sum()):14d}   {found.loc[lens, 'rank'].median():11.0f}")
    grades = {name: graded(found, folder / f"grades_{name}") for name, found in rankings.items()}
    automatic = ("remove=above_threshold", f"inputs.ranking={seen}", "keep_confusers=false")
    cleanings = {
        "in-sample p > 0.4, unseen": automatic,
        "in-sample first 300, graded": (f"inputs.grades={grades['in-sample']}",),
        "out-of-fold first 300, graded": (f"inputs.grades={grades['out-of-fold']}",),
    }
    cleaned = {
        name: run(clean_negatives.main, folder / f"cleaned{place}", of_manifest, "splits=[train,val]", *words)
        for place, (name, words) in enumerate(cleanings.items())
    }
    manifests = {"not cleaned": manifest, **{name: str(path) for name, path in cleaned.items()}}
    compare(manifests, test_manifest, args, folder)


def compare(manifests: dict[str, str], test: str, args: argparse.Namespace, folder: Path) -> None:
    """Networks trained on each manifest, judged on the test sample, against the one that was not cleaned."""
    figures = {"AUC": roc.auc, **{f"TPR at FPR {level:g}": partial(roc.tpr_at_fpr, level=level) for level in LEVELS}}
    print("\ntrained on                       seed  " + "  ".join(f"{name:>28s}" for name in figures))
    for seed in args.seeds:
        logits: dict[str, np.ndarray] = {}
        for place, (name, manifest) in enumerate(manifests.items()):
            # the network that was not cleaned is the in-sample one
            own = "in_sample" if (place, seed) == (0, args.seeds[0]) else f"network{place}-{seed}"
            network = trained(folder / own, manifest, args, seed)
            rows = judged(network, test, folder / f"scores{place}-{seed}")
            label, logits[name] = rows["label"].to_numpy(), rows["logit"].to_numpy(np.float64)
            curve = roc.compress(label, logits[name]).roc()
            line = [f"{float(figure(curve)):.4f}" for figure in figures.values()]
            if place:
                differences = paired_bootstrap(
                    label, logits[name], logits["not cleaned"], figures, args.resamples, args.seed
                )
                line = [f"{text} {d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f})" for text, d in
                        zip(line, differences.values(), strict=True)]  # fmt: skip
            print(f"{name:32s} {seed:4d}  " + "  ".join(f"{text:>28s}" for text in line), flush=True)


if __name__ == "__main__":
    main()
