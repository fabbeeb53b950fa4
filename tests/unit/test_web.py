"""Files of a web server, read by ranges whatever it does."""

from __future__ import annotations

import pytest
import urllib3

from lensdata import storage, web
from lensdata.errors import InputError
from tests.web_server import Faults, serve

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return tmp_path


def test_a_range_is_what_the_file_holds_there(folder):
    with serve(folder) as url:
        assert storage.read_range(f"{url}/a.bin", 100, 356) == CONTENT[100:356]
        assert storage.read_range(f"{url}/a.bin", len(CONTENT) - 5, len(CONTENT) + 100) == CONTENT[-5:]
        assert storage.read_range(f"{url}/a.bin", len(CONTENT) + 1, len(CONTENT) + 9) == b""
        assert storage.size(f"{url}/a.bin") == len(CONTENT)
        assert storage.read_bytes(f"{url}/a.bin") == CONTENT


def test_refusals_and_broken_answers_are_asked_for_again(folder):
    faults = Faults(refusals=2, cut_short=1)
    with serve(folder, faults) as url:
        assert web.read_range(f"{url}/a.bin", 0, len(CONTENT)) == CONTENT
    assert faults.refusals == faults.cut_short == 0


def test_pieces_are_of_equal_size_and_end_where_the_file_ends(folder, monkeypatch):
    monkeypatch.setattr(storage, "REQUEST_BYTES", 1000)
    with serve(folder) as url:
        for uri in (f"{url}/a.bin", str(folder / "a.bin")):
            pieces = [bytes(piece) for piece in storage.read_pieces(uri, 40, len(CONTENT) + 700, 300)]
            assert b"".join(pieces) == CONTENT[40:]
            assert {len(piece) for piece in pieces[:-1]} == {300}


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (Faults(ignore_range=True), "the server ignores Range requests"),
        (Faults(shift=7), "do not use this mirror"),
    ],
)
def test_a_server_that_sends_other_bytes_is_not_believed(folder, faults, sentence):
    with serve(folder, faults) as url, pytest.raises(InputError, match=sentence):
        web.read_range(f"{url}/a.bin", 10, 50)


def test_a_file_that_is_not_there_is_named(folder):
    with serve(folder) as url:
        assert not storage.exists(f"{url}/b.bin")
        with pytest.raises(InputError, match=r"b\.bin does not exist"):
            storage.version(f"{url}/b.bin")
        with pytest.raises(InputError, match=r"b\.bin does not exist"):
            web.read_range(f"{url}/b.bin", 0, 5)
        with pytest.raises(InputError, match="can only be read from"):
            storage.write_bytes(f"{url}/c.bin", b"")


@pytest.fixture
def impatient(monkeypatch):
    """No pauses between the repeats."""
    monkeypatch.setattr(web, "RETRIES", urllib3.Retry(total=2, status_forcelist=web.RETRIED, raise_on_status=False))
    web._pool.cache_clear()
    yield
    web._pool.cache_clear()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/a.bin", "http://no-such-host.invalid/a.bin"])
def test_a_server_that_does_not_answer_is_named_in_a_sentence(impatient, uri):
    for ask in (web.describe, lambda uri: web.read_range(uri, 0, 5)):
        with pytest.raises(OSError, match=r"/a\.bin: no answer from the server") as caught:
            ask(uri)
        assert "Max retries" not in str(caught.value)


def test_a_redirect_that_leads_nowhere_and_a_server_that_fails_are_named(folder, impatient):
    with serve(folder, Faults(redirect=True)) as url, pytest.raises(OSError, match="too many redirects"):
        web.describe(f"{url}/a.bin")
    with serve(folder, Faults(unknown=503)) as url, pytest.raises(OSError, match="status 503 again and again"):
        web.describe(f"{url}/b.bin")


@pytest.mark.parametrize("content", [CONTENT, b""])
def test_a_server_without_head_tells_the_size_by_a_range(folder, content):
    (folder / "a.bin").write_bytes(content)
    with serve(folder, Faults(no_head=True)) as url:
        assert storage.size(f"{url}/a.bin") == len(content)
        assert not storage.exists(f"{url}/b.bin")


def test_a_server_that_refuses_unknown_names_does_not_hold_them(folder):
    with serve(folder, Faults(unknown=403)) as url:
        assert storage.exists(f"{url}/a.bin")
        assert not storage.exists(f"{url}/a.bin/_table.json")
        with pytest.raises(InputError, match=r"b\.bin: the server refuses it \(status 403\)"):
            storage.version(f"{url}/b.bin")


def test_a_refused_range_is_no_fault_of_the_file(folder):
    with serve(folder, Faults(forbid_after=0)) as url, pytest.raises(OSError, match="refuses it"):
        web.read_range(f"{url}/a.bin", 0, 5)


def test_a_range_of_a_file_of_another_size_is_refused(folder):
    with serve(folder) as url:
        assert web.read_range(f"{url}/a.bin", 0, 5, len(CONTENT)) == CONTENT[:5]
        for start in (0, len(CONTENT) + 1):
            with pytest.raises(web.ChangedFile, match=f"it had 7 bytes and has {len(CONTENT)}"):
                web.read_range(f"{url}/a.bin", start, start + 5, 7)


def test_a_list_with_a_byte_order_mark_names_its_first_file(tmp_path):
    (tmp_path / "list.txt").write_text("/c/d.fits\n", encoding="utf-8-sig")
    assert storage.read_file_list(str(tmp_path / "list.txt")) == ["/c/d.fits"]


def test_a_list_names_files_relative_to_itself_or_by_address(tmp_path):
    (tmp_path / "list.txt").write_text("# sweeps\na.fits\n\nhttps://host/b.fits\n/c/d.fits\n")
    found = storage.read_file_list(str(tmp_path / "list.txt"))
    assert found == [str(tmp_path / "a.fits"), "https://host/b.fits", "/c/d.fits"]


@pytest.mark.parametrize(("text", "sentence"), [("\n# nothing\n", "names no file"), ("a\nb\na\n", "a twice")])
def test_a_list_that_is_empty_or_repeats_is_refused(tmp_path, text, sentence):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        storage.read_file_list(str(tmp_path / "list.txt"))
