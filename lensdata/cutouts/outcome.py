"""What can become of a request, short of the stamp that was asked for."""

from __future__ import annotations

STORED, EXCLUDED, FAILED = "stored", "excluded", "failed"


class Rejected(Exception):
    """Not what was asked for; ``permanent`` ones are not asked for again."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent
