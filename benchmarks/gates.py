"""How long do all gates take? Seconds per feature and per gate, end to end from the shards.

    python benchmarks/gates.py [--stamps 2000] [--pool 4000] [--manifest MANIFEST]

Without a manifest a set of simulated hosts with weak arcs is written first (101 x 101 x 3, not counted). The model sees the centre
63 pixels by raw_robust. All figures are wall time; the goal is 60 s for 2,000 stamps on two cores.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import ray_train.gates as step
from lensdata.audit import features, gates
from tests import planted

SECONDS: dict[str, float] = {}


def timed(module: ModuleType, name: str, label: Callable[..., str]) -> None:
    """Let a function of a module add its wall time to `SECONDS` under a label of its arguments."""
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **options)
        key = label(*args, **options)
        SECONDS[key] = SECONDS.get(key, 0.0) + time.perf_counter() - started
        return result

    setattr(module, name, wrapper)


def main() -> None:
    """Run the step and print where its time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=2000, help="sample_size")
    parser.add_argument("--pool", type=int, default=4000, help="stamps of the simulated set, half of them with arcs")
    parser.add_argument("--manifest", help="a manifest to take instead")
    options = parser.parse_args()
    for name in ("of_stored", "of_prepared", "of_light"):
        timed(features, name, lambda *_, name=name, **__: f"features {name[3:]}")
    timed(step, "match", lambda *_, **__: "matching of hosts")
    timed(step, "measure", lambda *_, **__: "reading, preparing and features")
    timed(gates, "judge", lambda name, given, *_, sample, **__: f"judge {name} {given} {sample}")
    with tempfile.TemporaryDirectory() as folder:
        manifest = options.manifest or written(folder, options.pool)
        started = time.perf_counter()
        settings = [f"sample_size={options.stamps}", "images.crop=63", "splits=[train,val,test]"]
        code = step.main(["--output", f"{folder}/gates", f"inputs.manifest={manifest}", *settings])
        whole = time.perf_counter() - started
    print("\nseconds  what")
    for name, seconds in SECONDS.items():
        print(f"{seconds:7.2f}  {name}")
    print(f"{whole:7.2f}  everything, exit code {code}")


def written(folder: str, count: int) -> str:
    """A simulated set of alike hosts as shards and a manifest."""
    return planted.write_manifest(folder, planted.clean_set(count, seed=0, size=101), group_rows=128)


if __name__ == "__main__":
    main()
