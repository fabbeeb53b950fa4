"""The pages of docs/: what they say to type is understood, what they are written from is current, no link is broken (R-D1)."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from infra import cli
from infra.ray.packing import pack
from lensdata import __version__, steps
from lensdata.jobs import JOBS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MODULES = {job.module: job for job in JOBS.values()}


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command line in a block of a page; the lines that programs print are left out."""
    found = []
    for page in PAGES:
        if page.name == "steps.md":  # its lines name what may be left out
            continue
        for block in FENCE.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if _may_be_command(line) else []
                while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "sudo"):
                    words.pop(0)
                if words:
                    words[0] = words[0].rpartition("/")[2]
                    found.append((page.name, words))
    return found


def _may_be_command(line: str) -> bool:
    start = line.removeprefix("$ ").removeprefix("sudo ")
    return bool(re.match(r"([A-Z_]+=\S+ )*(\S*bin/)?(lensdata|python3?|spark-submit|make|ray|docker) ", start))


COMMANDS = commands()


def of(*programs: str) -> pytest.MarkDecorator:
    chosen = [(page, words) for page, words in COMMANDS if words[0] in programs]
    assert chosen
    return pytest.mark.parametrize(
        ("page", "words"), chosen, ids=[f"{page}-{' '.join(words)[:60]}" for page, words in chosen]
    )


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@of("lensdata")
def test_the_console_command_understands_what_the_pages_say(page, words):
    cli._parser().parse_args([word for word in words[1:] if word != "…"])


@of("python", "python3", "spark-submit")
def test_steps_understand_their_lines_and_scripts_exist(page, words):
    check_program(words)


@of("ray")
def test_jobs_for_ray_are_lines_of_steps(page, words, monkeypatch):
    if words[1:3] != ["job", "submit"]:
        return
    inner = words[words.index("--") + 1 :]
    if "--working-dir" in words:
        monkeypatch.chdir(ROOT / words[words.index("--working-dir") + 1])
    check_program(inner)


def check_program(words: list[str]) -> None:
    program, *rest = words
    if "--config" in rest and "/" not in rest[rest.index("--config") + 1]:
        return  # of a file that the reader writes
    if program == "spark-submit":
        script = next((word for word in rest if word.endswith(".py")), None)
        if script is not None:
            module = script.removeprefix("/opt/lensdata/").removesuffix(".py").replace("/", ".")
            steps.parse(MODULES[module], rest[rest.index(script) + 1 :])
    elif rest[0] == "-m" and rest[1] in MODULES:
        steps.parse(MODULES[rest[1]], rest[2:])
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None
    elif rest[0] != "-c":
        assert (ROOT / rest[0]).is_file()


@of("lensdata")
def test_what_the_pages_submit_to_a_cluster_is_not_refused_there(page, words):
    if words[1:3] == ["ray", "submit"] and not {"--", "…"} & set(words):
        pack(words[3:])


@of("make")
def test_make_knows_the_targets(page, words):
    assert set(words[1:]) <= TARGETS


@of("docker")
def test_files_for_docker_exist(page, words):
    for flag, value in itertools.pairwise(words):
        if flag == "-f":
            assert (ROOT / value).is_file()


def test_every_file_that_a_page_names_exists():
    """Paths in backticks that begin with a folder of the repository; names with a placeholder are left out."""
    folders = "|".join(
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith((".", "runs", "site", "build"))
    )
    missing = []
    for page in PAGES:
        for name in re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|ya?ml|md|json|sh|txt|Dockerfile))", page.read_text()):
            if not (ROOT / name).exists() and not re.search("[A-Z]{4}", name):
                missing.append(f"{page.name}: {name}")
    assert not missing


def test_the_reference_pages_are_what_the_code_says():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    for name, write in module.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == write(), f"docs/{name} is old: run python docs/write_reference.py"


def test_every_page_is_in_the_navigation_and_no_link_is_broken(tmp_path):
    """The site is built with every warning an error."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    found = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stderr[-2000:]
    assert "not included in the" not in found.stderr


def test_links_of_the_readme_lead_to_files():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_citation_names_this_version():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
