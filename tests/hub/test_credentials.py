"""Tokens that a CI job gets for its identity, and renews: by themselves, then in whole runs."""

import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
from cli.test_interruptions import QUICK, SHARDS, V4, wait_until
from conftest import Studio
from hub.issuer import CLAIMS, Issuer
from huggingface_hub.errors import HfHubHTTPError, OIDCError

from hubconv.embedded.publishers import Publisher
from hubconv.ends import FileEntry
from hubconv.errors import BrokenLineError, NotAllowedError
from hubconv.hub import compat, desk
from hubconv.hub.client import HubClient
from hubconv.hub.credentials import IdentifiedApi, Identity
from hubconv.hub.fetching.line import Line
from hubconv.hub.fetching.supply import HTTP, Supply
from hubconv.hub.waiting import never

TARGET = "demo/nightly"
USER = "reader"

# ── by itself ────────────────────────────────────────────────────────────────────────────────


class Trade:
    """Gives token after token, and fails where it is told to."""

    def __init__(self, life=3600.0):
        self.life, self.count, self.now, self.fault = life, 0, 0.0, None

    def __call__(self, **_):
        if self.fault is not None:
            raise self.fault
        self.count += 1
        return {"access_token": f"token-{self.count}", "expires_in": self.life}

    def identity(self):
        return Identity("demo/x", "http://hub", self, lambda: self.now)


def answer(status, url="http://hub/oauth/token"):
    response = compat.httpx.Response(status, request=compat.httpx.Request("POST", url))
    return HfHubHTTPError(f"answered {status}", response=response)


@pytest.mark.parametrize(("life", "kept", "renewed"), [(3600, 3299, 3301), (4, 2.9, 3.1)])
def test_a_token_is_kept_until_a_while_before_its_end(life, kept, renewed):
    trade = Trade(life)
    identity = trade.identity()
    assert identity.token() == "token-1"
    trade.now = kept
    assert identity.token() == "token-1"
    trade.now = renewed
    assert identity.token() == "token-2"


def test_threads_that_ask_at_the_same_time_trade_once():
    trade, gate = Trade(), threading.Barrier(8)
    identity = Identity("demo/x", "http://hub", lambda **_: (time.sleep(0.05), trade())[1])
    found = []

    def ask():
        gate.wait()
        found.append(identity.token())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (set(found), trade.count) == ({"token-1"}, 1)


def test_a_refused_token_is_renewed_once_for_all_that_carry_it():
    trade = Trade()
    identity = trade.identity()
    first = identity.token()
    trade.now = 1000
    assert identity.instead_of(first) == "token-2"
    assert identity.instead_of(first) == "token-2"
    assert (identity.token(), trade.count) == ("token-2", 2)


def test_a_young_token_is_not_what_a_refusal_is_about():
    trade = Trade()
    identity = trade.identity()
    assert identity.instead_of(identity.token()) == ""
    assert identity.instead_of("somebody else's") == ""
    assert trade.count == 1


def test_a_renewal_that_fails_leaves_the_token_that_is_still_good():
    trade = Trade()
    identity = trade.identity()
    identity.token()
    trade.now, trade.fault = 3400, answer(503)
    assert identity.token() == "token-1"
    trade.fault = None
    trade.now = 3500
    assert identity.token() == "token-2"


def test_a_fault_that_passes_is_not_told_as_a_refusal():
    trade = Trade()
    trade.fault = answer(503)
    with pytest.raises(HfHubHTTPError):
        trade.identity().token()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (OIDCError("no permission"), "id-token: write"),
        (answer(400), "http://hub/demo/x/settings (Trusted Publishers)"),
        (answer(403, "http://ci/token"), "The CI provider gives this job no id token (403)"),
        (KeyError("access_token"), "holds none"),
    ],
)
def test_what_cannot_be_traded_says_what_to_do(fault, says):
    trade = Trade()
    trade.fault = fault
    with pytest.raises(NotAllowedError) as refused:
        trade.identity().token()
    assert says in str(refused.value)
    assert refused.value.exit_code == 4


def test_the_client_asks_for_the_token_at_every_request():
    trade = Trade()
    api = IdentifiedApi(trade.identity(), endpoint="http://hub")
    for now, token in ((0, "token-1"), (3400, "token-2")):
        trade.now = now
        assert compat.headers_of(api)["authorization"] == f"Bearer {token}"


def test_a_transfer_whose_token_has_ended_is_replaced_by_another(xet_studio, tmp_path):
    """A child that goes to the Hub by HTTP has the token of its order to its end."""
    identity = Trade().identity()
    for client, passes in (
        (HubClient(IdentifiedApi(identity), identity=identity), True),
        (xet_studio.client(), False),
    ):
        line = object.__new__(Line)
        line._supply = Supply(client, None, FileEntry("model.bin", 1), tmp_path)
        with nullcontext() if passes else pytest.raises(NotAllowedError):
            line._judge(answer(401), HTTP, 1)
        with pytest.raises(NotAllowedError):
            line._judge(answer(403), HTTP, 1)


# ── xet tokens for child processes ───────────────────────────────────────────────────────────


def test_a_child_is_lent_a_word_and_never_a_token_of_the_hub(xet_studio):
    from hubconv.embedded import DEMO_TOKEN

    studio = xet_studio
    identity = Identity("demo/x", studio.hub.endpoint, lambda **_: {"access_token": DEMO_TOKEN})
    client = HubClient(IdentifiedApi(identity, endpoint=studio.hub.endpoint), identity=identity)
    connection = compat.xet_connection(client.api, studio.source(), "main")
    lent = desk.renewable(client, connection)
    assert DEMO_TOKEN in str(connection)
    assert DEMO_TOKEN not in str(lent)
    session = compat.get_session()
    found = session.get(lent["token_refresh_url"], headers=lent["token_refresh_headers"])
    assert set(found.json()) == {"casUrl", "accessToken", "exp"}
    assert found.json()["casUrl"] == connection["endpoint"]
    for url, word in (
        (lent["token_refresh_url"], {"authorization": "Bearer guessed"}),
        (lent["token_refresh_url"], {}),
        (lent["token_refresh_url"][:-1] + "99", lent["token_refresh_headers"]),
    ):
        assert session.get(url, headers=word).status_code == 403


def test_a_token_that_was_given_goes_to_the_hub_itself(xet_studio):
    connection = compat.xet_connection(xet_studio.api, xet_studio.source(), "main")
    assert desk.renewable(xet_studio.client(), connection) is connection


@pytest.mark.parametrize("lent", [True, False])
def test_a_shard_on_its_way_outlives_the_token_it_began_with(tmp_path, monkeypatch, lent):
    from hubconv.embedded import DEMO_USER, EmbeddedHub, Knobs
    from hubconv.hub.uploading import xet

    def trade(**_):
        count = len(given) + 1
        given.append(f"hf_of_the_hour_{count}")
        hub.add_user(DEMO_USER, given[-1])
        return {"access_token": given[-1], "expires_in": 3600 if count > 1 else 2}

    given = []
    if not lent:
        monkeypatch.setattr(xet, "renewable", lambda _client, connection: connection)
    with EmbeddedHub(tmp_path / "hub", mode="xet", knobs=Knobs(xet_token_s=1)) as hub:
        identity = Identity("demo/x", hub.endpoint, trade)
        client = HubClient(IdentifiedApi(identity, endpoint=hub.endpoint), identity=identity)
        client.api.create_repo("demo/x")
        line = xet.XetLine(client, "demo/x", "main", tmp_path / "work", never)
        sent = []
        ends = nullcontext() if lent else pytest.raises(BrokenLineError, match="401")
        with ends, xet.XetSink(line, "model.bin", sent.append) as sink:
            sink.write(b"first" * 100_000)
            hub.revoke(given[0])
            time.sleep(2)
            sink.write(b"second" * 100_000)
            sink.finish()
        assert len(sent) == lent
        assert len(given) == (2 if lent else 1)


# ── whole runs ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def trusting(mode, folder, checkpoints, *, makes_refs=True, **knobs):
    """A Hub that trusts a CI job to publish one repository, and the job's environment."""
    from hubconv.embedded import EmbeddedHub, Knobs

    with Issuer() as issuer, EmbeddedHub(folder / "hub", mode=mode, knobs=Knobs(**knobs)) as hub:
        studio = Studio(hub, mode, folder, checkpoints)
        studio.api.create_repo(TARGET)
        hub.publishers.trust(Publisher(TARGET, issuer.key, CLAIMS, makes_refs))
        yield studio, issuer, {**issuer.env, "HF_OIDC_RESOURCE": TARGET}


def slow_commits(studio, seconds):
    studio.hub.faults.delay("POST", f"{TARGET}/commit/", seconds=seconds, times=None)


def secrets_of(studio, issuer):
    return [*studio.hub.publishers.issued, *issuer.told, issuer.word]


def no_secrets(studio, issuer, said):
    """None is told, and none lies in a file of the run's."""
    words = secrets_of(studio, issuer)
    assert len(words) > 2
    ours = [path for path in studio.folder.rglob("*") if studio.hub.root not in path.parents]
    for text in (said, *(path.read_bytes().decode("latin-1") for path in ours if path.is_file())):
        for word in words:
            assert word not in text
            assert word.rpartition(".")[2] not in text


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["xet", "lfs"])
def test_a_run_outlives_its_tokens(mode, tmp_path, checkpoints):
    parts = {"multipart_from_bytes": 200_000, "part_bytes": 100_000}
    lives = {"publisher_token_s": 3, "xet_token_s": 2}
    with trusting(mode, tmp_path, checkpoints, **lives, **parts) as (studio, issuer, env):
        slow_commits(studio, 2)
        words = (studio.source(V4), TARGET, *QUICK, "-vv")
        started = time.monotonic()
        with studio.start(*words, env=env, group=1) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        # Every token ends after three seconds, for the Hub too: no run of this length has one.
        lived = time.monotonic() - started
        assert lived > 2 * 3
        assert len(studio.hub.publishers.issued) >= 3
        assert len(studio.publishes(TARGET)) == 1
        assert sum(path.endswith(".safetensors") for path in studio.tree(TARGET)) == SHARDS
        assert studio.publishes(TARGET)[0].authors == ["[OIDC]"]
        no_secrets(studio, issuer, out + err)
        # hf_xet takes a token that ends within seconds for one that has ended.
        assert ("A xet token was renewed for a transfer" in err) == (mode == "xet")
        assert studio.command("verify", TARGET).code == 0


@pytest.mark.slow
def test_a_token_that_ends_early_is_renewed_by_the_request_it_fails(tmp_path, checkpoints):
    with trusting("lfs", tmp_path, checkpoints) as (studio, _, env):
        slow_commits(studio, 1.0)
        words = (studio.source(V4), TARGET, *QUICK)
        # An hour's token counts as faultless for minutes: not for so long here.
        lines = [
            "from hubconv.hub import credentials, staging",
            "staging.GROUP_UNITS = 1",
            "credentials.FAULTLESS_SHARE = 10**6",
        ]
        with studio.start(*words, env=env, lines=lines) as process:
            wait_until(lambda: studio.staging(TARGET), process)
            studio.hub.revoke(studio.hub.publishers.issued[-1])
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert len(studio.hub.publishers.issued) >= 2
        assert any(each.status == 401 for each in studio.hub.requests.all())
        assert len(studio.publishes(TARGET)) == 1


@pytest.mark.slow
def test_a_publisher_that_is_trusted_no_more_ends_the_run_and_costs_no_shard(tmp_path, checkpoints):
    with trusting("lfs", tmp_path, checkpoints, publisher_token_s=3) as (studio, _, env):
        slow_commits(studio, 1.5)

        def has_staged():
            branches = studio.staging(TARGET)
            return any(c.title.startswith("Stage") for b in branches for c in studio.log(TARGET, b))

        with studio.start(studio.source(V4), TARGET, *QUICK, env=env, group=1) as process:
            wait_until(has_staged, process)
            studio.hub.publishers.forget(TARGET)
            out, err = process.communicate(timeout=120)
        assert process.returncode == 4, out + err
        assert "no token for demo/nightly any more (400)" in err
        assert f"{studio.hub.endpoint}/{TARGET}/settings (Trusted Publishers)" in err
        assert "Traceback" not in err
        assert studio.publishes(TARGET) == []
        studio.hub.faults.clear()
        done = studio.command(studio.source(V4), TARGET, *QUICK, "--json")
        assert done.json["shards_found"] >= 1


@pytest.mark.slow
def test_a_publisher_without_branches_has_its_journal_on_a_pull_request(tmp_path, checkpoints):
    knobs = {"publisher_token_s": 3, "makes_refs": False}
    with trusting("lfs", tmp_path, checkpoints, **knobs) as (studio, _, env):
        rule = studio.hub.faults.hang("POST", rf"{TARGET}/commit/refs%2Fpr%2F1", skip=2, seconds=60)
        words = (studio.source(V4), TARGET, *QUICK)
        with studio.start(*words, env=env, group=1) as process:
            wait_until(lambda: studio.hub.faults.struck(rule), process)
            process.kill()
            process.communicate(timeout=30)
        studio.hub.faults.clear()
        assert studio.staging(TARGET) == set()
        done = studio.command(*words, "--json", env=env)
        assert done.code == 0, done.said
        assert done.json["shards_found"] in {1, 2}
        (pull,) = studio.api.get_repo_discussions(TARGET)
        assert (pull.author, pull.status) == ("[OIDC]", "closed")
        assert len(studio.publishes(TARGET)) == 1


@pytest.mark.parametrize("gets", ["token", "identity"])
def test_a_gated_source_has_a_credential_of_its_own(tmp_path, checkpoints, gets):
    with trusting("lfs", tmp_path, checkpoints) as (studio, issuer, env):
        source = studio.own_source()
        studio.api.update_repo_settings(source, gated="manual")
        studio.api.update_repo_settings(TARGET, private=True)
        studio.hub.add_user(USER, "hf_reader_of_gated")
        studio.hub.publishers.trust(Publisher(USER, issuer.key, CLAIMS))
        refused = studio.command(source, TARGET, *QUICK, env=env)
        assert refused.code == 4
        assert "HUBCONV_SOURCE_OIDC" in refused.err
        studio.hub.grant(source, USER)
        own = {"HUBCONV_SOURCE_TOKEN": "hf_reader_of_gated"}
        if gets == "identity":
            own = {"HUBCONV_SOURCE_OIDC": USER}
        done = studio.command(source, TARGET, *QUICK, env={**env, **own})
        assert done.code == 0, done.said
        kinds = {token.split("_")[1] for token in studio.hub.publishers.issued}
        assert kinds == ({"jwt", "oauth"} if gets == "identity" else {"jwt"})


REFUSED = {
    "no permission for id tokens": (
        {"ACTIONS_ID_TOKEN_REQUEST_URL": None},
        "permissions: id-token: write",
    ),
    "no CI at all": ({"GITHUB_ACTIONS": None}, "HF_OIDC_ID_TOKEN"),
    "a job that the provider does not know": (
        {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another"},
        "The CI provider gives this job no id token (401)",
    ),
    "an id token that is none": (
        {"HF_OIDC_ID_TOKEN": "eyJhbGciOi.eyJzdWIiOiJ4.c2lnbmF0dXJl"},
        "HF_OIDC_ID_TOKEN cannot be renewed",
    ),
    "another repository": ({"HF_OIDC_RESOURCE": "demo/other"}, "no token for demo/other (400)"),
}


@pytest.fixture(scope="module")
def trusted(tmp_path_factory, checkpoints):
    with trusting("lfs", tmp_path_factory.mktemp("trusted"), checkpoints) as found:
        yield found


@pytest.mark.parametrize(("changed", "says"), REFUSED.values(), ids=REFUSED)
def test_a_job_that_gets_no_token_is_told_why_before_any_work(trusted, changed, says):
    studio, _, env = trusted
    done = studio.command(studio.source(), TARGET, *QUICK, env={**env, **changed})
    assert done.code == 4, done.said
    assert says in done.err
    assert "Traceback" not in done.err
    assert "eyJ" not in done.err


def test_an_identity_for_another_repository_than_the_target_is_refused(trusted):
    studio, issuer, env = trusted
    done = studio.command(studio.source(), "demo/elsewhere", *QUICK, env=env)
    assert done.code == 4, done.said
    assert "HF_OIDC_RESOURCE=demo/elsewhere" in done.err
    studio.hub.publishers.trust(Publisher("demo/missing", issuer.key, CLAIMS))
    words = (studio.source(), "demo/missing", *QUICK)
    done = studio.command(*words, env={**env, "HF_OIDC_RESOURCE": "demo/missing"})
    assert done.code == 4, done.said
    assert "Create it once by hand" in done.err


def test_a_job_with_other_claims_is_not_trusted(trusted):
    studio, _, env = trusted
    with Issuer({**CLAIMS, "ref": "refs/heads/other"}) as other:
        studio.hub.publishers.trust(Publisher(TARGET, other.key, CLAIMS))
        done = studio.command(studio.source(), TARGET, *QUICK, env={**env, **other.env})
    assert done.code == 4, done.said
    assert "exactly the claims" in done.err


def test_an_empty_resource_is_none(trusted):
    studio, _, _ = trusted
    done = studio.command("plan", studio.source(), env={"HF_OIDC_RESOURCE": ""})
    assert done.code == 0, done.said
