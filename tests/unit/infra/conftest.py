"""What tests of the EMR launcher share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emr_world import account


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of an AWS account on the loopback interface."""
    with account() as found:
        yield found
