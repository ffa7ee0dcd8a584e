"""A published target joins a collection once, and a collection's trouble is not the publish's."""

import pytest
from huggingface_hub.errors import HfHubHTTPError

from hubconv.embedded import DEMO_ORG, EmbeddedHub
from hubconv.embedded.faults import Rule
from hubconv.errors import UsageError
from hubconv.hub.collecting import add_to_collection
from hubconv.pipeline import Request, convert
from hubconv.progress import Progress


class Told(Progress):
    """Remembers warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def repo(xet_studio):
    name = xet_studio.name("kept")
    xet_studio.api.create_repo(name)
    return name


def named(studio, owner, title):
    return [each for each in studio.api.list_collections(owner=owner) if each.title == title]


def items(studio, slug):
    return [item.item_id for item in studio.api.get_collection(slug).items]


def convert_into(studio, collection, **request):
    told = Told()
    request = {"device": "cpu", "workers": 1, "work_dir": str(studio.folder / "work"), **request}
    target = request.pop("target", "") or studio.name()
    outcome = convert(Request(studio.source(), target, collection=collection, **request), told)
    return target, outcome, told.warnings


def test_a_collection_is_made_where_there_is_none_of_that_title(xet_studio, repo):
    url = add_to_collection(xet_studio.client(), repo, "Made anew", private=False)
    (made,) = named(xet_studio, "demo", "Made anew")
    assert url == f"{xet_studio.hub.endpoint}/collections/{made.slug}"
    assert items(xet_studio, made.slug) == [repo]
    assert not made.private


def test_it_is_added_once_however_often(xet_studio, repo):
    client = xet_studio.client()
    urls = {add_to_collection(client, repo, "Once", private=False) for _ in range(3)}
    (made,) = named(xet_studio, "demo", "Once")
    assert len(urls) == 1
    assert items(xet_studio, made.slug) == [repo]
    # By its address too, with the id that the Hub gave it.
    assert add_to_collection(client, repo, made.slug, private=False) in urls
    assert items(xet_studio, made.slug) == [repo]


def test_a_collection_of_many_items_is_looked_through_whole(xet_studio):
    """A list shows four items of each; the fifth must not be added again."""
    client = xet_studio.client()
    repos = [xet_studio.name("many") for _ in range(6)]
    for repo in (*repos, *repos):
        if repo not in {each.id for each in xet_studio.api.list_models(author="demo")}:
            xet_studio.api.create_repo(repo)
        add_to_collection(client, repo, "many", private=False)
    (made,) = named(xet_studio, "demo", "many")
    assert items(xet_studio, made.slug) == repos


def test_the_owner_may_be_another_that_the_account_belongs_to(xet_studio, repo):
    add_to_collection(xet_studio.client(), repo, f"{DEMO_ORG}/Ours", private=True)
    (made,) = named(xet_studio, DEMO_ORG, "Ours")
    assert made.private
    assert items(xet_studio, made.slug) == [repo]


def test_two_runs_that_make_it_at_once_come_to_one(xet_studio, repo, monkeypatch):
    api = xet_studio.api
    monkeypatch.setattr("huggingface_hub.HfApi.list_collections", lambda *_, **__: [])
    for _ in range(2):
        add_to_collection(xet_studio.client(), repo, "Raced", private=False)
    monkeypatch.undo()
    assert len([each for each in api.list_collections(owner="demo") if each.title == "Raced"]) == 1


@pytest.mark.parametrize("name", ["/", "demo/", "  ", "/x"])
def test_a_name_that_names_nothing_is_refused(xet_studio, repo, name):
    with pytest.raises(UsageError, match="names no collection"):
        add_to_collection(xet_studio.client(), repo, name, private=False)


def test_a_published_target_joins_and_a_second_run_changes_nothing(xet_studio):
    target, first, warnings = convert_into(xet_studio, "NVFP4 models")
    (made,) = named(xet_studio, "demo", "NVFP4 models")
    assert items(xet_studio, made.slug) == [target]
    assert first.collection.endswith(made.slug)
    assert not [text for text in warnings if "collection" in text]
    _, second, _ = convert_into(xet_studio, "NVFP4 models", target=target)
    assert (second.status, second.collection) == ("up-to-date", first.collection)
    assert items(xet_studio, made.slug) == [target]


def test_a_failure_there_is_a_warning_and_the_publish_stands(xet_studio):
    xet_studio.hub.faults.add(Rule("answer", "*", "/api/collections", times=None, status=403))
    target, outcome, warnings = convert_into(xet_studio, "Refused")
    assert (outcome.status, outcome.collection) == ("published", "")
    assert "hubconv.json" in xet_studio.tree(target)
    (warning,) = [text for text in warnings if "collection" in text]
    assert warning.startswith(f"{target} is published, but not in the collection")


def test_somebody_elses_collection_is_a_warning(xet_studio):
    _, outcome, warnings = convert_into(xet_studio, "stranger/Theirs")
    assert outcome.status == "published"
    assert any("not in the collection" in text for text in warnings)


def test_a_pull_request_joins_when_it_is_merged(xet_studio):
    target, outcome, warnings = convert_into(xet_studio, "Later", create_pr=True)
    assert outcome.published.pull_request
    assert any("once its pull request is merged" in text for text in warnings)
    assert not named(xet_studio, "demo", "Later")
    xet_studio.api.merge_pull_request(target, outcome.published.pull_request)
    _, again, _ = convert_into(xet_studio, "Later", target=target, create_pr=True)
    assert again.status == "up-to-date"
    (made,) = named(xet_studio, "demo", "Later")
    assert items(xet_studio, made.slug) == [target]


def test_a_folder_stands_in_no_collection(checkpoints, tmp_path):
    request = Request(str(checkpoints("llama_bf16")), str(tmp_path / "out"), collection="x")
    with pytest.raises(UsageError, match="A folder stands in no collection"):
        convert(request)
    assert not (tmp_path / "out").exists()


# ── the embedded Hub's own ───────────────────────────────────────────────────────────────────


def test_a_private_collection_is_seen_by_its_owner_alone(xet_studio, repo):
    slug = xet_studio.api.create_collection("Hidden", private=True).slug
    stranger = xet_studio.api_of("hf_stranger")
    xet_studio.hub.add_user("stranger", "hf_stranger")
    assert not [each for each in stranger.list_collections(owner="demo") if each.slug == slug]
    with pytest.raises(HfHubHTTPError):
        stranger.get_collection(slug)
    public = xet_studio.api.create_collection("Seen").slug
    with pytest.raises(HfHubHTTPError):
        stranger.add_collection_item(public, repo, "model")


def test_collections_outlive_the_hub_and_can_be_taken_apart(tmp_path, xet_studio):
    from huggingface_hub import HfApi

    from hubconv.embedded import DEMO_TOKEN

    with EmbeddedHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=DEMO_TOKEN)
        api.create_repo("demo/one")
        slug = api.create_collection("Shelf", description="what is here").slug
        api.add_collection_item(slug, "demo/one", "model", note="the first")
    with EmbeddedHub(tmp_path) as hub:
        api = HfApi(endpoint=hub.endpoint, token=DEMO_TOKEN)
        found = api.get_collection(slug)
        assert (found.description, found.items[0].note) == ("what is here", "the first")
        api.delete_collection_item(slug, found.items[0].item_object_id)
        assert api.get_collection(slug).items == []
        api.delete_collection(slug)
        assert list(api.list_collections(owner="demo")) == []
