"""The injected training set: arcs on hosts without a lens, each beside the same host without it (the step ``inject``, R-S10).

    python -m lensdata.simulation.inject --output runs/mine/inject inputs.manifest=build_manifests/audit_70_15_15

Written into the output folder::

    unpaired/, shards/         manifest and stamps g r z: every injected host with its arc (label 1) and without (label 0)
    paired/, paired_shards/    manifest and stamps g r z g_ctrl r_ctrl z_ctrl: arcs with their own host as control (label 1),
                               hosts without an arc with a host like them as control (label 0)
    injections/                what was drawn on each host
    gallery.png                a look at some of them
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from lensdata import jobs, steps, storage, tables
from lensdata.config.injection import InjectConfig
from lensdata.errors import InputError
from lensdata.hashing import cutout_id
from lensdata.shards.manifests import read_manifest
from lensdata.simulation.injected_gallery import gallery_png
from lensdata.simulation.injected_hosts import choose_hosts, paired_rows, share_hosts, unpaired_rows
from lensdata.simulation.injected_shards import HostStamps, write_stamps
from lensdata.simulation.injected_stamps import check_layout
from lensdata.simulation.source_images import SourceImages
from lensdata.steps import JobRun, Outcome

SETS = {"unpaired": "shards", "paired": "paired_shards"}
"""The manifests, and where their stamps lie."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns its exit code."""
    return steps.run_job(jobs.find("inject"), inject_arcs, sys.argv[1:] if argv is None else list(argv))


def inject_arcs(run: JobRun) -> Outcome:
    """Choose hosts, draw arcs, write both sets."""
    config: InjectConfig = run.config
    _require_device(config.execution.device)
    torch.set_num_threads(config.execution.threads)
    whole = read_manifest(run.inputs["manifest"])
    layout = whole.layout()
    check_layout(layout, whole.uri)
    manifest, dropped = choose_hosts(whole, config)
    if run.test_limit is not None:
        passed, manifest = len(manifest), manifest.head(run.test_limit)
        dropped["beyond --test-limit"] = passed - len(manifest)
    injected = share_hosts(manifest, config, dropped)
    hosts, source = manifest.table.to_pandas(), HostStamps(manifest, layout)
    pictures = SourceImages.load(run.inputs["sources"]) if "sources" in run.inputs else None
    sets = {"unpaired": unpaired_rows(hosts, injected, config.seed), "paired": paired_rows(hosts, injected, config)}
    contents, injections = [], pd.DataFrame()
    for name, rows in sets.items():
        places, hashes, drawn = write_stamps(run.path(SETS[name], "dataset"), rows, source, hosts, config, pictures)
        tables.finish_table(run.path(SETS[name]), identity=["cutout_id", "pixel_hash"])
        contents.append(write_manifest(run.path(name), rows, drawn, places, hashes, SETS[name]))
        injections = drawn.drop_duplicates("cutout_id")
    injections = injections.sort_values("cutout_id").merge(_conditions(hosts), on="source_id", validate="one_to_one")
    _, content = tables.write_table(
        pa.Table.from_pandas(injections, preserve_index=False), run.path("injections"), tables.INJECTIONS
    )
    if config.execution.gallery_stamps:
        storage.write_bytes(run.path("gallery.png"), gallery_png(run.path("unpaired"), config.execution.gallery_stamps))
    report = {
        "hosts": len(hosts),
        "dropped": dropped,
        "dropped_rows": sum(dropped.values()),
        "rows_of_the_manifest": len(whole),
        "source_images": [] if pictures is None else list(pictures.names),
    }
    return Outcome(len(sets["unpaired"]), "-".join([*contents, content]), report | summary(sets, hosts, injected))


def write_manifest(
    folder: str, rows: pd.DataFrame, drawn: pd.DataFrame, places: pa.Table, hashes: list[str], shards: str
) -> str:
    """Write a manifest of injected stamps; returns its content identity, which covers the pixels."""
    arcs = drawn.drop_duplicates("cutout_id").set_index("cutout_id")[
        ["theta_e", "arc_snr", "source_mag_r", "magnification"]
    ]
    rows = rows.join(arcs, on="cutout_id")
    if "_control" in rows:
        rows["control_cutout_id"] = np.where(
            rows["control_match"].str.startswith("split"),
            rows["control_source_id"],
            cutout_id(rows["control_source_id"], "control"),
        )
    columns: dict[str, Any] = {
        column.name: pa.Array.from_pandas(rows[column.name], type=column.type)
        if column.name in rows
        else pa.nulls(len(rows), column.type)
        for column in tables.INJECTED.columns
    }
    columns["shard"] = pa.array([f"../{shards}/dataset/{name}" for name in places["shard"].to_pylist()])
    columns["row_group"], columns["row"] = places["row_group"], places["row"]
    tables.write_table(pa.table(columns), folder, tables.INJECTED)
    return tables.add_to_content(folder, *sorted(hashes))


def summary(sets: dict[str, pd.DataFrame], hosts: pd.DataFrame, injected: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Counts for the report."""
    cells = pd.DataFrame({name: hosts[name] for name in ("split", "psf_bin", "depth_bin")}).assign(injected=injected)
    shares = cells.groupby(["split", "psf_bin", "depth_bin"], dropna=False)["injected"].agg(["sum", "count"])
    out: dict[str, Any] = {
        "injected": int(injected.sum()),
        "injected_per_cell": {
            "/".join(map(str, key)): f"{row['sum']} of {row['count']}" for key, row in shares.iterrows()
        },
        "controls_of_label_0": dict(Counter(sets["paired"].loc[sets["paired"]["label"] == 0, "control_match"])),
    }
    for name, rows in sets.items():
        counts = Counter(zip(rows["split"], rows["label"], strict=True))
        out[name] = {
            "rows": len(rows),
            "rows_per_split": {
                f"{split} {'positive' if label else 'negative'}": n for (split, label), n in sorted(counts.items())
            },
        }
    return out


def _conditions(hosts: pd.DataFrame) -> pd.DataFrame:
    """Of each host, what a completeness is a function of."""
    names = [
        name
        for name in ("source_id", "brickname", "psf_bin", "depth_bin", "type", "nobs_z_bin", "mag_r")
        if name in hosts
    ]
    missing = {name: None for name in ("nobs_z_bin",) if name not in hosts}
    return hosts[names].assign(**missing)


def _require_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("execution.device is cuda, but torch finds no GPU here; take cpu.")


if __name__ == "__main__":
    sys.exit(main())
