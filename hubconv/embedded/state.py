"""What all handlers share: the stores, the accounts, the knobs, and signed links."""

import hashlib
import hmac
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

from hubconv.embedded.accounts import Accounts
from hubconv.embedded.blobs import BlobStore
from hubconv.embedded.catalog import Catalog
from hubconv.embedded.jobs import JobBook
from hubconv.embedded.publishers import Publishers
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.shelves import Shelves
from hubconv.embedded.xetstore import XetStore

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["xet", "lfs"]


@dataclass(frozen=True, slots=True)
class Knobs:
    """Sizes and times of the Hub's behaviour.

    Attributes:
        page_size: Entries of one page of a tree listing and of large files.
        commits_page_size: Commits of one page.
        discussions_page_size: Discussions of one page.
        multipart_from_bytes: Large files from this size on are offered a multipart upload.
        part_bytes: Size of one part.
        xet_token_s: How long a xet token is good.
        link_s: How long a download link is good.
        publisher_token_s: How long the token of a trusted publisher is good.
    """

    page_size: int = 1000
    commits_page_size: int = 50
    discussions_page_size: int = 10
    multipart_from_bytes: int = 64_000_000
    part_bytes: int = 16_000_000
    xet_token_s: int = 3600
    link_s: int = 3600
    publisher_token_s: int = 3600


@dataclass(slots=True)
class State:
    """The Hub behind its two origins.

    `endpoint` and `cdn` are the URLs that clients are told of, `inner_cdn` the way to the same
    store that bypasses a line of fixed rate.
    """

    root: Path
    mode: Mode
    knobs: Knobs
    accounts: Accounts
    blobs: BlobStore
    xet: XetStore
    catalog: Catalog
    shelves: Shelves
    secret: bytes
    publishers: Publishers
    jobs: JobBook
    endpoint: str = ""
    cdn: str = ""
    inner_cdn: str = ""
    is_stopping: bool = False
    # xet files are unpacked here: it waits for the CDN origin, which must not wait for it.
    # So what the CDN origin sends is read elsewhere.
    unpackers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(16, "embedded-hub-unpack")
    )
    readers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(16, "embedded-hub-read")
    )

    def sign(self, text: str) -> str:
        """A signature that only this Hub can make."""
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:32]

    def link(self, path: str, *, origin: str, **query: str | int) -> str:
        """A URL that carries its own permission, for a while."""
        query["expires"] = int(time.time()) + self.knobs.link_s
        query["signature"] = self.sign(path + urlencode(sorted(query.items())))
        return f"{origin}{path}?{urlencode(query)}"

    def check_link(self, path: str, query: "Mapping[str, str]") -> None:
        """Make sure that a URL is one of ours and still good.

        Raises:
            Refusal: It is not.
        """
        rest = {name: value for name, value in query.items() if name != "signature"}
        signature = self.sign(path + urlencode(sorted(rest.items())))
        if not hmac.compare_digest(signature, query.get("signature", "")):
            raise Refusal(403, "The signature of this link is wrong.")
        if int(query.get("expires", "0")) < time.time():
            raise Refusal(403, "This link has expired.")

    def xet_token(self, key: str, scope: str, life_s: int = 0) -> tuple[str, int]:
        """A token for the xet store and the Unix second it expires at.

        Args:
            key: Of the repository.
            scope: `read` or `write`.
            life_s: How long it is good; 0 for as long as those that clients get.
        """
        expires = int(time.time()) + (life_s or self.knobs.xet_token_s)
        text = f"{scope}.{key}.{expires}"
        return f"xet_{text}.{self.sign(text)}", expires

    def check_xet_token(self, authorization: str | None, *, write: bool) -> str:
        """The key of the repository that a xet token is for.

        Raises:
            Refusal: The token is missing, false, expired, or too weak.
        """
        token = (authorization or "").removeprefix("Bearer ").removeprefix("xet_")
        text, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self.sign(text), signature):
            raise Refusal(401, "The xet token is not valid.")
        scope, key, expires = text.split(".")
        if int(expires) < time.time():
            raise Refusal(401, "The xet token has expired.")
        if write and scope != "write":
            raise Refusal(403, "The xet token can only read.")
        return key


def open_state(root: Path, mode: Mode, knobs: Knobs) -> State:
    """Open the folder of a Hub, or make it."""
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    blobs = BlobStore(root)
    return State(
        root=root,
        mode=mode,
        knobs=knobs,
        accounts=Accounts(),
        blobs=blobs,
        xet=XetStore(root),
        catalog=Catalog(root, blobs),
        shelves=Shelves(root),
        secret=_secret(root / "secret"),
        publishers=Publishers(),
        jobs=JobBook(),
    )


def _secret(path: Path) -> bytes:
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
