"""Secrets do not belong into configurations: those are written into run folders, logs and dashboards (docs/security.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lensdata.errors import InputError

# What is found, and the pattern that finds it. Checked where texts enter, so that no later place has to hide them.
_SECRETS = {
    "a password in an address": re.compile(r"://[^/@\s]*:[^/@\s]+@"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a signed address": re.compile(
        r"[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|sig)=", re.IGNORECASE
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access token": re.compile(r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{22,}|hf_[0-9A-Za-z]{34})\b"),
}


def secret_in(text: str) -> str | None:
    """What secret a text holds, or None.

    >>> secret_in("https://me:secret@example.org/files")
    'a password in an address'
    >>> secret_in("s3://bucket/sweeps") is None
    True
    """
    return next((name for name, pattern in _SECRETS.items() if pattern.search(text)), None)


def refuse_secrets(values: Any, key: str = "") -> None:
    """Refuse plain values, nested ones too, that hold a secret; the error names the key and never the value.

    Raises
    ------
    InputError
        A text holds a secret.
    """
    if isinstance(values, Mapping):
        for name, value in values.items():
            refuse_secrets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, (list, tuple)):
        for value in values:
            refuse_secrets(value, key)
    elif isinstance(values, str) and (found := secret_in(values)) is not None:
        raise InputError(
            f"{key or 'A value'} holds {found}, which would be written into run folders, logs and dashboards; give credentials "
            "by the environment, ~/.netrc, ~/.aws or a role instead."
        )
