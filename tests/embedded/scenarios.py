"""What the real Hub client must be able to do; run as a program, once per mode.

`python scenarios.py ENDPOINT MODE FOLDER` runs every scenario on a repository of its own and writes
FOLDER/results.json: the traceback of each scenario that failed, or null.
"""

import hashlib
import io
import json
import os
import random
import struct
import sys
import traceback
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.lfs import UploadInfo

ENDPOINT, MODE, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
SCENARIOS = []
api = HfApi(endpoint=ENDPOINT, token="hf_embedded_demo")
anybody = HfApi(endpoint=ENDPOINT, token=False)
stranger = HfApi(endpoint=ENDPOINT, token="hf_stranger")
reader = HfApi(endpoint=ENDPOINT, token="hf_reader")
CARD = b"---\nlicense: apache-2.0\ntags: [nvfp4]\nbase_model: demo/base\n---\n# Hello\n"


def scenario(function):
    SCENARIOS.append(function)
    return function


@contextmanager
def refused(kind, text="", status=None):
    try:
        yield
    except kind as error:
        caught = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    assert text in str(caught), f"{text!r} is not in {caught}"
    assert status is None or caught.response.status_code == status, caught


def add(path, content):
    return CommitOperationAdd(path, content)


def commit(repo, *operations, message="change", **more):
    return api.create_commit(repo, list(operations), commit_message=message, **more)


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def by_sha(path, sha256, size):
    """An operation for a file that was uploaded before, as another process would make it."""
    operation = CommitOperationAdd(path, b"")
    operation.upload_info = UploadInfo(size=size, sample=b"", sha256=bytes.fromhex(sha256))
    operation._upload_mode, operation._should_ignore, operation._is_uploaded = "lfs", False, True
    return operation


def safetensors(tensors):
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + noise(at, len(tensors))


def paths(repo, revision=None):
    entries = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {entry.path for entry in entries if hasattr(entry, "size")}


def fault(**rule):
    body = json.dumps(rule).encode()
    request = urllib.request.Request(f"{ENDPOINT}/_embedded/faults", body, method="POST")
    urllib.request.urlopen(request).close()


@scenario
def whoami_names_the_account_and_its_organizations(repo):
    answer = api.whoami()
    assert answer["name"] == "demo"
    assert [org["name"] for org in answer["orgs"]] == ["demo-org"]
    with refused(HfHubHTTPError, status=401):
        HfApi(endpoint=ENDPOINT, token="hf_nobody").whoami()


@scenario
def a_repo_is_created_once_and_moved_and_deleted(repo):
    with refused(HfHubHTTPError, status=409):
        api.create_repo(repo)
    assert api.create_repo(repo, exist_ok=True).repo_id == repo
    api.move_repo(repo, f"{repo}-moved")
    assert api.repo_info(repo).id == f"{repo}-moved"  # an old name leads to the new one
    api.delete_repo(f"{repo}-moved")
    assert not api.repo_exists(f"{repo}-moved")
    api.delete_repo(repo, missing_ok=True)
    for kind in ("dataset", "space"):
        more = {"space_sdk": "static"} if kind == "space" else {}
        api.create_repo(f"{repo}-{kind}", repo_type=kind, **more)
        api.upload_file(
            path_or_fileobj=b"\0" * 50,
            path_in_repo="x.bin",
            repo_id=f"{repo}-{kind}",
            repo_type=kind,
        )
        found = api.hf_hub_download(f"{repo}-{kind}", "x.bin", repo_type=kind)
        assert Path(found).read_bytes() == b"\0" * 50


@scenario
def small_and_large_files_come_back_as_they_went(repo):
    large = FOLDER / "large.safetensors"
    large.write_bytes(noise(3_000_000, 1))
    made = commit(repo, add("large.safetensors", large), add("sub/config.json", b"{}"))
    assert made.oid == api.model_info(repo).sha
    info = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True)}
    assert info["large.safetensors"].lfs.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert (info["large.safetensors"].xet_hash is not None) == (MODE == "xet")
    assert info["sub/config.json"].lfs is None
    for path, content in (("large.safetensors", large.read_bytes()), ("sub/config.json", b"{}")):
        assert Path(api.hf_hub_download(repo, path)).read_bytes() == content
        local = api.hf_hub_download(repo, path, local_dir=FOLDER / "local", revision=made.oid)
        assert Path(local).read_bytes() == content


@scenario
def a_binary_stream_is_uploaded_by_plain_lfs(repo):
    content = noise(200_000, 2)
    commit(repo, add("stream.bin", io.BytesIO(content)))
    assert Path(api.hf_hub_download(repo, "stream.bin")).read_bytes() == content


@scenario
def a_large_file_goes_up_in_parts(repo):
    content = noise(1_700_000, 3)
    commit(repo, add("parts.bin", io.BytesIO(content)))
    assert Path(api.hf_hub_download(repo, "parts.bin")).read_bytes() == content


@scenario
def a_plain_range_of_a_large_file_can_be_read(repo):
    content = noise(2_500_000, 4)
    commit(repo, add("a.bin", content))
    url = hf_hub_url(repo, "a.bin", endpoint=ENDPOINT)
    location = api.get_hf_file_metadata(url=url).location
    assert not location.startswith(ENDPOINT)
    for first, last in ((0, 0), (100, 70_000), (1_000_000, 2_499_999)):
        headers = {"Range": f"bytes={first}-{last}"}
        with urllib.request.urlopen(urllib.request.Request(location, headers=headers)) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/2500000"
            assert answer.read() == content[first : last + 1]
    with urllib.request.urlopen(location) as answer:
        assert answer.read() == content


@scenario
def the_same_content_can_go_to_two_repos(repo):
    content = noise(400_000, 5)
    commit(repo, add("a.bin", content))
    api.create_repo(f"{repo}-b")
    commit(f"{repo}-b", add("b.bin", content))
    assert Path(api.hf_hub_download(f"{repo}-b", "b.bin")).read_bytes() == content


@scenario
def the_same_content_can_come_back_after_the_repo_was_made_anew(repo):
    content = noise(400_000, 6)
    commit(repo, add("a.bin", content))
    api.delete_repo(repo)
    api.create_repo(repo)
    commit(repo, add("a.bin", content))
    assert Path(api.hf_hub_download(repo, "a.bin")).read_bytes() == content


@scenario
def a_file_uploaded_before_is_committed_by_its_hash_alone(repo):
    content = noise(300_000, 7)
    operation = add("a.safetensors", content)
    api.preupload_lfs_files(repo, [operation])
    sha256 = hashlib.sha256(content).hexdigest()
    commit(repo, by_sha("late/a.safetensors", sha256, len(content)))
    assert Path(api.hf_hub_download(repo, "late/a.safetensors")).read_bytes() == content


@scenario
def an_unknown_hash_is_refused(repo):
    with refused(BadRequestError, "LFS pointer pointed to a file that does not exist"):
        commit(repo, by_sha("a.safetensors", "0" * 64, 10))
    assert paths(repo) == {".gitattributes"}


@scenario
def a_hash_of_another_repo_is_refused(repo):
    content = noise(100_000, 8)
    commit(repo, add("a.bin", content))
    api.create_repo(f"{repo}-b")
    with refused(BadRequestError, "does not exist"):
        commit(f"{repo}-b", by_sha("a.bin", hashlib.sha256(content).hexdigest(), len(content)))


@scenario
def a_stale_parent_is_refused(repo):
    old = api.model_info(repo).sha
    commit(repo, add("a.txt", b"1"), parent_commit=old)
    with refused(HfHubHTTPError, "A commit has happened since", status=412):
        commit(repo, add("b.txt", b"2"), parent_commit=old)
    assert paths(repo) == {".gitattributes", "a.txt"}


@scenario
def files_and_folders_are_deleted(repo):
    commit(repo, add("a.txt", b"1"), add("f/b.txt", b"2"), add("f/g/c.txt", b"3"))
    commit(repo, CommitOperationDelete("a.txt"), CommitOperationDelete("f/"))
    assert paths(repo) == {".gitattributes"}
    with refused(EntryNotFoundError):
        commit(repo, CommitOperationDelete("a.txt"))


@scenario
def gitattributes_learns_of_large_files_no_rule_takes_in(repo):
    commit(repo, add("vocab.json", b"\0" + noise(20_000, 9)), add("x.bin", noise(2000, 10)))
    text = Path(api.hf_hub_download(repo, ".gitattributes")).read_text()
    assert text.splitlines().count("vocab.json filter=lfs diff=lfs merge=lfs -text") == 1
    assert "x.bin" not in text
    assert {
        f.path: f.lfs is not None for f in api.get_paths_info(repo, ["vocab.json", "x.bin"])
    } == {
        "vocab.json": True,
        "x.bin": True,
    }


@scenario
def text_beyond_ten_megabytes_is_large(repo):
    content = b'{"weight_map": {}}' + b" " * 10_000_000
    commit(repo, add("model.safetensors.index.json", content))
    (found,) = api.get_paths_info(repo, ["model.safetensors.index.json"])
    assert found.lfs.size == len(content)


@scenario
def an_unchanged_file_is_not_sent_again(repo):
    first = commit(repo, add("a.txt", b"1"), add("a.bin", noise(3000, 11)))
    again = commit(repo, add("a.txt", b"1"), add("a.bin", noise(3000, 11)))
    assert again.oid == first.oid


@scenario
def copies_come_from_another_branch_by_commit(repo):
    content = noise(150_000, 12)
    api.create_branch(repo, branch="hubconv/staging")
    staged = commit(
        repo, add("s.safetensors", content), add("s.txt", b"s"), revision="hubconv/staging"
    )
    head = api.model_info(repo).sha
    commit(
        repo,
        CommitOperationCopy("s.safetensors", "final.safetensors", src_revision=staged.oid),
        CommitOperationCopy("s.txt", "final.txt", src_revision=staged.oid),
        parent_commit=head,
    )
    api.delete_branch(repo, branch="hubconv/staging")
    assert paths(repo) == {".gitattributes", "final.safetensors", "final.txt"}
    assert Path(api.hf_hub_download(repo, "final.safetensors")).read_bytes() == content
    with refused(EntryNotFoundError):
        commit(repo, CommitOperationCopy("none.bin", "x.bin"))


@scenario
def copies_come_from_another_repo(repo):
    content = noise(150_000, 13)
    commit(repo, add("a.safetensors", content), add("a.txt", b"a"))
    target = f"{repo}-copy"
    api.create_repo(target)
    operations = [
        CommitOperationCopy("a.txt", "b.txt", src_repo_id=repo, src_repo_type="model"),
        CommitOperationCopy(
            "a.safetensors", "b.safetensors", src_repo_id=repo, src_repo_type="model"
        ),
    ]
    if MODE == "lfs":  # the client asks for a xet hash before it copies between repos
        with refused(ValueError, "no xet hash"):
            commit(target, *operations)
        return
    commit(target, *operations)
    assert Path(api.hf_hub_download(target, "b.safetensors")).read_bytes() == content
    assert Path(api.hf_hub_download(target, "b.txt")).read_bytes() == b"a"


@scenario
def branches_and_tags_come_and_go(repo):
    first = api.model_info(repo).sha
    commit(repo, add("a.txt", b"1"))
    api.create_branch(repo, branch="old/one", revision=first)
    api.create_branch(repo, branch="old/one", exist_ok=True)
    with refused(HfHubHTTPError, status=409):
        api.create_branch(repo, branch="old/one")
    api.create_tag(repo, tag="v1", tag_message="one")
    with refused(HfHubHTTPError, status=409):
        api.create_tag(repo, tag="v1")
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    assert {(ref.name, ref.ref) for ref in refs.branches} == {
        ("main", "refs/heads/main"),
        ("old/one", "refs/heads/old/one"),
    }
    assert [tag.ref for tag in refs.tags] == ["refs/tags/v1"]
    assert api.model_info(repo, revision="old/one").sha == first
    assert paths(repo, "v1") == {".gitattributes", "a.txt"}
    with refused(BadRequestError):
        commit(repo, add("b.txt", b"1"), revision="v1")
    api.delete_tag(repo, tag="v1")
    api.delete_branch(repo, branch="old/one")
    for act in (api.delete_tag, api.delete_branch):
        with refused(RevisionNotFoundError):
            act(repo, **{"tag" if act == api.delete_tag else "branch": "v1"})


@scenario
def history_is_listed_newest_first_over_pages(repo):
    for number in range(4):
        commit(
            repo,
            add("n.txt", b"%d" % number),
            message=f"n {number}",
            commit_description="why\n\nso",
        )
    log = api.list_repo_commits(repo, formatted=True)
    assert [item.title for item in log] == ["n 3", "n 2", "n 1", "n 0", "initial commit"]
    assert log[0].message == "why\n\nso"
    assert log[0].authors == ["demo"]
    assert log[0].created_at >= log[-1].created_at
    api.super_squash_history(repo, commit_message="one")
    assert [item.title for item in api.list_repo_commits(repo)] == ["one"]
    assert "n.txt" in paths(repo)


@scenario
def trees_are_listed_over_pages_and_by_folder(repo):
    commit(repo, *(add(f"d{n}/f{n}.txt", b"x") for n in range(9)), add("d1/e/g.bin", noise(99, 1)))
    deep = list(api.list_repo_tree(repo, recursive=True))
    assert len(deep) == 1 + 9 + 9 + 2
    assert [item.path for item in api.list_repo_tree(repo, "d1")] == ["d1/e", "d1/f1.txt"]
    assert len(list(api.list_repo_tree(repo))) == 10
    expanded = list(api.list_repo_tree(repo, "d1", recursive=True, expand=True))
    assert {item.last_commit.title for item in expanded} == {"change"}
    info = api.get_paths_info(repo, ["d1", "d2/f2.txt", "nothing"], expand=True)
    assert [item.path for item in info] == ["d1", "d2/f2.txt"]
    with refused(EntryNotFoundError):
        list(api.list_repo_tree(repo, "nothing"))


@scenario
def info_tells_of_files_and_card(repo):
    commit(repo, add("README.md", CARD), add("a.bin", noise(500, 14)))
    info = api.model_info(repo, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes["a.bin"] == 500
    assert info.card_data.license == "apache-2.0"
    assert "base_model:demo/base" in info.tags
    assert info.author == "demo"
    assert info.private is False
    assert api.model_info(repo, expand=["sha"]).siblings is None
    assert repo in [item.id for item in api.list_models(author="demo")]
    assert api.file_exists(repo, "a.bin")
    assert not api.file_exists(repo, "b.bin")
    assert not api.revision_exists(repo, "nothing")


@scenario
def missing_things_have_their_own_errors(repo):
    with refused(RepositoryNotFoundError):
        api.model_info("demo/not-there")
    with refused(RevisionNotFoundError):
        api.model_info(repo, revision="not-there")
    with refused(EntryNotFoundError):
        api.hf_hub_download(repo, "not-there")
    with refused(RevisionNotFoundError):
        api.hf_hub_download(repo, ".gitattributes", revision="not-there")


@scenario
def a_broken_card_is_refused_before_and_at_the_commit(repo):
    for front in ("a: [", "- one\n- two", "license: [1]", "base_model_relation: cousin"):
        text = f"---\n{front}\n---\n"
        with refused(ValueError, "Invalid metadata in README.md"):
            commit(repo, add("README.md", text.encode()))
    operation = add("README.md", b"---\nlicense: 5\n---\n")
    api._validate_yaml = lambda *_args, **_more: None
    try:
        with refused(BadRequestError, "license"):
            commit(repo, operation)
    finally:
        del api._validate_yaml


@scenario
def a_pull_request_is_opened_by_a_commit_and_merged(repo):
    made = commit(repo, add("a.bin", noise(900, 15)), create_pr=True, commit_description="please")
    assert made.pr_revision == "refs/pr/1"
    assert paths(repo) == {".gitattributes"}
    assert paths(repo, made.pr_revision) == {".gitattributes", "a.bin"}
    commit(repo, add("b.txt", b"b\n"), revision="refs/pr/1")
    commit(repo, add("c.txt", b"c"))
    details = api.get_discussion_details(repo, made.pr_num)
    assert (details.status, details.is_pull_request, details.conflicting_files) == (
        "open",
        True,
        [],
    )
    assert "+b\n" in details.diff
    assert [event.type for event in details.events] == ["comment", "commit", "commit"]
    api.merge_pull_request(repo, made.pr_num)
    details = api.get_discussion_details(repo, made.pr_num)
    assert details.status == "merged"
    assert details.merge_commit_oid == api.model_info(repo).sha
    assert paths(repo) == {".gitattributes", "a.bin", "b.txt", "c.txt"}


@scenario
def a_draft_is_published_before_it_is_merged(repo):
    draft = api.create_pull_request(repo, title="A draft")
    assert (draft.status, draft.git_reference) == ("draft", "refs/pr/1")
    commit(repo, add("a.txt", b"a"), revision=draft.git_reference)
    with refused(BadRequestError, "draft"):
        api.merge_pull_request(repo, draft.num)
    api.change_discussion_status(repo, draft.num, new_status="open", comment="ready")
    api.rename_discussion(repo, draft.num, new_title="No draft")
    said = api.comment_discussion(repo, draft.num, "well done")
    api.edit_discussion_comment(repo, draft.num, comment_id=said.id, new_content="well")
    api.merge_pull_request(repo, draft.num, comment="thanks")
    assert "a.txt" in paths(repo)
    assert api.get_discussion_details(repo, draft.num).title == "No draft"


@scenario
def a_conflicting_pull_request_is_not_merged(repo):
    made = commit(repo, add("a.txt", b"theirs"), create_pr=True)
    commit(repo, add("a.txt", b"ours"))
    assert api.get_discussion_details(repo, made.pr_num).conflicting_files == ["a.txt"]
    with refused(HfHubHTTPError, status=409):
        api.merge_pull_request(repo, made.pr_num)


@scenario
def discussions_are_listed_over_pages(repo):
    for number in range(5):
        api.create_discussion(repo, title=f"Question {number}")
    pull = api.create_pull_request(repo, title="Change")
    api.change_discussion_status(repo, 1, new_status="closed")
    assert [item.num for item in api.get_repo_discussions(repo)] == [6, 5, 4, 3, 2, 1]
    pulls = api.get_repo_discussions(repo, discussion_type="pull_request")
    assert [item.num for item in pulls] == [pull.num]
    assert [item.num for item in api.get_repo_discussions(repo, discussion_status="closed")] == [1]


@scenario
def a_private_repo_is_hidden(repo):
    commit(repo, add("a.txt", b"a"))
    api.update_repo_settings(repo, private=True)
    assert api.model_info(repo).private
    for other in (anybody, stranger):
        with refused(RepositoryNotFoundError):
            other.model_info(repo)
        with refused(RepositoryNotFoundError):
            other.auth_check(repo)
        with refused(RepositoryNotFoundError):
            other.hf_hub_download(repo, "a.txt", cache_dir=FOLDER / "other")
    assert reader.model_info(repo).id == repo


@scenario
def writing_takes_the_right_to_write(repo):
    api.auth_check(repo, write=True)
    for other, status in ((anybody, 401), (stranger, 403), (reader, 403)):
        other.auth_check(repo)
        with refused(HfHubHTTPError, status=status):
            other.auth_check(repo, write=True)
        with refused(HfHubHTTPError, status=status):
            other.create_commit(repo, [add("a.txt", b"a")], commit_message="no")
        with refused(HfHubHTTPError, status=status):
            other.create_branch(repo, branch="no")
    with refused(HfHubHTTPError, status=403):
        stranger.create_repo("demo-org/theirs")
    pull = stranger.create_commit(
        repo, [add("a.txt", b"a")], commit_message="please", create_pr=True
    )
    assert pull.pr_num == 1
    with refused(HfHubHTTPError, status=403):
        stranger.merge_pull_request(repo, 1)


@scenario
def a_gated_repo_lets_in_those_who_were_granted(repo):
    commit(repo, add("a.bin", noise(700, 16)), add("a.txt", b"a"))
    api.update_repo_settings(repo, gated="manual")
    assert stranger.model_info(repo).gated == "manual"
    for path in ("a.bin", "a.txt"):
        with refused(GatedRepoError):
            stranger.hf_hub_download(repo, path, cache_dir=FOLDER / "gated")
    with refused(GatedRepoError):
        stranger.auth_check(repo)
    api.grant_access(repo, "stranger")
    found = stranger.hf_hub_download(repo, "a.bin", cache_dir=FOLDER / "gated")
    assert Path(found).read_bytes() == noise(700, 16)


@scenario
def safetensors_headers_are_read_in_every_way(repo):
    index = {
        "metadata": {"total_size": 30},
        "weight_map": {"x": "1.safetensors", "y": "2.safetensors"},
    }
    commit(
        repo,
        add("1.safetensors", safetensors({"x": 10})),
        add("2.safetensors", safetensors({"y": 20})),
        add("model.safetensors.index.json", json.dumps(index).encode()),
        add("config.json", b"{}"),
    )
    one = api.parse_safetensors_file_metadata(repo, "1.safetensors")
    assert one.tensors["x"].shape == [10]
    for found in (api.get_safetensors_metadata(repo), api.get_sharded_safetensors_metadata(repo)):
        assert found.weight_map == index["weight_map"]
        assert found.files_metadata["2.safetensors"].tensors["y"].shape == [20]


@scenario
def large_files_are_listed_and_deleted_for_good(repo):
    commit(repo, *(add(f"{n}.bin", noise(100 + n, n)) for n in range(5)), add("a.txt", b"a"))
    found = {item.filename: item for item in api.list_lfs_files(repo)}
    assert set(found) == {f"{n}.bin" for n in range(5)}
    api.permanently_delete_lfs_files(repo, [found["0.bin"], found["1.bin"]])
    assert paths(repo) == {".gitattributes", "a.txt", "2.bin", "3.bin", "4.bin"}
    assert len(list(api.list_lfs_files(repo))) == 3
    commit(repo, add("0.bin", noise(100, 0)))
    assert Path(api.hf_hub_download(repo, "0.bin")).read_bytes() == noise(100, 0)


@scenario
def a_folder_goes_up_and_a_snapshot_comes_down(repo):
    source = FOLDER / "source"
    (source / "sub").mkdir(parents=True)
    contents = {"a.safetensors": noise(90_000, 17), "sub/b.json": b"{}", "empty.txt": b""}
    for path, content in contents.items():
        (source / path).write_bytes(content)
    api.upload_folder(repo_id=repo, folder_path=source)
    target = snapshot_download(
        repo, endpoint=ENDPOINT, token="hf_embedded_demo", local_dir=FOLDER / "snapshot"
    )
    for path, content in contents.items():
        assert (Path(target) / path).read_bytes() == content


@scenario
def odd_names_survive(repo):
    names = ["with space.bin", "ümlaut/日本.bin", "a+b%20c#d.bin", "q?=&.txt"]
    commit(repo, *(add(name, noise(50, at)) for at, name in enumerate(names)))
    assert paths(repo) == {".gitattributes", *names}
    for at, name in enumerate(names):
        assert Path(api.hf_hub_download(repo, name)).read_bytes() == noise(50, at)
    assert len(api.get_paths_info(repo, names)) == 4


@scenario
def the_client_rides_out_what_it_retries(repo):
    fault(action="answer", method="POST", path=f"{repo}/preupload", status=503)
    commit(repo, add("a.bin", noise(120_000, 18)))
    fault(
        action="answer",
        method="GET",
        path="/blob/|/xorb/",
        status=429,
        headers={"Retry-After": "0"},
    )
    assert Path(api.hf_hub_download(repo, "a.bin")).read_bytes() == noise(120_000, 18)


@scenario
def a_lost_answer_leaves_the_commit_there(repo):
    for number, rule in enumerate(({"action": "answer", "status": 504}, {"action": "reset"})):
        fault(method="POST", path=f"{repo}/commit/", after=True, **rule)
        with refused(Exception):
            commit(repo, add("a.txt", b"%d" % number), message=f"lost {number}")
    titles = [item.title for item in api.list_repo_commits(repo)]
    assert titles == ["lost 1", "lost 0", "initial commit"]


def main():
    results = {}
    for function in SCENARIOS:
        repo = f"demo/{function.__name__[:60].replace('_', '-').strip('-')}"
        try:
            api.create_repo(repo)
            function(repo)
            results[function.__name__] = None
        except Exception:  # noqa: BLE001 - pytest reports it
            results[function.__name__] = traceback.format_exc()
    (FOLDER / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    os.chdir(FOLDER)
    main()
