"""Pictures of the README: a terminal as it was, and a report.

    tmux capture-pane -e -p > screen.ansi            # in the terminal where `make demo` has just ended
    python docs/guide/pictures/screens.py screen.ansi runs/demo/evaluate/report.html

Needs Chromium (`chromium` on PATH) for the report.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
COLUMNS = 124


def terminal(screen: Path) -> None:
    """The captured lines as a drawing, colours and all; empty lines at the end are left out."""
    with tempfile.TemporaryFile("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.from_ansi(screen.read_text().rstrip()))
        drawn = console.export_svg(title="lensdata demo, a second time: what is done is skipped")
    # rich names fonts of another site; a picture asks nobody
    (HERE / "terminal.svg").write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL))


def report(page: Path) -> None:
    """The top of a report at the width of a laptop."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed, so there is no picture of the report.")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        shot = [f"--screenshot={HERE / 'report.png'}", "--window-size=1280,1500", page.resolve().as_uri()]
        subprocess.run([chromium, *options, *shot], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    terminal(Path(sys.argv[1]))
    report(Path(sys.argv[2]))
