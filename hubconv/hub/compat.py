"""Every private name and every detour around the client, in one place.

tests/hub/test_compat.py fails loudly when a new version of huggingface_hub moves one of them.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2 as httpx
from huggingface_hub import CommitOperationAdd, HfApi, get_session, set_client_factory
from huggingface_hub._oidc import oidc_login
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.lfs import (
    LFS_HEADERS,
    UploadInfo,
    _get_completion_payload,
    _get_sorted_parts_urls,
    lfs_upload,
    post_lfs_batch_info,
)
from huggingface_hub.utils._http import (
    default_client_factory,
    fix_hf_endpoint_in_url,
    hf_raise_for_status,
    http_backoff,
    parse_ratelimit_headers,
)
from huggingface_hub.utils._lfs import SliceFileObj
from huggingface_hub.utils._xet import (
    XetFileData,
    XetTokenType,
    refresh_xet_connection_info,
    xet_connection_info_refresh_url,
    xet_headers_without_auth,
)

__all__ = [
    "NOT_FOUND",
    "XetFileData",
    "addition",
    "ask_lfs",
    "by_hash",
    "complete_parts",
    "delete_large_files",
    "finished_upload",
    "get_session",
    "headers_of",
    "headers_towards",
    "hf_raise_for_status",
    "httpx",
    "lfs_addition",
    "limit_waiting",
    "oidc_login",
    "parse_ratelimit_headers",
    "parts_of",
    "refresh_xet_connection_info",
    "send_by_lfs",
    "send_part",
    "small_addition",
    "speaks_xet",
    "status_of",
    "validate_card",
    "xet_connection",
]

NOT_FOUND: Final = 404
UNKNOWN: Final = 401
_LIMITED: Final = threading.Event()


class Renewing(httpx.Auth):
    """Repeats a request once whose token the Hub no longer knows.

    Args:
        renewed: Given the header of the request, another one; or empty.
    """

    def __init__(self, renewed: Callable[[str], str]) -> None:
        self._renewed = renewed

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request, and where it was refused the request with another token."""
        response = yield request
        if response.status_code != UNKNOWN:
            return
        fresh = self._renewed(request.headers.get("authorization", ""))
        if fresh:
            request.headers["authorization"] = fresh
            yield request


def limit_waiting(renewed: Callable[[str], str] | None = None) -> None:
    """Give every request a timeout: the client's default waits for a silent server for ever.

    Args:
        renewed: What a refused request may be repeated with; see `Renewing`.
    """
    if _LIMITED.is_set():
        return
    _LIMITED.set()

    def factory() -> httpx.Client:
        client = default_client_factory()
        client.timeout = httpx.Timeout(connect=30, read=180, write=180, pool=30)
        if renewed is not None:
            client.auth = Renewing(renewed)
        return client

    set_client_factory(factory)


def headers_of(api: HfApi) -> dict[str, str]:
    """Request headers with the token as it is now: a renewed token is picked up."""
    return api._build_hf_headers()


def headers_towards(api: HfApi, location: str) -> dict[str, str]:
    """Request headers for a link; one that leads away from the Hub is not shown the token."""
    return headers_of(api) if location.startswith(f"{api.endpoint}/") else {}


def validate_card(api: HfApi, card: str) -> None:
    """Have the Hub check a card's front matter before anything depends on it.

    Raises:
        ValueError: The Hub would refuse it.
    """
    api._validate_yaml(card, repo_type="model")


def speaks_xet(api: HfApi, repo: str, revision: str) -> bool:
    """Whether an endpoint takes uploads through Xet; one that does not answers 404 here.

    The client no longer asks: with hf_xet installed it always tries Xet for paths and bytes.
    """
    response = get_session().get(_xet_route(api, repo, revision), headers=headers_of(api))
    if response.status_code == NOT_FOUND:
        return False
    hf_raise_for_status(response)
    return True


def addition(path_in_repo: str, file: Path, *, xet: bool) -> CommitOperationAdd:
    """An upload of a file; a buffered reader is how the client is made to use plain LFS."""
    if xet:
        return CommitOperationAdd(path_in_repo, file)
    reader: io.BufferedReader = file.open("rb")
    return CommitOperationAdd(path_in_repo, reader)


def small_addition(
    path_in_repo: str, data: bytes, *, xet: bool, folder: Path
) -> CommitOperationAdd:
    """An upload of bytes; without Xet they pass a file, as bytes would always go to Xet.

    Args:
        path_in_repo: Where it goes.
        data: Its content.
        xet: Whether the endpoint takes Xet.
        folder: Receives the file where one is needed.
    """
    if xet:
        return CommitOperationAdd(path_in_repo, data)
    spooled = folder / hashlib.sha256(data).hexdigest()[:16]
    spooled.parent.mkdir(parents=True, exist_ok=True)
    spooled.write_bytes(data)
    return addition(path_in_repo, spooled, xet=False)


def finished_upload(operation: CommitOperationAdd) -> None:
    """Let go of the file behind a pre-uploaded operation; the operation stays committable."""
    reader = operation.path_or_fileobj
    if isinstance(reader, io.BufferedReader):
        reader.close()
    operation.path_or_fileobj = b""


# ── uploads ──────────────────────────────────────────────────────────────────────────────────


def _xet_route(api: HfApi, repo: str, revision: str) -> str:
    return xet_connection_info_refresh_url(
        token_type=XetTokenType.WRITE,
        repo_id=repo,
        repo_type="model",
        revision=quote(revision, safe=""),
        endpoint=api.endpoint,
    )


def xet_connection(api: HfApi, repo: str, revision: str) -> dict[str, Any]:
    """What hf_xet must be told to upload: where, and with which token, renewed how."""
    route, headers = _xet_route(api, repo, revision), headers_of(api)
    # A file's data stand for nothing but the route here.
    data = XetFileData(file_hash="", refresh_route=route)
    connection = refresh_xet_connection_info(file_data=data, headers=headers)
    return {
        "endpoint": connection.endpoint,
        "token": connection.access_token,
        "token_expiry_unix_secs": connection.expiration_unix_epoch,
        "token_refresh_url": route,
        "token_refresh_headers": headers,
        "custom_headers": xet_headers_without_auth(headers),
    }


def by_hash(path_in_repo: str, sha256: str, size: int) -> CommitOperationAdd:
    """A file whose bytes the Hub has: it is committed by its hash, nothing is sent or asked."""
    operation = CommitOperationAdd(path_in_repo, b"")
    operation.upload_info = UploadInfo(size=size, sample=b"", sha256=bytes.fromhex(sha256))
    operation._upload_mode = "lfs"
    operation._should_ignore = False
    operation._is_uploaded = True
    return operation


def lfs_addition(path_in_repo: str, file: Path, sha256: str) -> CommitOperationAdd:
    """A file for LFS whose hash is known: the client does not read it to find out."""
    operation = CommitOperationAdd(path_in_repo, file)
    operation.upload_info.sha256 = bytes.fromhex(sha256)
    return operation


def ask_lfs(
    api: HfApi, repo: str, revision: str, operation: CommitOperationAdd
) -> Mapping[str, Any]:
    """What an LFS server says of a file: how to send it, or by no `actions` that it is there.

    Raises:
        ValueError: It refuses the file.
    """
    answers, refusals, _ = post_lfs_batch_info(
        [operation.upload_info],
        token=False,  # type: ignore[arg-type] # it is in the headers
        repo_type="model",
        repo_id=repo,
        revision=quote(revision, safe=""),
        endpoint=api.endpoint,
        headers=headers_of(api),
    )
    if refusals or len(answers) != 1:
        raise ValueError(f"the LFS server refuses it: {[each.get('error') for each in refusals]}")
    found: Mapping[str, Any] = answers[0]
    return found


def parts_of(
    operation: CommitOperationAdd, answer: Mapping[str, Any]
) -> tuple[list[str], int] | None:
    """Links of the parts a server wants a file in, and their size; None where it takes it whole."""
    header = answer["actions"]["upload"].get("header") or {}
    if "chunk_size" not in header:
        return None
    size = int(header["chunk_size"])
    return _get_sorted_parts_urls(header, operation.upload_info, size), size


def complete_parts(
    api: HfApi,
    operation: CommitOperationAdd,
    answer: Mapping[str, Any],
    headers: Sequence[Mapping[str, str]],
) -> None:
    """Have the server put parts together, given what it answered for each, and verify."""
    sha256 = operation.upload_info.sha256.hex()
    actions = answer["actions"]
    done = http_backoff(
        "POST",
        fix_hf_endpoint_in_url(actions["upload"]["href"], api.endpoint),
        json=_get_completion_payload([dict(each) for each in headers], sha256),
        headers=LFS_HEADERS,
    )
    hf_raise_for_status(done)
    if "verify" in actions:
        verified = http_backoff(
            "POST",
            fix_hf_endpoint_in_url(actions["verify"]["href"], api.endpoint),
            headers=headers_of(api),
            json={"oid": sha256, "size": operation.upload_info.size},
        )
        hf_raise_for_status(verified)


def send_part(url: str, file: Path, begin: int, size: int) -> Mapping[str, str]:
    """Send up to `size` bytes of a file from `begin` on to a link; the headers of the answer.

    Raises:
        HfHubHTTPError: It is refused.
        httpx.HTTPError: The line failed, several times.
    """
    with (
        file.open("rb") as whole,
        SliceFileObj(whole, seek_from=begin, read_limit=size) as part,
    ):
        answer = http_backoff("PUT", url, data=part)
    hf_raise_for_status(answer)
    return answer.headers


def send_by_lfs(api: HfApi, operation: CommitOperationAdd, answer: Mapping[str, Any]) -> None:
    """The client's own way to send a file: whole, or its parts one after the other."""
    headers = headers_of(api)
    lfs_upload(
        operation,
        dict(answer),
        token=False,  # type: ignore[arg-type] # it is in the headers
        headers=headers,
        endpoint=api.endpoint,
    )


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error of the client; 0 where there was no answer."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return int(error.response.status_code)
    return 0


# ── upkeep ───────────────────────────────────────────────────────────────────────────────────


def delete_large_files(api: HfApi, repo: str, orphans: Set[str]) -> int:
    """Delete large files for good; how many there were.

    The history is left as it is: nothing in it names them, and rewriting it would give main other
    commits than those that cards and tags speak of.
    """
    if not orphans:
        return 0
    found = [each for each in api.list_lfs_files(repo) if orphans & {each.file_oid, each.oid}]
    api.permanently_delete_lfs_files(repo, found, rewrite_history=False)
    return len(found)
