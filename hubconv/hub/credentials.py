"""Tokens that a CI job gets for its identity: traded for on the Hub, and renewed in time.

A job of a trusted publisher has no token to keep. It shows the Hub who it is by an id token of its
CI provider and gets a token for one repository, or for reading what an account may read, that is
good for an hour. The client can make that trade; what a run of many hours needs besides stands
here: two identities at the same time, a new token before the old one ends, and one more try with a
new one where the Hub no longer takes the old.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OIDCError

from hubconv.errors import NotAllowedError
from hubconv.hub.compat import oidc_login, status_of

_LOG: Final = logging.getLogger(__name__)

TARGET_IDENTITY: Final = "HF_OIDC_RESOURCE"
"""The client's own variable: a repository, or an account for reading alone."""

SOURCE_IDENTITY: Final = "HUBCONV_SOURCE_OIDC"
"""An account whose gated repositories the source is read with."""

ID_TOKEN: Final = "HF_OIDC_ID_TOKEN"  # noqa: S105 - the name of a variable, not a token

MARGIN_S: Final = 300.0
"""A token is renewed so long before it ends: what was begun with it comes to its end."""

MARGIN_SHARE: Final = 4
"""Of a short life no more than one part in so many is given away."""

FAULTLESS_SHARE: Final = 20
"""In the first part of its life a token is not what a refusal is about."""

LIFETIME_S: Final = 3600.0
_GIVEN_UP: Final = (400, 401, 403, 404)
_BEARER: Final = "Bearer "

Trade = Callable[..., Mapping[str, Any]]


class Identity:
    """A CI job's identity towards one resource of the Hub. Threads may share it.

    Args:
        resource: `org/name`, or an account's name.
        endpoint: The Hub.
        trade: Gets a token for the identity; the client's own.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        resource: str,
        endpoint: str,
        trade: Trade = oidc_login,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resource = resource
        self._endpoint = endpoint
        self._trade = trade
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._since = self._renew_at = self._ends_at = 0.0
        self._earlier: set[str] = set()

    def token(self) -> str:
        """The token of the moment; another one where it would soon end.

        Raises:
            NotAllowedError: There is none to be had, and the one there was has ended.
        """
        with self._lock:
            if self._clock() >= self._renew_at:
                self._renew()
            return self._token

    def instead_of(self, refused: str) -> str:
        """A token to try after the Hub refused one of this identity; empty where there is none.

        A request may carry a token that was renewed since. The token of the moment is renewed
        where it is old enough for that to help.

        Args:
            refused: The token of the request.

        Raises:
            NotAllowedError: It cannot be renewed.
        """
        # Looked at first without the lock: the trade itself may be refused, while it is held.
        if not refused or (refused != self._token and refused not in self._earlier):
            return ""
        with self._lock:
            if refused != self._token:
                return self._token
            if self._clock() - self._since < (self._ends_at - self._since) / FAULTLESS_SHARE:
                return ""
            self._ends_at = self._clock()
            self._renew()
            return self._token

    def _renew(self) -> None:
        before = self._clock()
        try:
            told = self._trade(
                resource=self.resource,
                subject_token=os.environ.get(ID_TOKEN) or None,
                endpoint=self._endpoint,
            )
            token = str(told["access_token"])
            life = float(told.get("expires_in") or LIFETIME_S)
        except Exception as error:
            if before < self._ends_at:
                _LOG.warning("The token for %s could not be renewed yet: %s", self.resource, error)
                # Not at every request: the rest of its life has a few tries.
                self._renew_at = before + (self._ends_at - before) / MARGIN_SHARE
                return
            raise self._explained(error) from error
        if self._token:
            self._earlier.add(self._token)
            _LOG.info("The token for %s was renewed.", self.resource)
        self._token, self._since, self._ends_at = token, before, before + life
        self._renew_at = self._ends_at - min(MARGIN_S, life / MARGIN_SHARE)

    def _explained(self, error: Exception) -> Exception:
        """What to do about a trade that was refused; the error itself where it may pass."""
        if isinstance(error, OIDCError):
            return NotAllowedError(
                f"There is no id token to get a token for {self.resource} with: {error}",
                "In a GitHub workflow give the job `permissions: id-token: write`; elsewhere set "
                f"{ID_TOKEN} to the id token of the CI provider, or log in by HF_TOKEN and leave "
                f"{TARGET_IDENTITY} and {SOURCE_IDENTITY} unset.",
            )
        if isinstance(error, HfHubHTTPError) and status_of(error) in _GIVEN_UP:
            return self._refused(error)
        if isinstance(error, KeyError | TypeError | ValueError):
            return NotAllowedError(
                f"The answer to the request for a token of {self.resource} holds none.",
                f"Check that {self._endpoint} is a Hub with trusted publishers.",
            )
        return error

    def _refused(self, error: HfHubHTTPError) -> NotAllowedError:
        url = str(error.response.url) if error.response is not None else ""
        if not url.startswith(f"{self._endpoint}/"):
            return NotAllowedError(
                f"The CI provider gives this job no id token ({status_of(error)}).",
                "In a GitHub workflow give the job `permissions: id-token: write`.",
            )
        lost = " any more" if self._token else ""
        again = (
            f" {ID_TOKEN} cannot be renewed by hubconv: give the run less to do at a time with "
            "--time-limit and a new id token each time."
            if os.environ.get(ID_TOKEN)
            else ""
        )
        page = (
            f"{self._endpoint}/{self.resource}/settings (Trusted Publishers)"
            if "/" in self.resource
            else f"{self._endpoint}/settings/authentication (CI/CD Access)"
        )
        return NotAllowedError(
            f"The Hub gives this job no token for {self.resource}{lost} ({status_of(error)}).",
            f"Register the job as a trusted publisher at {page}, with exactly the claims of its "
            f"repository, branch and workflow.{again} Finished shards are kept.",
        )


class IdentifiedApi(HfApi):
    """The client, with the token of an identity as it is at each request.

    Args:
        identity: Whose token.
        **options: Of the client.
    """

    def __init__(self, identity: Identity, **options: Any) -> None:  # noqa: ANN401
        self._identity = identity
        super().__init__(**options)

    @property
    def token(self) -> str:
        """The token of the moment."""
        return self._identity.token()

    @token.setter
    def token(self, given: object) -> None:
        """Nothing: a token that was given once would end."""


_IDENTITIES: dict[tuple[str, str], Identity] = {}
_IDENTITIES_LOCK = threading.Lock()


def identity_of(resource: str, endpoint: str) -> Identity:
    """The identity of this job towards a resource: one, whoever asks for it."""
    with _IDENTITIES_LOCK:
        return _IDENTITIES.setdefault((resource, endpoint), Identity(resource, endpoint))


def chosen(variables: tuple[str, ...]) -> str:
    """The resource that the first of some variables names; empty where none does."""
    return next(filter(None, (os.environ.get(name, "").strip() for name in variables)), "")


def are_wanted() -> bool:
    """Whether this process works by an identity at all."""
    return bool(chosen((TARGET_IDENTITY, SOURCE_IDENTITY)))


def renewed(authorization: str) -> str:
    """What a refused request may be repeated with; empty where nothing better is known.

    Args:
        authorization: The request's header.

    Raises:
        NotAllowedError: The token cannot be renewed.
    """
    if not authorization.startswith(_BEARER):
        return ""
    with _IDENTITIES_LOCK:
        identities = list(_IDENTITIES.values())
    for identity in identities:
        token = identity.instead_of(authorization.removeprefix(_BEARER))
        if token:
            return f"{_BEARER}{token}"
    return ""
