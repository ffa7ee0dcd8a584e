"""Every private name and every detour around the client, in one place.

tests/hub/test_compat.py fails loudly when a new version of huggingface_hub moves one of them.
"""

import io
import threading
from pathlib import Path
from typing import Final

import httpx2 as httpx
from huggingface_hub import CommitOperationAdd, HfApi, get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import (
    default_client_factory,
    hf_raise_for_status,
    parse_ratelimit_headers,
)
from huggingface_hub.utils._xet import XetFileData, refresh_xet_connection_info

__all__ = [
    "NOT_FOUND",
    "XetFileData",
    "addition",
    "finished_upload",
    "get_session",
    "headers_of",
    "headers_towards",
    "hf_raise_for_status",
    "httpx",
    "limit_waiting",
    "parse_ratelimit_headers",
    "refresh_xet_connection_info",
    "sha256_of",
    "speaks_xet",
    "status_of",
    "validate_card",
]

NOT_FOUND: Final = 404
_LIMITED: Final = threading.Event()


def limit_waiting() -> None:
    """Give every request a timeout: the client's default waits for a silent server for ever."""
    if _LIMITED.is_set():
        return
    _LIMITED.set()

    def factory() -> httpx.Client:
        client = default_client_factory()
        client.timeout = httpx.Timeout(connect=30, read=180, write=180, pool=30)
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
    url = f"{api.endpoint}/api/models/{repo}/xet-write-token/{revision.replace('/', '%2F')}"
    response = get_session().get(url, headers=headers_of(api))
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


def finished_upload(operation: CommitOperationAdd) -> None:
    """Let go of the file behind a pre-uploaded operation; the operation stays committable."""
    reader = operation.path_or_fileobj
    if isinstance(reader, io.BufferedReader):
        reader.close()
    operation.path_or_fileobj = b""


def sha256_of(operation: CommitOperationAdd) -> str:
    """The hash under which an operation was uploaded."""
    return operation.upload_info.sha256.hex()


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error of the client; 0 where there was no answer."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return int(error.response.status_code)
    return 0
