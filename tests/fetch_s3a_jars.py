"""Fetch the two jars that let pip's Spark read and write ``s3://``: ``python tests/fetch_s3a_jars.py FOLDER``.

They lie in the source distribution of sagemaker_pyspark (Apache-2.0); no package manager of Java is needed. Then
``LENSDATA_S3A_JARS=FOLDER`` switches the rehearsal of EMR on (``tests/jobs/test_emr_rehearsal.py``).
"""

# ruff: noqa: T201 - it is a program
from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "sagemaker_pyspark==1.4.5"
JARS = {
    "hadoop-aws-3.3.1.jar": "6be50ad8a8b445d2802381b085b2a3ede5c29d353450a6a21f16b2fefa962b6e",
    "aws-java-sdk-bundle-1.11.901.jar": "b87175b32a16544cc1b37cf40390eb375833e62bed67f8ce6cde4b7ad6429ead",
}


def main(folder: Path) -> int:
    """Fetch, extract, compare with the recorded SHA-256; returns the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).is_file() and _sha256(folder / name) == wanted for name, wanted in JARS.items()):
        print(f"{folder} holds both jars.")
        return 0
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*command, "--dest", work, PACKAGE], check=True)
        source = next(Path(work).glob("*.tar.gz"))
        with tarfile.open(source) as tar:
            for entry in tar:
                name = Path(entry.name).name
                content = tar.extractfile(entry) if name in JARS else None
                if content is not None:
                    (folder / name).write_bytes(content.read())
    for name, wanted in JARS.items():
        found = _sha256(folder / name) if (folder / name).is_file() else "nothing"
        if found != wanted:
            (folder / name).unlink(missing_ok=True)
            print(f"error: {name} has SHA-256 {found}, expected {wanted}; it was removed.", file=sys.stderr)
            return 1
    print(f"{folder} holds both jars.")
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    sys.exit(main(Path(sys.argv[1])))
