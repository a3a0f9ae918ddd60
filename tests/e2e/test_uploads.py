"""``/api/v1/uploads``: files of users, at once and in parts, against a real server that knows nobody's good intentions."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.bodies import enveloped_error, success
from support.http_server import everything
from support.server import Server, running
from support.waiting import PATIENCE, eventually
from support.world import UNKNOWN

LIMIT = 3 << 20
QUOTA = 40 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("uploads"), max_upload=LIMIT, quota_blobs=QUOTA) as server:
        yield server
        assert server.failures() == []


@pytest.fixture(scope="module")
def project(server: Server) -> str:
    return server.project("uploads")


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def begin(
    server: Server, project: str, size: int, checksum: str = "", token: str = "admin"
) -> dict[str, Any]:
    headers = {"Upload-Length": str(size), **({"X-Content-SHA256": checksum} if checksum else {})}
    made: dict[str, Any] = success(
        server.call("POST", f"/uploads?name=part.bin&projectId={project}", token, headers=headers), 201
    )
    return made


def send(
    server: Server, id: str, offset: int, data: bytes, token: str = "admin", **headers: str
) -> httpx.Response:
    more = {
        "Upload-Offset": str(offset),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return server.call("PATCH", f"/uploads/{id}", token, content=data, headers=more)


def downloaded(server: Server, id: str) -> bytes:
    answer = server.call("GET", f"/uploads/{id}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


def raw(server: Server, method: str, path: str, body: bytes, length: int, *lines: str) -> socket.socket:
    """A request of which only ``body`` was sent, of ``length`` bytes."""
    head = [f"{method} /api/v1{path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {server.admin}"]
    head += [f"Content-Length: {length}", *lines, "", ""]
    sock = socket.create_connection(("127.0.0.1", int(server.settings["port"])))
    sock.settimeout(PATIENCE)
    sock.sendall("\r\n".join(head).encode() + body)
    return sock


# -- at once ------------------------------------------------------------------------------------------------


def test_a_form(server: Server, project: str) -> None:
    data = content(300_000)
    answer = server.call("POST", f"/uploads?projectId={project}", files={"file": ("logo.png", data)})
    made = success(answer, 201)
    assert (made["name"], made["size"], made["offset"]) == ("logo.png", len(data), len(data))
    assert (made["sha256"], made["complete"], made["expiresAt"]) == (sha256(data), True, 0)
    assert success(server.call("GET", f"/uploads/{made['uploadId']}")) == made
    assert downloaded(server, made["uploadId"]) == data
    part = server.call("GET", made["contentUrl"], headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, data[1000:2000])
    assert part.headers["etag"] == f'"{sha256(data)}"'
    assert "attachment" in part.headers["content-disposition"]
    assert server.call("GET", made["contentUrl"], headers={"Range": "bytes=900000-"}).status_code == 416


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_raw_body(server: Server, project: str, size: int) -> None:
    data = content(size)
    path = f"/uploads?name=raw.bin&projectId={project}"
    made = success(server.call("POST", path, content=data, headers={"X-Content-SHA256": sha256(data)}), 201)
    assert (made["name"], made["size"], made["complete"]) == ("raw.bin", size, True)
    assert downloaded(server, made["uploadId"]) == data
    chunks = success(server.call("POST", path, content=iter([data[:10], data[10:]])), 201)
    assert downloaded(server, chunks["uploadId"]) == data


def test_a_key_repeats_the_first_answer_and_keeps_one_file(server: Server) -> None:
    project = server.project("keyed uploads")
    path, headers = f"/uploads?name=once&projectId={project}", {"Idempotency-Key": "once"}
    first = server.call("POST", path, content=b"one", headers=headers)
    again = server.call("POST", path, content=b"one", headers=headers)
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert enveloped_error(server.call("POST", path, content=b"two", headers=headers), 409)
    assert success(server.call("GET", f"/uploads?projectId={project}"))["total"] == 1


FORM = "multipart/form-data; boundary=b"


def part(name: str, data: str, more: str = "") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{data}\r\n'


FILE = part("file", "x", '; filename="f"')
BAD_FORMS = {
    "no file": part("name", "x") + "--b--\r\n",
    "two files": FILE + FILE + "--b--\r\n",
    "an unknown field": part("color", "red") + FILE + "--b--\r\n",
    "a field twice": part("name", "x") + part("name", "y") + FILE + "--b--\r\n",
    "many parts": "".join(part("name", "") for _ in range(100)) + "--b--\r\n",
    "a large field": part("name", "x" * 5000) + FILE + "--b--\r\n",
    "a huge header": f"--b\r\nX: {'x' * 20_000}\r\n\r\nx\r\n--b--\r\n",
    "many headers": "--b\r\n" + "X: y\r\n" * 100 + "\r\nx\r\n--b--\r\n",
    "no disposition": "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
    "no last boundary": FILE,
    "another boundary": FILE.replace("--b", "--c") + "--c--\r\n",
    "a wrong sum": part("sha256", "0" * 64) + FILE + "--b--\r\n",
    "no sum": FILE + part("sha256", "sum") + "--b--\r\n",
    "no name": part("file", "x", '; filename=""') + "--b--\r\n",
    "a name with a line": part("name", "a\nb") + FILE + "--b--\r\n",
    "nothing": "",
    "only the end": "--b--\r\n",
}


@pytest.mark.parametrize("form", BAD_FORMS.values(), ids=list(BAD_FORMS))
def test_bad_forms_are_refused_and_leave_nothing(server: Server, project: str, form: str) -> None:
    before = success(server.call("GET", f"/uploads?projectId={project}"))["total"]
    path = f"/uploads?projectId={project}"
    answer = server.call("POST", path, content=form.encode(), headers={"Content-Type": FORM})
    assert enveloped_error(answer, 400)["errorCode"] == "VALIDATION_FAILED"
    assert success(server.call("GET", f"/uploads?projectId={project}"))["total"] == before


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (part("file", "x", '; filename="../../etc/passwd"'), "passwd"),
        (part("file", "x", '; filename="C:\\\\work\\\\a.txt"'), "a.txt"),
        (part("name", "told.txt") + part("file", "x", '; filename="f"'), "told.txt"),
        (part("file", "x", '; filename="f"') + part("name", "after.txt"), "after.txt"),
        (part("file", "x", '; filename="äß.txt"'), "äß.txt"),
    ],
)
def test_names_in_forms_have_no_path(server: Server, project: str, form: str, name: str) -> None:
    answer = server.call(
        "POST",
        f"/uploads?projectId={project}",
        content=(form + "--b--\r\n").encode(),
        headers={"Content-Type": FORM},
    )
    assert success(answer, 201)["name"] == name


def test_contents_that_look_like_boundaries(server: Server, project: str) -> None:
    data = b"\r\n--b \r\n-\r\n--\r\n--a\r\r\n--" * 5000
    head = b'--b0\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    answer = server.call(
        "POST",
        f"/uploads?projectId={project}",
        content=head + data + b"\r\n--b0--\r\nepilogue" * 1,
        headers={"Content-Type": "multipart/form-data; boundary=b0"},
    )
    assert downloaded(server, success(answer, 201)["uploadId"]) == data


@pytest.mark.parametrize("name", ["", "a/b", "..", "%0a", " x", "x" * 256, "a%5Cb"])
def test_bad_names(server: Server, project: str, name: str) -> None:
    for headers in ({}, {"Upload-Length": "5"}):
        more = {} if headers else {"content": b"x"}
        answer = server.call("POST", f"/uploads?name={name}&projectId={project}", headers=headers, **more)
        enveloped_error(answer, 400)


def test_a_wrong_checksum_keeps_nothing(server: Server, project: str) -> None:
    path = f"/uploads?name=wrong&projectId={project}"
    before = success(server.call("GET", f"/uploads?projectId={project}"))["total"]
    for checksum in ("0" * 64, "abc"):
        headers = {"X-Content-SHA256": checksum}
        answer = server.call("POST", path, content=b"data", headers=headers)
        assert enveloped_error(answer, 400)["errorCode"] == "VALIDATION_FAILED"
    assert success(server.call("GET", f"/uploads?projectId={project}"))["total"] == before


def test_too_large_is_refused_before_it_is_read(server: Server, project: str) -> None:
    for headers in ((), (f"Content-Type: {FORM}",)):
        with raw(server, "POST", f"/uploads?name=x&projectId={project}", b"", 10 * LIMIT, *headers) as sock:
            head, _, body = everything(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        assert json.loads(body)["errorCode"] == "PAYLOAD_TOO_LARGE"
    with raw(server, "POST", f"/uploads?name=x&projectId={project}", b"", LIMIT + 1) as sock:
        assert everything(sock).startswith(b"HTTP/1.1 413")
    form = (FILE.rstrip("\r\n") + "x" * LIMIT).encode() + b"\r\n--b--\r\n"
    answer = server.call(
        "POST", f"/uploads?projectId={project}", content=form, headers={"Content-Type": FORM}
    )
    enveloped_error(answer, 413)
    unknown = server.call(
        "POST", f"/uploads?name=x&projectId={project}", content=iter([b"x" * (1 << 20)] * 4)
    )
    enveloped_error(unknown, 413)
    announced = {"Upload-Length": str(LIMIT + 1)}
    enveloped_error(server.call("POST", f"/uploads?name=x&projectId={project}", headers=announced), 413)


async def test_a_request_that_is_cut_leaves_nothing(server: Server) -> None:
    project = server.project("cut at once")
    with raw(server, "POST", f"/uploads?name=cut&projectId={project}", b"x" * 1000, 5000):
        pass
    assert success(server.call("GET", f"/uploads?projectId={project}"))["total"] == 0
    received = server.data_dir / "objects" / "received"
    await eventually(lambda: all(path.stat().st_size != 1000 for path in received.iterdir()))


# -- in parts -----------------------------------------------------------------------------------------------


def test_parts(server: Server, project: str) -> None:
    data = content(500_000)
    made = begin(server, project, len(data), sha256(data))
    id = made["uploadId"]
    assert (made["offset"], made["complete"]) == (0, False)
    assert made["expiresAt"] > made["createdAt"]
    for start in (0, 1, 200_000):
        stop = {0: 1, 1: 200_000, 200_000: len(data)}[start]
        refused = enveloped_error(server.call("GET", f"/uploads/{id}/content"), 409)
        assert (refused["errorCode"], refused["details"]["offset"]) == ("UPLOAD_INCOMPLETE", start)
        shown = success(send(server, id, start, data[start:stop], X_Content_SHA256=sha256(data[start:stop])))
        assert (shown["offset"], shown["complete"]) == (stop, stop == len(data))
    assert (shown["sha256"], shown["expiresAt"]) == (sha256(data), 0)
    assert downloaded(server, id) == data
    across = server.call("GET", f"/uploads/{id}/content", headers={"Range": "bytes=0-200009"})
    assert across.content == data[:200_010]
    late = enveloped_error(send(server, id, len(data), b""), 409)
    assert late["errorCode"] == "UPLOAD_OFFSET_CONFLICT"


def test_an_upload_that_is_cut_goes_on_where_it_was(server: Server, project: str) -> None:
    data = content(400_000, 2)
    id = begin(server, project, len(data), sha256(data))["uploadId"]
    with raw(server, "PATCH", f"/uploads/{id}", data[:150_000], len(data), "Upload-Offset: 0"):
        pass
    offset = _settled(server, id)
    assert 0 < offset <= 150_000
    assert success(send(server, id, offset, data[offset:]))["complete"]
    assert downloaded(server, id) == data


def _settled(server: Server, id: str) -> int:
    """Where an upload goes on whose connection was cut, once the server has noticed."""
    found = 0
    for _ in range(1000):
        found = int(server.ask("GET", f"/uploads/{id}")["offset"])
        answer = send(server, id, found, b"", X_Content_SHA256=sha256(b""))
        if answer.status_code == 200 and found:
            break
    return found


def test_a_part_with_a_checksum_is_kept_as_a_whole_or_not_at_all(server: Server, project: str) -> None:
    data = content(100_000, 3)
    id = begin(server, project, len(data))["uploadId"]
    checksum = f"X-Content-SHA256: {sha256(data)}"
    with raw(server, "PATCH", f"/uploads/{id}", data[:50_000], len(data), "Upload-Offset: 0", checksum):
        pass
    wrong = send(server, id, 0, data[:10], X_Content_SHA256=sha256(b"else"))
    while wrong.status_code == 429:  # the server has not noticed the cut yet
        wrong = send(server, id, 0, data[:10], X_Content_SHA256=sha256(b"else"))
    enveloped_error(wrong, 400)
    assert server.ask("GET", f"/uploads/{id}")["offset"] == 0
    assert success(send(server, id, 0, data))["sha256"] == sha256(data)


async def test_of_two_that_go_on_at_once_one_counts(server: Server, project: str) -> None:
    data = content(200_000, 4)
    id = begin(server, project, len(data), sha256(data))["uploadId"]
    path = f"/uploads/{id}"
    first = raw(server, "PATCH", path, data[:100_000], len(data), "Upload-Offset: 0", "Connection: close")
    received = server.data_dir / "objects" / "received"
    await eventually(lambda: any(file.stat().st_size for file in received.iterdir()))
    second = send(server, id, 0, data)
    assert enveloped_error(second, 429)["errorCode"] == "CALLER_QUEUE_FULL"
    assert second.headers["retry-after"]
    enveloped_error(server.call("GET", f"{path}/content"), 409)
    with first:
        first.sendall(data[100_000:])
        assert everything(first).startswith(b"HTTP/1.1 200")
    assert downloaded(server, id) == data


@pytest.mark.parametrize("offset", ["", "-1", "x", "1.5", "9" * 30])
def test_bad_offsets(server: Server, project: str, offset: str) -> None:
    id = begin(server, project, 10)["uploadId"]
    enveloped_error(
        server.call("PATCH", f"/uploads/{id}", content=b"x", headers={"Upload-Offset": offset}), 400
    )
    enveloped_error(server.call("PATCH", f"/uploads/{id}", content=b"x"), 400)
    assert server.ask("GET", f"/uploads/{id}")["offset"] == 0


def test_bad_parts_change_nothing(server: Server, project: str) -> None:
    id = begin(server, project, 10)["uploadId"]
    assert enveloped_error(send(server, id, 5, b"x"), 409)["details"]["offset"] == 0
    enveloped_error(send(server, id, 0, b"x" * 11), 400)
    chunked = server.call(
        "PATCH", f"/uploads/{id}", content=iter([b"x" * 8] * 2), headers={"Upload-Offset": "0"}
    )
    enveloped_error(chunked, 400)
    enveloped_error(send(server, UNKNOWN, 0, b"x"), 404)
    assert server.ask("GET", f"/uploads/{id}")["offset"] == 0
    body = server.call(
        "POST", f"/uploads?name=x&projectId={project}", content=b"x", headers={"Upload-Length": "1"}
    )
    enveloped_error(body, 400)


def test_a_wrong_checksum_of_the_whole_deletes_it(server: Server, project: str) -> None:
    id = begin(server, project, 4, "0" * 64)["uploadId"]
    success(send(server, id, 0, b"ab"))
    assert "deleted" in enveloped_error(send(server, id, 2, b"cd"), 400)["errMsg"]
    enveloped_error(server.call("GET", f"/uploads/{id}"), 404)


def test_an_empty_one_is_complete_at_once(server: Server, project: str) -> None:
    made = begin(server, project, 0)
    assert (made["complete"], made["sha256"]) == (True, sha256(b""))
    assert downloaded(server, made["uploadId"]) == b""
    headers = {"Upload-Length": "0", "X-Content-SHA256": "0" * 64}
    enveloped_error(server.call("POST", f"/uploads?name=x&projectId={project}", headers=headers), 400)


def test_an_upload_goes_on_after_a_restart(server: Server, project: str) -> None:
    data = content(300_000, 5)
    id = begin(server, project, len(data), sha256(data))["uploadId"]
    success(send(server, id, 0, data[:100_000]))
    server.stop()
    server.restart()
    assert server.ask("GET", f"/uploads/{id}")["offset"] == 100_000
    assert success(send(server, id, 100_000, data[100_000:]))["complete"]
    assert downloaded(server, id) == data


# -- whose they are -----------------------------------------------------------------------------------------


def test_only_the_uploader_operators_and_admins_see_them(server: Server) -> None:
    project = server.project("owned")
    tokens = {name: server.user(f"up-{name}", role, [project]) for name, role in
              [("owner", "user"), ("other", "user"), ("viewer", "viewer"), ("operator", "operator")]}  # fmt: skip
    tokens["stranger"] = server.user("up-stranger", "user", [])
    path = f"/uploads?name=mine&projectId={project}"
    id = success(server.call("POST", path, tokens["owner"], content=b"mine"), 201)["uploadId"]
    part = begin(server, project, 5, token=tokens["owner"])["uploadId"]
    for name, status in [("other", 404), ("stranger", 404), ("viewer", 403)]:
        token = tokens[name]
        for method, target in [("GET", id), ("GET", f"{id}/content"), ("DELETE", id), ("GET", part)]:
            enveloped_error(server.call(method, f"/uploads/{target}", token), status)
        enveloped_error(send(server, part, 0, b"x", token), status)
    assert success(server.call("GET", f"/uploads?projectId={project}", tokens["other"]))["list"] == []
    assert server.call("GET", f"/uploads?projectId={project}", tokens["stranger"]).status_code == 404
    for name in ("owner", "operator", "admin"):
        listed = success(server.call("GET", f"/uploads?projectId={project}", tokens.get(name, "admin")))
        assert {each["uploadId"] for each in listed["list"]} == {id, part}, name
        assert server.call("GET", f"/uploads/{id}/content", tokens.get(name, "admin")).content == b"mine"
    enveloped_error(server.call("POST", path, tokens["viewer"], content=b"x"), 403)
    server.ask("DELETE", f"/projects/{project}/members/up-owner")
    enveloped_error(server.call("GET", f"/uploads/{id}", tokens["owner"]), 404)
    assert success(server.call("DELETE", f"/uploads/{id}", tokens["operator"])) == {
        "uploadId": id,
        "name": "mine",
    }
    enveloped_error(server.call("GET", f"/uploads/{id}"), 404)
    enveloped_error(server.call("DELETE", f"/uploads/{id}"), 404)


def test_quotas_count_from_the_beginning(server: Server) -> None:
    project = server.project("full")
    for _ in range(QUOTA // LIMIT):
        begin(server, project, LIMIT)
    left = QUOTA % LIMIT
    last = begin(server, project, left)["uploadId"]
    refused = enveloped_error(server.call("POST", f"/uploads?name=x&projectId={project}", content=b"x"), 409)
    assert (refused["errorCode"], refused["details"]["quota"]) == ("QUOTA_EXCEEDED", "blobs")
    blob = server.call("POST", f"/blobs?project={project}", content=b"x")
    assert (blob.status_code, blob.json()["code"]) == (409, "QUOTA_EXCEEDED")
    server.ask("DELETE", f"/uploads/{last}")
    server.ask("DELETE", f"/uploads/{begin_elsewhere(server)}")


def begin_elsewhere(server: Server) -> str:
    """Other projects have room."""
    return str(begin(server, server.project("empty"), LIMIT)["uploadId"])
