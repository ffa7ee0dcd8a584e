"""The contract with huggingface_hub: every private name and detour that compat.py stands on."""

import inspect
import io

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hubconv.hub import compat


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_headers_are_made_anew_with_the_token_of_the_moment(monkeypatch):
    api = HfApi(endpoint="http://127.0.0.1:9", token=None)
    for token in ("hf_first", "hf_second"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert compat.headers_of(api)["authorization"] == f"Bearer {token}"


def test_the_client_factory_can_be_replaced_and_keeps_its_hooks():
    import huggingface_hub

    assert parameters(huggingface_hub.set_client_factory) == ["client_factory"]
    client = compat.default_client_factory()
    assert isinstance(client, compat.httpx.Client)
    assert client.event_hooks["request"]
    client.timeout = compat.httpx.Timeout(connect=1, read=2, write=3, pool=4)
    assert client.timeout.read == 2
    client.close()


def test_the_http_library_is_the_one_the_client_uses():
    from huggingface_hub.utils import _http

    assert _http.httpx2 is compat.httpx
    assert issubclass(compat.httpx.ReadError, compat.httpx.TransportError)
    assert issubclass(compat.httpx.ReadTimeout, compat.httpx.TransportError)


def test_a_card_is_validated_at_the_endpoint_of_its_own(lfs_studio):
    compat.validate_card(lfs_studio.api, "---\nlicense: mit\n---\n")
    with pytest.raises(ValueError, match="Invalid metadata"):
        compat.validate_card(lfs_studio.api, "---\nlicense: [unclosed\n---\n")
    assert "repo_type" in parameters(HfApi._validate_yaml)


def test_only_a_hub_with_xet_says_so(studio):
    speaks = compat.speaks_xet(studio.api, studio.source(), "main")
    assert speaks == (studio.mode == "xet")


def test_refusals_are_raised_while_asking_for_xet(lfs_studio):
    with pytest.raises(HfHubHTTPError):
        compat.speaks_xet(lfs_studio.api_of("hf_nobody"), lfs_studio.source(), "main")


def test_a_buffered_reader_goes_by_lfs_and_a_path_by_xet(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"x" * 100)
    by_xet, by_lfs = (compat.addition("x", file, xet=xet) for xet in (True, False))
    assert not isinstance(by_xet.path_or_fileobj, io.IOBase)
    assert isinstance(by_lfs.path_or_fileobj, io.BufferedReader)
    reader = by_lfs.path_or_fileobj
    for operation in (by_xet, by_lfs):
        compat.finished_upload(operation)
        assert operation.path_or_fileobj == b""
    assert reader.closed


def test_an_operation_knows_the_hash_it_was_uploaded_under(studio, tmp_path):
    import hashlib

    file = tmp_path / "x.safetensors"
    file.write_bytes(b"x" * 100_000)
    repo = studio.name()
    studio.api.create_repo(repo)
    operation = compat.addition("x.safetensors", file, xet=studio.mode == "xet")
    studio.api.preupload_lfs_files(repo, [operation], free_memory=False)
    compat.finished_upload(operation)
    file.unlink()
    wanted = hashlib.sha256(b"x" * 100_000).hexdigest()
    assert operation.upload_info.sha256.hex() == wanted
    studio.api.create_commit(repo, [operation], commit_message="by hash alone")
    assert studio.tree(repo)["x.safetensors"] == wanted


def test_an_operation_of_a_failed_commit_can_be_committed_again(lfs_studio):
    repo = lfs_studio.name()
    lfs_studio.api.create_repo(repo)
    lfs_studio.hub.faults.answer("POST", rf"{repo}/commit/main", 503)
    operation = CommitOperationAdd("x.json", b"{}")
    with pytest.raises(HfHubHTTPError) as failed:
        lfs_studio.api.create_commit(repo, [operation], commit_message="once")
    assert compat.status_of(failed.value) == 503
    lfs_studio.api.create_commit(repo, [operation], commit_message="twice")
    assert "x.json" in lfs_studio.tree(repo)


def test_an_error_without_an_answer_has_no_status():
    assert compat.status_of(ValueError("x")) == 0
    assert compat.status_of(compat.httpx.ConnectError("x")) == 0


def test_the_rate_limit_of_the_hub_is_understood():
    limit = compat.parse_ratelimit_headers({"ratelimit": '"api";r=0;t=55'})
    assert (limit.remaining, limit.reset_in_seconds) == (0, 55)
    assert compat.parse_ratelimit_headers({}) is None


def test_a_xet_connection_is_asked_for_with_these_words():
    assert parameters(compat.refresh_xet_connection_info)[:2] == ["file_data", "headers"]
    data = compat.XetFileData(file_hash="0" * 64, refresh_route="http://127.0.0.1:9/x")
    assert (data.file_hash, data.refresh_route) == ("0" * 64, "http://127.0.0.1:9/x")


def test_hf_xet_streams_downloads_with_these_words():
    import hf_xet

    assert hasattr(hf_xet.XetSession, "new_download_stream_group")
    from hubconv.hub.fetching.child import XET_BUFFERS

    hf_xet.XetConfig().with_config(XET_BUFFERS)
    assert hf_xet.XetAuthenticationError.__module__ == "hf_xet"


def test_hf_transfer_downloads_with_these_words():
    import hf_transfer

    assert {
        "max_files",
        "chunk_size",
        "parallel_failures",
        "max_retries",
        "headers",
        "callback",
    } <= set(parameters(hf_transfer.download))


def test_an_identity_is_traded_with_these_words():
    assert {"resource", "subject_token", "endpoint"} <= set(parameters(compat.oidc_login))


def test_a_refused_request_is_repeated_once_with_another_token():
    seen = []

    def answer(request):
        seen.append(request.headers.get("authorization"))
        return compat.httpx.Response(401 if len(seen) < 9 else 200, request=request)

    known = {"Bearer old": "Bearer new"}
    client = compat.httpx.Client(
        transport=compat.httpx.MockTransport(answer),
        auth=compat.Renewing(lambda header: known.get(header, "")),
    )
    with client:
        for header in ("Bearer old", "Bearer somebody's"):
            client.post("http://hub/x", headers={"authorization": header}, content=b"body")
        client.get("http://hub/x")
    assert seen == ["Bearer old", "Bearer new", "Bearer somebody's", None]


# --- Uploads --------------------------------------------------------------------------------------


def test_a_file_is_committed_by_its_hash_with_these_names():
    operation = compat.by_hash("x.safetensors", "ab" * 32, 7)
    fresh = CommitOperationAdd("y", b"")
    for name, value in {
        "_upload_mode": "lfs",
        "_should_ignore": False,
        "_is_uploaded": True,
    }.items():
        assert hasattr(fresh, name), f"CommitOperationAdd has lost {name}"
        assert getattr(operation, name) == value
    assert (operation.upload_info.sha256.hex(), operation.upload_info.size) == ("ab" * 32, 7)
    assert {"size", "sample", "sha256"} <= set(parameters(compat.UploadInfo))


def test_a_file_with_a_known_hash_is_not_read_for_it(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"x" * 100)
    operation = compat.lfs_addition("x.safetensors", file, "cd" * 32)
    assert operation.upload_info.is_hashed
    assert (operation.upload_info.sha256.hex(), operation.upload_info.size) == ("cd" * 32, 100)


def test_lfs_uploads_are_asked_for_and_sent_with_these_words():
    assert {"token", "repo_type", "repo_id", "revision", "endpoint", "headers"} <= set(
        parameters(compat.post_lfs_batch_info)
    )
    assert parameters(compat.lfs_upload) == [
        "operation", "lfs_batch_action", "token", "headers", "endpoint",
    ]  # fmt: skip
    assert parameters(compat._get_sorted_parts_urls) == ["header", "upload_info", "chunk_size"]
    payload = compat._get_completion_payload([{"etag": '"a"'}, {"etag": '"b"'}], "ef" * 32)
    assert payload == {
        "oid": "ef" * 32,
        "parts": [{"partNumber": 1, "etag": '"a"'}, {"partNumber": 2, "etag": '"b"'}],
    }


def test_parts_come_in_their_order_and_all_of_them(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"x" * 25)
    operation = compat.lfs_addition("x.safetensors", file, "cd" * 32)
    header = {"chunk_size": "10", "2": "two", "10": "never", "1": "one", "3": "three"}
    with pytest.raises(ValueError, match="Invalid server response"):
        compat.parts_of(operation, {"actions": {"upload": {"header": header}}})
    del header["10"]
    found = compat.parts_of(operation, {"actions": {"upload": {"header": header}}})
    assert found == (["one", "two", "three"], 10)
    assert compat.parts_of(operation, {"actions": {"upload": {"href": "x"}}}) is None


def test_a_part_is_a_slice_of_a_file_that_is_begun_again_when_sent_again(tmp_path):
    assert parameters(compat.SliceFileObj) == ["fileobj", "seek_from", "read_limit"]
    assert {"method", "url", "max_retries"} <= set(parameters(compat.http_backoff))
    file = tmp_path / "x"
    file.write_bytes(bytes(range(25)))
    with file.open("rb") as whole, compat.SliceFileObj(whole, seek_from=20, read_limit=10) as part:
        assert (part.read(), part.seek(0), part.read(2)) == (bytes(range(20, 25)), 0, b"\x14\x15")


def test_hf_transfer_uploads_with_these_words():
    import hf_transfer

    assert {
        "file_path", "parts_urls", "chunk_size", "max_files", "parallel_failures", "max_retries",
        "callback",
    } <= set(parameters(hf_transfer.multipart_upload))  # fmt: skip


def test_hf_xet_streams_uploads_with_these_words(xet_studio):
    import hf_xet

    from hubconv.hub.uploading.xet_child import XET_CONFIG

    hf_xet.XetConfig().with_config(XET_CONFIG)
    for kind, names in {
        hf_xet.XetSession: ["new_upload_commit"],
        hf_xet.XetUploadCommit: ["start_upload_stream", "start_upload_file", "wait_to_finish"],
        hf_xet.XetStreamUpload: ["write", "finish"],
        hf_xet.XetFileUpload: ["result"],
        hf_xet.XetFileMetadata: ["xet_info"],
        hf_xet.XetCommitReport: ["dedup_metrics"],
        hf_xet.GroupProgressReport: ["total_bytes_completed", "total_transfer_bytes_completed"],
        hf_xet.DeduplicationMetrics: ["total_bytes_uploaded", "deduped_bytes"],
    }.items():
        for name in names:
            assert hasattr(kind, name), f"{kind.__name__} has lost {name}"
    connection = compat.xet_connection(xet_studio.api, xet_studio.source(), "main")
    assert set(connection) <= set(parameters(hf_xet.XetSession.new_upload_commit))
    assert "authorization" in connection["token_refresh_headers"]
    assert "authorization" not in connection["custom_headers"]


def test_hf_xet_gives_up_on_a_silent_server_by_itself():
    """Small files of a publish go through it in our own process, where no watchdog looks."""
    from datetime import timedelta

    import hf_xet

    config = hf_xet.XetConfig()
    waits = ("client.connect_timeout", "client.read_timeout", "client.retry_max_duration")
    assert all(timedelta(0) < config.get(name) <= timedelta(minutes=10) for name in waits)
    assert 0 < config.get("client.retry_max_attempts") <= 10
