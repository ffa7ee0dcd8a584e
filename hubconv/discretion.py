"""Texts without what could be used to log in: for terminals, logs, and others' eyes."""

import logging
import os
import re
from typing import Final

_SECRETS: Final = re.compile(
    # Tokens are written small; HF_ followed by more is the name of a variable. hf_transfer is a
    # library.
    r"(?-i:hf_(jwt|oauth)_[\w.-]+|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+|"
    r"hf_(?!transfer\b)[A-Za-z0-9_]{8,})|"
    r"Bearer\s+\S+|(?<=[?&])(X-Amz-[^=]+|Signature|Policy|Key-Pair-Id)=[^&\s]+",
    re.IGNORECASE,
)


_TOKENS: Final = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUBCONV_SOURCE_TOKEN",
    "HF_OIDC_ID_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
)


def without_secrets(text: str) -> str:
    """A text in which nothing can be used to log in."""
    for name in _TOKENS:
        token = os.environ.get(name, "").strip()
        if token:
            text = text.replace(token, "***")
    return _SECRETS.sub("***", text)


class _WithoutHandlers(logging.Logger):
    """A library's logger that takes no handler of the library's own."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name for it
        """Take none."""


def take_over_logging_of(library: str) -> None:
    """Have what a library logs go through this process's handlers alone, which keep secrets.

    huggingface_hub brings a handler of its own when it is imported, before this or after, which
    would show links and tokens as they are.
    """
    logger = logging.getLogger(library)
    logger.__class__ = _WithoutHandlers
    logger.handlers.clear()
