"""The server behind the page: who is let in, what a blind grader is told, what is written."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from lensdata.vetting.admission import is_loopback
from lensdata.vetting.grades import Ledger, read_standing
from lensdata.vetting.server import Vetting
from lensdata.vetting.session import Session
from lensdata.vetting.stamps import StampStore
from tests.vetting_folders import begin, keys_of

SECRET = "s3cret-of-the-test"


def visit(
    session: Session, body: Callable[[TestClient], Awaitable[Any]], *, admitted: bool = True, **options: Any
) -> Any:
    """Run a test against a server on the loopback."""

    async def run() -> Any:
        with Ledger(session.folder, session.id, keys_of(session)) as ledger:
            vetting = Vetting(session, StampStore(session), ledger, secret=SECRET, **options)
            cookies = {f"lensdata-vet-{session.id}": SECRET} if admitted else {}
            async with TestClient(TestServer(vetting.application(), host="127.0.0.1"), cookies=cookies) as client:
                return await body(client)

    return asyncio.run(run())


def press(session: Session, number: int, grade: str, grader: str = "ada", **more: Any) -> dict[str, Any]:
    body = {"session": session.id, "grader": grader, "number": number, "grade": grade, "kind": None, "seconds": 1.0}
    return body | {"key": f"{grader}-{number}-{grade}"} | more


async def told(response: ClientResponse, status: int = 200) -> Any:
    assert response.status == status, await response.text()
    return await response.json()


def test_without_the_token_nothing_is_told(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        for path in (
            "/",
            "/page.js",
            "/api/session",
            "/api/marks/ada",
            f"/picture/{session.id}/ada/1",
            "/?token=wrong",
        ):
            assert (await client.get(path)).status == 403
        assert (await client.post("/api/grade", json=press(session, 1, "lens"))).status == 403
        page = await client.get(f"/?token={SECRET}")
        assert page.status == 200
        assert re.search("HttpOnly.*SameSite=Strict", page.headers["Set-Cookie"])
        assert (await client.get("/api/session")).status == 200

    visit(session, body, admitted=False)
    assert read_standing(session.folder, session.id, keys_of(session)).lines == 0


def test_another_hosts_name_is_refused(tmp_path):
    """A foreign page whose name leads here (DNS rebinding) asks by that name."""
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""):
            assert (await client.get("/api/session", headers={"Host": host})).status == 403
        for host in ("localhost:9", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
            assert (await client.get("/api/session", headers={"Host": host})).status == 200

    visit(session, body)


def test_other_pages_cannot_write(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        grade = press(session, 1, "lens")
        plain = {"Content-Type": "text/plain"}
        assert (await client.post("/api/grade", data=json.dumps(grade), headers=plain)).status == 403
        assert (await client.post("/api/grade", json=grade, headers={"Origin": "http://evil.example"})).status == 403
        assert (await client.post("/api/grade", json=grade, headers={"Origin": "http://127.0.0.1:1"})).status == 403
        assert (
            await client.post("/api/grade", json=grade, headers={"Origin": str(client.make_url("/"))[:-1]})
        ).status == 200

    visit(session, body)
    assert read_standing(session.folder, session.id, keys_of(session)).lines == 1


def test_every_answer_forbids_what_the_page_does_not_need(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        for path in ("/", "/page.js", "/page.css", "/api/session", f"/picture/{session.id}/ada/1", "/nowhere"):
            headers = (await client.get(path)).headers
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"

    visit(session, body)


def test_nothing_sent_to_a_blind_grader_tells_a_control_from_the_rest(tmp_path):
    session = begin(tmp_path, lenses=4, random=4)
    order = session.order("ada")
    control = [session.items["control"][int(item)].as_py() for item in order]
    private = [str(key) for key in keys_of(session)] + ["DESI", "logit", "shard", "random", "control"]

    async def body(client: TestClient) -> tuple[dict[str, set[str]], list[str]]:
        seen: dict[str, set[str]] = {}
        texts = [
            await (await client.get(path)).text() for path in ("/api/session", "/api/marks/ada", "/api/summary/ada")
        ]
        for number, sort in enumerate(control, 1):
            answers = [
                await client.get(f"/picture/{session.id}/ada/{number}"),
                await client.get(f"/api/facts/ada/{number}"),
            ]
            answers.append(await client.post("/api/grade", json=press(session, number, "maybe")))
            answers.append(
                await client.post("/api/undo", json={"session": session.id, "grader": "ada", "key": f"u{number}"})
            )
            for answer in answers:
                headers = {
                    name: value for name, value in answer.headers.items() if name not in ("Date", "Content-Length")
                }
                shape = [answer.status, headers]
                if answer.content_type == "application/json":
                    text = (await answer.text()).replace(str(number), "N")
                    texts.append(text)
                    shape.append(text)
                seen.setdefault(str(sort), set()).add(json.dumps(shape))
        texts += [await (await client.get(path)).text() for path in ("/api/marks/ada", "/api/summary/ada")]
        return seen, texts

    seen, texts = visit(session, body)
    assert seen["lens"] == seen["random"] == seen["None"]
    assert not [word for word in private for text in texts if word in text]


def test_controls_and_agreement_are_told_after_the_last_stamp_only(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        for number in range(1, len(session) + 1):
            assert "all" not in await told(await client.get("/api/summary/ada"))
            await told(await client.post("/api/grade", json=press(session, number, "not", kind="ring")))
        found = await told(await client.get("/api/summary/ada"))
        assert found["finished"]
        assert found["all"]["graders"][0]["controls_lens"]["as_lens"]["value"] == 0
        assert found["export"].startswith("lensdata vet export ")
        assert "all" not in await told(await client.get("/api/summary/bob"))

    visit(session, body)


def test_who_is_not_blind_is_told_what_is_known(tmp_path):
    session = begin(tmp_path, blind=False, lenses=0, random=0)

    async def body(client: TestClient) -> None:
        facts = await told(await client.get("/api/facts/ada/1"))
        assert facts["logit"] == 10.0
        assert facts["cutout_id"] == str(session.cutout_ids[0])
        assert facts["viewer"].startswith("https://www.legacysurvey.org/viewer?ra=")

    visit(session, body)


def test_a_score_that_is_no_number_is_no_broken_answer(tmp_path):
    session = begin(tmp_path, blind=False, lenses=0, random=0)
    logits = pa.array([float("inf"), float("nan")] + [0.0] * (len(session) - 2))
    session.items = session.items.set_column(session.items.column_names.index("logit"), "logit", logits)

    async def body(client: TestClient) -> None:
        for number in (1, 2):
            text = await (await client.get(f"/api/facts/ada/{number}")).text()
            assert json.loads(text, parse_constant=pytest.fail)["logit"] is None

    visit(session, body)


def test_a_cookie_of_any_bytes_is_refused_like_every_other(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        cookie = f"lensdata-vet-{session.id}=".encode() + b"\xff\xfe"
        writer.write(
            b"GET /api/session HTTP/1.1\r\nHost: localhost\r\nCookie: " + cookie + b"\r\nConnection: close\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
        writer.close()

    visit(session, body, admitted=False)


def test_grades_and_undo_are_kept_for_each_grader(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        await told(await client.post("/api/grade", json=press(session, 1, "lens")))
        await told(await client.post("/api/grade", json=press(session, 2, "not", kind="edge_on")))
        await told(await client.post("/api/grade", json=press(session, 2, "maybe", "bob")))
        found = await told(await client.get("/api/marks/ada"))
        assert found["marks"][:3] == "ln."
        assert found["kinds"] == {"2": "edge_on"}
        assert (await told(await client.get("/api/marks/bob")))["marks"][:3] == ".m."
        undo = {"session": session.id, "grader": "ada", "key": "undo-1"}
        assert await told(await client.post("/api/undo", json=undo)) == {"number": 2, "grade": None, "kind": None}
        assert await told(await client.post("/api/undo", json=undo)) == {"number": 2, "grade": None, "kind": None}
        assert (await told(await client.get("/api/marks/ada")))["marks"][:3] == "l.."
        assert (await told(await client.get("/api/marks/bob")))["marks"][:3] == ".m."

    visit(session, body)


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"grade": "quasar"}, 400, "A grade is one of"),
        ({"grade": None}, 400, "A grade is one of"),
        ({"kind": "ring"}, 400, "not alone has a kind"),
        ({"grader": "<b>"}, 400, "letters, digits and dashes"),
        ({"number": 0}, 404, "There is no stamp 0"),
        ({"number": 10**8}, 404, "There is no stamp"),
        ({"number": "1x"}, 400, "whole number"),
        ({"number": True}, 400, "whole number"),
        ({"number": None}, 400, "whole number"),
        ({"number": ...}, 400, "whole number"),
        ({"seconds": "2"}, 400, "seconds must be a number"),
        ({"seconds": -1}, 400, "seconds must be a number"),
        ({"key": "a b"}, 400, "key must be"),
        ({"key": 7}, 400, "key must be"),
        ({"session": "other"}, 409, "another session"),
    ],
)
def test_what_is_no_grade_is_refused_in_a_sentence(tmp_path, change, status, sentence):
    session = begin(tmp_path)

    async def body(client: TestClient) -> str:
        sent = {name: value for name, value in (press(session, 1, "lens") | change).items() if value is not ...}
        answer = await told(await client.post("/api/grade", json=sent), status)
        return str(answer["error"])

    assert sentence in visit(session, body)
    assert read_standing(session.folder, session.id, keys_of(session)).lines == 0


def test_a_body_that_is_no_json_or_too_large_is_refused(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        headers = {"Content-Type": "application/json"}
        for data, status in ((b"{", 400), (b"[1]", 400), (b"\xff", 400), (b"{}", 400), (b" " * 10_000, 413)):
            assert (await client.post("/api/grade", data=data, headers=headers)).status == status

    visit(session, body)


def test_only_the_graders_of_the_command_line_are_let_in(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        assert (await told(await client.get("/api/session")))["closed"]
        await told(await client.get("/api/marks/ada"))
        assert "is not among the graders" in (await told(await client.get("/api/marks/eve"), 403))["error"]

    visit(session, body, graders=["ada", "bob"])


def test_a_stamp_that_cannot_be_read_is_said_without_its_address(tmp_path):
    session = begin(tmp_path)
    [shard] = (tmp_path / "shards" / "dataset").iterdir()
    whole = shard.read_bytes()

    async def body(client: TestClient) -> None:
        shard.write_bytes(whole[:200] + bytes(len(whole) - 400) + whole[-200:])
        answers = [await client.get(f"/picture/{session.id}/ada/{number}") for number in (1, 2)]
        for answer in answers:
            assert "cannot be read; the terminal says why" in (await told(answer, 500))["error"]
        await told(await client.post("/api/grade", json=press(session, 1, "artefact")))

    visit(session, body)


def test_pictures_are_those_that_were_asked_for_or_none(tmp_path):
    session = begin(tmp_path)

    async def body(client: TestClient) -> None:
        base = f"/picture/{session.id}/ada/1"
        asked = (
            "",
            "?channel=g",
            "?channel=z",
            "?stretch=faint",
            "?residual=1",
            "?channel=r&stretch=bright&residual=1",
        )
        seen = {await (await client.get(base + query)).read() for query in asked}
        assert len(seen) == 6
        for path in (
            base + "?channel=i",
            base + "?stretch=wild",
            "/picture/other/ada/1",
            f"/picture/{session.id}/ada/999",
        ):
            assert (await client.get(path)).status == 404

    visit(session, body)


def test_addresses_of_this_machine_alone_are_told_from_others():
    assert all(map(is_loopback, ["127.0.0.1", "::1", "localhost", "127.1.2.3"]))
    assert not any(map(is_loopback, ["0.0.0.0", "192.168.1.2", "::", "myhost"]))
