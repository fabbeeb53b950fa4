"""``lensdata shards`` from its command line: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from infra import cli
from tests.stamp_folders import FIRST_ID, stamp_of, write_fetch


@pytest.fixture
def fetch(tmp_path: Path) -> str:
    folder = tmp_path / "fetch"
    write_fetch(str(folder))
    return str(folder)


@pytest.fixture
def run(capsys):
    """Runs ``lensdata shards ...``; returns exit code, output and error output."""

    def one(*words: object) -> tuple[int, str, str]:
        code = cli.main(["shards", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return one


def test_verify_of_a_whole_folder_says_all_is_well(run, fetch, tmp_path):
    code, out, _ = run("verify", fetch, "--json", tmp_path / "found.json")
    assert code == 0
    assert out.splitlines() == [
        "4 shard files, 35 stamps, 0.3 MB; 8 files compared by SHA-256, 35 stamps by pixel hash: all well"
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["kind"], found["stamps"], found["faults"]) == ("fetch", 35, [])


def test_verify_prints_a_line_per_bad_file_and_returns_one(run, fetch, tmp_path):
    path = Path(fetch) / "parts" / "dataset" / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[data.index(stamp_of(FIRST_ID + 10)[:5].tobytes())] ^= 1
    path.write_bytes(data)
    (Path(fetch) / "_SUCCESS").unlink()
    code, out, _ = run("verify", fetch, "--json", tmp_path / "found.json")
    bad, mark, total = out.splitlines()
    assert code == 1
    assert bad.startswith(
        "parts/dataset/part-00001.parquet: row group 0: expected pages with the right checksums, found "
    )
    assert bad.endswith("(and 1 more)")
    assert mark == "_SUCCESS: file: expected the mark of a finished step, found nothing there"
    assert total.endswith(": 3 faults in 2 files")
    assert len(json.loads((tmp_path / "found.json").read_text())["faults"]) == 3


def test_ls_is_a_table_with_totals(run, fetch):
    code, out, _ = run("ls", fetch)
    head, *lines, total = (line.split() for line in out.splitlines())
    assert code == 0
    assert head == ["file", "stamps", "row", "groups", "MB", "shape", "type", "bands"]
    assert lines[0] == ["parts/dataset/part-00000.parquet", "9", "3", "0.1", "24x24x3", "float32", "grz"]
    assert total == ["4", "files", "35", "11", "0.3"]


def test_ls_in_json_has_bytes(run, fetch):
    code, out, _ = run("ls", fetch, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["total"]["bytes"] == sum(path.stat().st_size for path in Path(fetch).glob("parts/dataset/*.parquet"))
    assert found["files"][0]["shape"] == [24, 24, 3]


def test_show_tells_place_columns_and_pixels(run, fetch):
    code, out, _ = run("show", fetch, FIRST_ID + 5)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "parts/dataset/part-00000.parquet, row group 1, row 0"
    assert lines[1] == "24 x 24 x 3 float32, grz, nanomaggy, 0.262 arcsec per pixel"
    assert f"  request_hash    h{FIRST_ID + 5}" in [line.rstrip() for line in lines]
    band = next(line for line in lines if line.split()[:1] == ["z"]).split()
    assert float(band[3]) == pytest.approx(stamp_of(FIRST_ID + 5)[:, :, 2].max(), rel=1e-3)


def test_show_writes_a_picture(run, fetch, tmp_path):
    code, out, _ = run("show", fetch, FIRST_ID, "--png", tmp_path / "stamp.png")
    assert code == 0
    assert out.splitlines()[-1] == f"picture {tmp_path / 'stamp.png'}"
    picture = matplotlib.image.imread(tmp_path / "stamp.png")
    assert picture.shape[1] > 3 * picture.shape[0] / 1.5  # four panels side by side
    assert np.ptp(picture[:, :, :3].max(axis=2) - picture[:, :, :3].min(axis=2)) > 0.2  # one of them in colour


def test_npz_goes_out_and_comes_back(run, fetch, tmp_path):
    (tmp_path / "ids.txt").write_text(f"{FIRST_ID}\n{FIRST_ID + 1}\n")
    out, back = tmp_path / "npz", tmp_path / "back"
    assert run("export-npz", fetch, out, "--ids", tmp_path / "ids.txt")[:2] == (0, f"2 stamps written to {out}\n")
    assert np.array_equal(np.load(out / f"{FIRST_ID}.npz")["cutout"], stamp_of(FIRST_ID))
    assert run("import-npz", out, back)[:2] == (0, f"2 stamps packed into {back}\n")
    assert run("verify", back)[0] == 0


def test_an_import_with_other_bands_says_so(run, tmp_path):
    np.savez(tmp_path / "1.npz", cutout=np.ones((6, 6, 2), np.float32))
    assert run("import-npz", tmp_path, tmp_path / "out")[0] == 2
    assert run("import-npz", tmp_path, tmp_path / "out", "--bands", "i,Y", "--pixscale", "0.2")[0] == 0
    assert "6x6x2  float32  iY" in run("ls", tmp_path / "out")[1]


def test_relative_folders_are_as_good(run, fetch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("verify", "fetch/")[0] == 0
    assert run("export-npz", "fetch", "npz")[0] == 0
    assert run("import-npz", "npz", "back/")[0] == 0
    assert run("compact", "./fetch", "fetch/../packed")[0] == 0
    for folder in ("back", "packed"):
        assert run("verify", folder)[1].endswith("all well\n")


def test_compact_tells_what_it_did(run, fetch, tmp_path):
    code, out, _ = run("compact", fetch, tmp_path / "packed", "--row-group", "16", "--shard-mb", "64")
    assert code == 0
    assert out.startswith("35 stamps: 4 files of 0.3 MB became 1 of 0.3 MB in ")
    assert run("verify", tmp_path / "packed")[0] == 0


def test_what_the_disk_refuses_is_one_sentence(run, fetch):
    code, _, err = run("show", fetch, FIRST_ID, "--png", f"{fetch}/_SUCCESS/stamp.png")
    assert code == 2
    assert err.startswith(f"error: show of {fetch} met ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "{tmp}/nothing"], "Folder {tmp}/nothing does not exist."),
        (["verify", "{tmp}"], "{tmp} holds no Parquet shards of stamps"),
        (["show", "{fetch}", "5"], "{fetch} has no stamp 5; it has 35 stamps."),
        (["show", "{fetch}", "abc"], "'abc' is no cutout_id, which is a whole number of 64 bits."),
        (["show", "{fetch}", "-7"], "{fetch} has no stamp -7; it has 35 stamps."),
        (["export-npz", "{fetch}", "{fetch}"], "Output {fetch} is there already and not empty"),
        (["import-npz", "{tmp}/nothing", "{tmp}/out"], "Folder {tmp}/nothing does not exist."),
        (["export-npz", "{fetch}", "/proc/no"], "_temporary-no-"),
        (["compact", "{fetch}", "{tmp}/out", "--shard-mb", "0"], "--shard-mb must be at least 1, found 0."),
    ],
)
def test_bad_input_is_one_sentence(run, fetch, tmp_path, words, message):
    if message.startswith("{tmp} holds"):
        tmp_path = tmp_path / "empty"
        tmp_path.mkdir()
    places = {"tmp": tmp_path, "fetch": fetch}
    code, out, err = run(*(word.format(**places) for word in words))
    assert code == 2
    assert err.startswith("error: ")
    assert message.format(**places) in err
    assert err.count("\n") == 1
    assert out == ""
