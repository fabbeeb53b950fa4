"""From grades to a table, and what the command says."""

from __future__ import annotations

import json
import socket

import pytest

from infra import cli
from lensdata import storage, tables
from lensdata.vetting.grades import Ledger, read_standing
from lensdata.vetting.verdicts import export, verdict
from tests.vetting_folders import FIRST_ID, LENSES, begin, keys_of, write_list, write_manifest


@pytest.mark.parametrize(
    ("grades", "majority", "unanimous"),
    [
        ([], "ungraded", "ungraded"),
        (["lens"], "lens", "lens"),
        (["not", "not", "maybe"], "not", "disagree"),
        (["lens", "maybe"], "disagree", "disagree"),
        (["lens", "lens", "maybe"], "lens", "disagree"),
        (["lens", "lens", "lens", "not"], "disagree", "disagree"),
        (["lens", "lens", "artefact"], "disagree", "disagree"),
        (["not", "artefact", "not"], "not", "disagree"),
        (["lens", "lens", "maybe", "maybe"], "disagree", "disagree"),
    ],
)
def test_graders_who_differ_have_a_verdict_or_none(grades, majority, unanimous):
    assert verdict(grades) == verdict(grades[::-1]) == majority
    assert verdict(grades, "unanimous") == unanimous
    assert verdict(grades, min_graders=len(grades) + 1) == "ungraded"


@pytest.fixture
def graded(tmp_path):
    """Two graders: the first stamp not (ring, spiral), the second lens against not, the third by one alone."""
    session = begin(tmp_path)
    first, second, third = session.cutout_ids[[int(item) for item in session.order("ada")[:3]]].tolist()
    with Ledger(session.folder, session.id, keys_of(session)) as ledger:
        said = [("ada", first, "not", "ring"), ("bob", first, "not", "ring"), ("ada", second, "lens", None)]
        said += [("bob", second, "not", None), ("bob", third, "maybe", None)]
        for number, (grader, key, grade, kind) in enumerate(said):
            ledger.grade(cutout_id=key, grader=grader, grade=grade, kind=kind, seconds=3, key=f"k{number}")
    return session, (first, second, third)


def test_the_table_has_a_row_for_every_stamp_shown(graded, tmp_path):
    session, (first, second, third) = graded
    standing = read_standing(session.folder, session.id, keys_of(session))
    counts = export(session, standing, str(tmp_path / "grades"), rule="majority", min_graders=1, force=False)

    rows = tables.read_table(str(tmp_path / "grades"), tables.GRADES).to_pandas().set_index("cutout_id")
    assert set(rows.index) == keys_of(session)
    assert rows.loc[first, ["verdict", "kind", "n_graders", "n_not", "graders"]].tolist() == [
        "not",
        "ring",
        2,
        2,
        "ada,bob",
    ]
    assert rows.loc[second, ["verdict", "n_lens", "n_not"]].tolist() == ["disagree", 1, 1]
    assert rows.loc[third, ["verdict", "n_graders"]].tolist() == ["maybe", 1]
    assert rows["control"].value_counts().to_dict() == {"lens": 4, "random": 4}
    assert counts == {"ungraded": 25, "not": 1, "disagree": 1, "maybe": 1}
    assert storage.read_json(str(tmp_path / "grades" / "_report.json"))["agreement"]["pairs"][0]["n"] == 2


def test_the_command_reports_and_exports(graded, tmp_path, capsys):
    session, _ = graded
    folder, output = str(session.folder), str(tmp_path / "out")
    assert cli.main(["vet", "report", folder]) == 0
    told = capsys.readouterr().out
    assert "ada and bob" in told
    assert "4 known lenses" in told
    assert cli.main(["vet", "report", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stamps"] == 28
    assert cli.main(["vet", "export", folder, "--output", output, "--min-graders", "2"]) == 0
    assert "26 ungraded" in capsys.readouterr().out
    assert cli.main(["vet", "export", folder, "--output", output]) == 2
    assert "exists; choose another --output, or --force to replace it" in capsys.readouterr().err
    assert cli.main(["vet", "export", folder, "--output", output, "--force", "--rule", "unanimous"]) == 0
    assert not list(tmp_path.glob("_temporary*"))


def test_a_report_can_be_had_while_the_server_writes(graded, capsys):
    session, _ = graded
    with Ledger(session.folder, session.id, keys_of(session)):
        assert cli.main(["vet", "report", str(session.folder)]) == 0


def test_a_port_that_no_machine_has_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["vet", "l.csv", "--manifest", "m", "--output", "v", "--port", "65536"])
    assert "expected a port of at most 65535, found 65536" in capsys.readouterr().err


def test_what_is_wrong_is_one_sentence(tmp_path, capsys):
    manifest = write_manifest(tmp_path)
    listed = write_list(tmp_path / "l.csv", [FIRST_ID + LENSES])
    start = ["vet", listed, "--manifest", manifest, "--output", str(tmp_path / "v")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = [
            (["vet", listed, "--output", "x"], "needs --manifest URI"),
            (["vet", "report", str(tmp_path), "more"], "takes LIST, report FOLDER or export FOLDER"),
            (["vet", "export", str(tmp_path / "v")], "needs --output TABLE"),
            (["vet", "report", str(tmp_path / "none")], "holds no session.json"),
            ([*start, "--controls", "lens=3"], "--controls is like lenses=20,random=20, found 'lens=3'"),
            ([*start, "--graders", "ada,b b"], "letters, digits and dashes, found 'b b'"),
            ([*start, "--top", "0"], "--top must be at least 1"),
            ([*start, "--port", str(port)], f"Port {port} is taken"),
            ([*start, "--listen", "203.0.113.7"], "203.0.113.7 port 8765 cannot be listened on"),
            ([*start, "--seed", "1"], "was begun with another --seed"),
            (["vet", "export", str(tmp_path / "v"), "--output", str(tmp_path / "o")], "holds no grades yet"),
        ]
        for argv, sentence in cases:
            assert cli.main(argv) == 2, argv
            said = capsys.readouterr().err.splitlines()
            assert sentence in said[-1], said
            assert said[-1].startswith("error: ")
    with Ledger(
        tmp_path / "v", storage.read_json(str(tmp_path / "v" / "session.json"))["id"], range(FIRST_ID, FIRST_ID + 99)
    ):
        assert cli.main(start) == 2
        assert "Another vetting server is at work" in capsys.readouterr().err
