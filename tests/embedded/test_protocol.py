"""The Hub's answers, byte by byte, where the real client would hide what it got."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hubconv.embedded import EmbeddedHub, Knobs, serve

CONTENT = bytes(range(256)) * 9
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def text_file(path, content="hello"):
    return ("file", {"path": path, "content": content, "encoding": "utf-8"})


def large_line(path="a.bin", sha256=SHA256, **more):
    return ("lfsFile", {"path": path, "algo": "sha256", "oid": sha256, **more})


def head(ask, revision="main"):
    return ask("GET", f"/api/models/demo/m/revision/{revision}").json()["sha"]


def test_what_is_written_is_there_after_a_restart(tmp_path, browse):
    with EmbeddedHub(tmp_path / "hub", mode="lfs") as hub:
        ask = browse(hub)
        ask.make_repo("m", visibility="private")
        assert ask.put_large("demo/m", CONTENT, SHA256).status == 200
        assert ask.commit("demo/m", text_file("a.txt"), large_line()).status == 200
        ask("POST", "/api/models/demo/m/tag/main", {"tag": "v1"})
        ask("POST", "/api/models/demo/m/branch/side", {})
        ask("POST", "/api/models/demo/m/discussions", {"title": "Why", "description": "?"})
        before = head(ask)
        port = int(hub.endpoint.rsplit(":", 1)[1])
    with EmbeddedHub(tmp_path / "hub", mode="lfs", port=port) as hub:
        ask = browse(hub)
        assert head(ask) == head(ask, "v1") == head(ask, "side") == before
        info = ask("GET", "/api/models/demo/m").json()
        assert info["private"] is True
        assert ask("GET", "/demo/m/resolve/main/a.txt").content == b"hello"
        link = ask("GET", "/demo/m/resolve/main/a.bin").headers["Location"]
        assert ask("GET", link).content == CONTENT
        assert ask("GET", "/api/models/demo/m/discussions/1").json()["title"] == "Why"


def test_a_regular_file_is_served_with_ranges(ask):
    ask.make_repo("m")
    ask.commit("demo/m", text_file("a.txt", "0123456789"))
    whole = ask("GET", "/demo/m/resolve/main/a.txt")
    assert (whole.status, whole.content) == (200, b"0123456789")
    assert whole.headers["X-Repo-Commit"] == head(ask)
    assert whole.headers["ETag"].strip('"') == hashlib.sha1(b"blob 10\x000123456789").hexdigest()
    for text, content in (("2-4", b"234"), ("7-", b"789"), ("-2", b"89"), ("8-99", b"89")):
        part = ask("GET", "/demo/m/resolve/main/a.txt", headers={"Range": f"bytes={text}"})
        assert (part.status, part.content) == (206, content)
    behind = ask("GET", "/demo/m/resolve/main/a.txt", headers={"Range": "bytes=10-"})
    assert behind.status == 416
    headed = ask("HEAD", "/demo/m/resolve/main/a.txt")
    assert (headed.headers["Content-Length"], headed.content) == ("10", b"")


def test_a_large_file_is_on_the_other_origin(hub, ask):
    ask.make_repo("m")
    ask.put_large("demo/m", CONTENT, SHA256)
    ask.commit("demo/m", large_line(size=len(CONTENT)))
    answer = ask("HEAD", "/demo/m/resolve/main/a.bin")
    assert answer.status == 302
    assert answer.headers["X-Linked-Etag"] == f'"{SHA256}"'
    assert answer.headers["X-Linked-Size"] == str(len(CONTENT))
    assert answer.headers["X-Repo-Commit"] == head(ask)
    assert "X-Xet-Hash" not in answer.headers
    assert answer.headers["Location"].startswith(hub.cdn)
    assert not hub.cdn.startswith(hub.endpoint)
    part = ask("GET", answer.headers["Location"], headers={"Range": "bytes=5-9"}, token=None)
    assert (part.status, part.content) == (206, CONTENT[5:10])


def test_a_link_is_good_for_its_file_and_its_time(tmp_path, browse):
    with EmbeddedHub(tmp_path / "hub", mode="lfs", knobs=Knobs(link_s=-1)) as hub:
        ask = browse(hub)
        ask.make_repo("m")
        assert ask.put_large("demo/m", CONTENT, SHA256).status == 403
    with EmbeddedHub(tmp_path / "hub", mode="lfs") as hub:
        ask = browse(hub)
        ask.put_large("demo/m", CONTENT, SHA256)
        ask.commit("demo/m", large_line())
        link = ask("GET", "/demo/m/resolve/main/a.bin").headers["Location"]
        assert ask("GET", link.replace("signature=", "signature=0")).status == 403
        assert ask("GET", link).status == 200


def test_without_xet_there_is_no_xet_token(ask):
    ask.make_repo("m")
    for scope in ("read", "write"):
        assert ask("GET", f"/api/models/demo/m/xet-{scope}-token/main").status == 404


def test_a_xet_token_comes_in_headers_and_in_json(tmp_path, browse):
    with EmbeddedHub(tmp_path / "hub") as hub:
        ask = browse(hub)
        ask.make_repo("m")
        answer = ask("GET", "/api/models/demo/m/xet-write-token/main")
        body = answer.json()
        assert body["casUrl"] == answer.headers["X-Xet-Cas-Url"] == hub.cdn
        assert body["accessToken"] == answer.headers["X-Xet-Access-Token"]
        assert str(body["exp"]) == answer.headers["X-Xet-Token-Expiration"]
        assert int(body["exp"]) > time.time()
        read = ask("GET", "/api/models/demo/m/xet-read-token/main").json()["accessToken"]
        for token, status in ((read, 403), ("xet_none", 401), (body["accessToken"], 400)):
            url = f"{hub.cdn}/v1/xorbs/default/{'0' * 64}"
            assert ask("POST", url, b"no xorb", token=token).status == status
        hub.add_user("stranger", "hf_stranger")
        path = "/api/models/demo/m/xet-write-token/None?create_pr=1"
        assert ask("GET", path, token="hf_stranger").status == 403


def test_content_with_another_hash_is_refused(ask):
    ask.make_repo("m")
    assert ask.put_large("demo/m", CONTENT[:-1] + b"\0", SHA256).status == 400
    assert ask.commit("demo/m", large_line()).status == 400


def test_the_size_in_a_commit_must_be_the_files(ask):
    ask.make_repo("m")
    ask.put_large("demo/m", CONTENT, SHA256)
    assert ask.commit("demo/m", large_line(size=1)).status == 400


def test_an_upload_in_parts_is_checked_part_by_part(hub, ask):
    ask.make_repo("m")
    wish = {
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": [{"oid": SHA256, "size": len(CONTENT)}],
    }
    batch = ask("POST", "/demo/m.git/info/lfs/objects/batch", wish).json()
    action = batch["objects"][0]["actions"]["upload"]
    assert batch["transfer"] == "multipart"
    assert action["header"]["chunk_size"] == "400"
    links = [action["header"][str(number)] for number in range(1, 7)]
    with ThreadPoolExecutor(3) as pool:
        parts = list(
            pool.map(lambda at: ask("PUT", links[at], CONTENT[400 * at : 400 * at + 400]), range(6))
        )
    etags = [
        {"partNumber": number, "etag": part.headers["ETag"]} for number, part in enumerate(parts, 1)
    ]
    short = ask("POST", action["href"], {"oid": SHA256, "parts": etags[:-1]})
    assert short.status == 400
    assert ask("POST", action["href"], {"oid": SHA256, "parts": etags}, token=None).status == 200
    verify = batch["objects"][0]["actions"]["verify"]["href"]
    assert ask("POST", verify, {"oid": SHA256, "size": len(CONTENT)}).status == 200
    again = ask("POST", "/demo/m.git/info/lfs/objects/batch", wish).json()
    assert again["objects"] == [{"oid": SHA256, "size": len(CONTENT)}]
    assert ask.commit("demo/m", large_line()).status == 200
    assert not [path for path in (hub.root / "incoming").rglob("*") if path.is_file()]


def test_a_file_that_nobody_committed_can_be_lost(hub, ask):
    ask.make_repo("m")
    ask.put_large("demo/m", CONTENT, SHA256)
    hub.forget_large_file("demo/m", SHA256)
    answer = ask.commit("demo/m", large_line())
    assert answer.status == 400
    assert answer.json()["error"] == "LFS pointer pointed to a file that does not exist"
    ask.put_large("demo/m", CONTENT, SHA256)
    assert ask.commit("demo/m", large_line()).status == 200


def test_of_commits_with_the_same_parent_one_is_made(ask):
    ask.make_repo("m")
    parent = head(ask)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda n: ask.commit("demo/m", text_file(f"{n}.txt"), parent=parent), range(8)
        )
        statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] + [412] * 7


def test_commits_without_a_parent_all_land(ask):
    ask.make_repo("m")
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: ask.commit("demo/m", text_file(f"{n}.txt")), range(8))
        assert {answer.status for answer in answers} == {200}
    info = ask("GET", "/api/models/demo/m").json()
    assert len(info["siblings"]) == 9


def test_a_refused_commit_changes_nothing(ask):
    ask.make_repo("m")
    before = head(ask)
    for line, status in (
        (large_line(), 400),
        (("deletedFile", {"path": "none"}), 404),
        (("deletedFolder", {"path": "none/"}), 404),
        (text_file("../a"), 400),
        (text_file(".git/config"), 400),
        (("strange", {"path": "a"}), 400),
        (("file", {"path": "a", "content": "$", "encoding": "base64"}), 400),
        (text_file("README.md", "---\nlicense: [1]\n---\n"), 400),
    ):
        assert ask.commit("demo/m", text_file("ok.txt"), line).status == status
    assert ask("POST", "/api/models/demo/m/commit/main", b"no json").status == 400
    assert ask.commit("demo/m", text_file("a"), revision="none").status == 404
    assert ask.commit("demo/m", text_file("a"), revision=before).status == 400
    assert head(ask) == before


def test_pages_are_linked(hub, ask):
    ask.make_repo("m")
    ask.commit("demo/m", *(text_file(f"{n}.txt") for n in range(6)))
    first = ask("GET", "/api/models/demo/m/tree/main?recursive=true")
    assert len(first.json()) == 4
    link = first.headers["Link"]
    assert link.endswith('>; rel="next"')
    url = link.split(">", 1)[0].removeprefix("<")
    assert "recursive=true" in url
    second = ask("GET", url)
    assert [item["path"] for item in second.json()] == ["3.txt", "4.txt", "5.txt"]
    assert second.headers["Link"] is None


def test_refusals_carry_the_hubs_codes(ask):
    ask.make_repo("m")
    for path, code in (
        ("/api/models/demo/none", "RepoNotFound"),
        ("/api/models/demo/m/tree/none", "RevisionNotFound"),
        ("/demo/m/resolve/none/a.txt", "RevisionNotFound"),
        ("/demo/m/resolve/main/none", "EntryNotFound"),
    ):
        answer = ask("GET", path)
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, code)
        assert answer.headers["X-Error-Message"] == answer.json()["error"]
    assert answer.headers["X-Repo-Commit"] == head(ask)
    assert ask("GET", "/api/models/demo/m", token="hf_nobody").status == 401
    assert ask("GET", "/api/agent-harnesses").status == 404
    assert (
        ask(
            "POST",
            "/api/models/demo/m/paths-info/main",
            b"&".join([b"paths=a%d" % n for n in range(1001)]),
        ).status
        == 413
    )


def test_a_revoked_token_is_no_longer_good(hub, ask):
    hub.add_user("guest", "hf_guest")
    assert ask("GET", "/api/whoami-v2", token="hf_guest").json()["name"] == "guest"
    hub.revoke("hf_guest")
    assert ask("GET", "/api/whoami-v2", token="hf_guest").status == 401


def test_a_card_is_checked(ask):
    def check(content):
        answer = ask("POST", "/api/validate-yaml", {"content": content, "repoType": "model"})
        return answer.status, len(answer.json()["errors"]), len(answer.json()["warnings"])

    assert check("---\nlicense: mit\ntags: [a]\nbase_model_relation: quantized\n---\n# A") == (
        200,
        0,
        0,
    )
    assert check("# A") == (200, 0, 1)
    assert check("---\nlicense: MIT License\nlibrary_name: 3\ntags: {a: 1}\n---\n") == (400, 3, 0)
    assert check("---\na: [\n---\n")[0] == 400
    assert check("---\nmodel-index:\n- name: x\n---\n")[0] == 400


def test_serve_tells_where_it_listens_and_ends_when_told(tmp_path, browse):
    ready, ending, endpoints = threading.Event(), threading.Event(), []

    def on_ready(endpoint):
        endpoints.append(endpoint)
        ready.set()

    serving = threading.Thread(
        target=serve,
        args=(tmp_path / "hub", 0, "lfs"),
        kwargs={"on_ready": on_ready, "stop": ending},
    )
    serving.start()
    assert ready.wait(10)
    assert browse(None)("GET", f"{endpoints[0]}/api/whoami-v2").status == 200
    ending.set()
    serving.join(10)
    assert not serving.is_alive()


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import hubconv.embedded

    with pytest.raises(AttributeError):
        hubconv.embedded.Nothing  # noqa: B018
