"""Every step by name: what it reads, its configuration, where it runs."""

from __future__ import annotations

from lensdata.config import (
    bundle,
    catalogue,
    cleaning,
    cutouts,
    emr,
    evaluation,
    gates,
    injection,
    probe,
    report,
    scoring,
    selection,
    simulation,
    stack,
    training,
    tuning,
)
from lensdata.errors import InputError
from lensdata.steps import Job

_ALL = (
    Job("mock_survey", "lensdata.simulation.survey", "python", simulation.MockSurveyConfig,
        "Simulate a sky around real lens positions: sweep files, sources and truth.", ("lenses",)),
    Job("preflight", "spark_jobs.preflight", "spark", emr.SparkPreflightConfig,
        "Show that every executor imports the packages and computes the pixels and splits it should (R-I1)."),
    Job("verify_sweeps", "spark_jobs.verify_sweeps", "spark", catalogue.VerifySweepsConfig,
        "Compare sweep files with the release's SHA-256 list (R-S1).", ("sweeps", "checksums"), file_lists=("sweeps",)),
    Job("extract_pool", "spark_jobs.extract_pool", "spark", catalogue.ExtractPoolConfig,
        "Cut the sweep files to the negative pool and set aside what lies near a lens (R-S1, R-S2).", ("sweeps",), ("lenses",),
        file_lists=("sweeps",)),
    Job("match_positives", "spark_jobs.match_positives", "spark", catalogue.MatchPositivesConfig,
        "Match the lens catalogue to Tractor sources (R-S3).", ("near_lenses", "lenses")),
    Job("remove_contaminants", "spark_jobs.remove_contaminants", "spark", catalogue.RemoveContaminantsConfig,
        "Take pool rows at contaminants or lenses out (R-S9).", ("pool", "contaminants")),
    Job("sample_negatives", "spark_jobs.sample_negatives", "spark", catalogue.SampleNegativesConfig,
        "Draw N1 and N2 negatives per stratum, exactly (R-S4, R-S5).", ("pool", "positives"), ("morphology",)),
    Job("assign_splits", "spark_jobs.assign_splits", "spark", catalogue.AssignSplitsConfig,
        "Give every object its split by HEALPix hash (R-S6).", ("positives",), ("negatives",)),
    Job("fetch_cutouts", "spark_jobs.fetch_cutouts", "spark", cutouts.FetchCutoutsConfig,
        "Fetch a stamp for every object of the sample (R-C1 to R-C4).", ("sample",), ("reuse",), kind="part", retries=True,
        plans="compare the routes, and fetch nothing"),
    Job("build_manifests", "spark_jobs.build_manifests", "spark", cutouts.BuildManifestsConfig,
        "Pack stamps into shards in random order and write the manifests (R-S7, R-C3).", ("sample", "cutouts")),
    Job("subsample_manifest", "lensdata.shards.subsample", "python", cutouts.SubsampleManifestConfig,
        "Take a stratified share of a manifest for quick runs (R-S7).", ("manifest",)),
    Job("inject", "lensdata.simulation.inject", "python", injection.InjectConfig,
        "Put arcs on hosts without a lens, each beside its control: an injected training set (R-S10).", ("manifest",),
        ("sources",)),
    Job("validate_catalogue", "spark_jobs.validate_catalogue", "spark", catalogue.ValidateCatalogueConfig,
        "Check strata, splits and stamps, and show what the sample holds; fail if a check fails (R-S8).",
        ("sample",), ("quotas", "manifests", "cutouts")),
    Job("import_stamps", "lensdata.shards.importing", "python", training.ImportConfig,
        "Turn a user's own stamps and labels into shards and a manifest (R-C3).", ("stamps",), ("labels",)),
    Job("gates", "ray_train.gates", "python", gates.GatesConfig,
        "Ask whether anything simpler than arcs tells the classes apart (R-E4).", ("manifest",), ("run",)),
    Job("train", "ray_train.train", "ray", training.TrainingConfig,
        "Train a network on a manifest (R-T1 to R-T9).", ("manifest",), ("init_from",), kind="part"),
    Job("tune", "ray_train.tune", "ray", tuning.StudyConfig,
        "Train the cells of a study with several seeds, compare them, and decide (R-A1 to R-A4).", (), ("manifest",), kind="part",
        many=("manifests",), retries=True, plans="list the trials, and train nothing"),
    Job("score", "ray_train.score", "ray", scoring.ScoreConfig,
        "Score every stamp of a manifest, or of a survey's shards, with a run.", ("run",), ("manifest", "shards"), kind="part"),
    Job("probe", "ray_train.probe", "ray", probe.ProbeConfig,
        "Show a network its stamps changed: core hidden, rings scrambled, seeing and depth worse (R-E5, R-E6).",
        ("manifest", "run"), kind="part"),
    Job("stack", "ray_train.stack", "python", stack.StackConfig,
        "Combine the scores of several runs, and compare with their mean (R-M3).", ("manifest",), many=("members",)),
    Job("rank_negatives", "lensdata.cleaning.rank_negatives", "python", cleaning.RankConfig,
        "Rank negatives by how much they look like lenses to networks that never saw them (R-N2).", ("manifest",),
        many=("scores",)),
    Job("clean_negatives", "ray_train.clean_negatives", "python", cleaning.CleanConfig,
        "Take the lenses that were found among the negatives out of a manifest (R-N1).", ("manifest",),
        ("ranking", "grades", "scores")),
    Job("mine_negatives", "lensdata.cleaning.mine_negatives", "python", cleaning.MineConfig,
        "Add a pool's hardest negatives to a manifest, and as many random ones to another.", ("manifest", "pool", "scores"),
        ("grades",)),
    Job("candidates", "ray_train.candidates", "python", scoring.CandidatesConfig,
        "The highest scores of a survey as a list to look at: place, probability, known lens, selection (R-E9).",
        ("scores", "positions", "validation"), ("lenses", "validation_manifest")),
    Job("selection_function", "ray_train.selection_function", "ray", selection.SelectionConfig,
        "Put arcs on galaxies that a run never saw and measure which it finds: its completeness (R-E7).", ("run", "manifest"),
        ("scores", "population"), kind="part"),
    Job("evaluate", "ray_train.evaluate", "python", evaluation.EvaluateConfig,
        "Judge a run and write its report (R-E1 to R-E10).", ("run", "manifest"),
        ("controls", "gates", "probe", "stack", "selection"), many=("recovery",)),
    Job("bundle", "ray_train.make_bundle", "python", bundle.BundleConfig,
        "Make a model bundle of trained runs: weights, preprocessing, calibration, thresholds, card.",
        ("manifest",), ("evaluation",), many=("runs",)),
    Job("score_positions", "ray_train.score_positions", "python", bundle.ScorePositionsConfig,
        "Fetch, check and score stamps at given positions with a model bundle.", ("table", "model"), ("lenses",), kind="part",
        retries=True),
    Job("report", "lensdata.report.comparison", "python", report.ReportConfig,
        "Several evaluations side by side, with paired differences (R-E8).", many=("evaluations",)),
)  # fmt: skip
JOBS = {job.name: job for job in _ALL}


def find(name: str) -> Job:
    """The job of that name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in JOBS:
        raise InputError(f"There is no step {name!r}; the steps are {', '.join(JOBS)}.")
    return JOBS[name]
