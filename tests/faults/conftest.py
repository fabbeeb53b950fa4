"""What the tests that kill processes share."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture(scope="module")
def rng():
    """When to kill: printed, and repeated by LENSDATA_FAULT_SEED."""
    seed = int(os.environ.get("LENSDATA_FAULT_SEED", random.randrange(2**32)))
    print(f"seed={seed}")  # noqa: T201
    return random.Random(seed)
