"""`hubconv card`: a card made again from hubconv.json is the card that was published."""

import json

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from markdown_it import MarkdownIt

from hubconv.card import PICTURES
from hubconv.demo import deepseek_v4
from hubconv.embedded.faults import Rule
from hubconv.errors import ConflictError, IntegrityError, NotAllowedError, SourceError, UsageError
from hubconv.pipeline import Request, convert
from hubconv.refresh import TITLE, refresh
from hubconv.steps import publish

MINE = "<!-- keep -->\n## Mine\n\nIt runs *well*.\n<!-- /keep -->\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a published result; whoever changes it takes a copy."""
    folder = tmp_path_factory.mktemp("made")
    deepseek_v4.fp8_repack(folder / "source", fast=True)
    convert(Request(str(folder / "source"), str(folder / "result"), device="cpu"))
    return folder / "result"


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it that may be changed, shards apart."""
    copy = tmp_path / "result"
    copy.mkdir()
    for path in made.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            place = copy / path.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return copy


@pytest.fixture
def published(studio):
    """A repository with a published result."""
    target = studio.name()
    studio.convert(studio.source(), target)
    return target


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rewritten(folder, change):
    path = folder / "hubconv.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


# ── folders ──────────────────────────────────────────────────────────────────────────────────


def test_the_same_manifest_gives_the_same_card_so_nothing_is_written(folder):
    before = contents(folder)
    done = refresh(str(folder))
    assert (done.published, done.changed) == (None, ())
    assert contents(folder) == before


def test_no_weight_is_needed(folder):
    assert not list(folder.glob("*.safetensors"))
    before = contents(folder)
    (folder / "README.md").unlink()
    assert refresh(str(folder)).changed == ("README.md",)
    assert contents(folder) == before


def test_what_a_person_wrote_stays_and_all_else_is_made_again(folder):
    card = folder / "README.md"
    text = card.read_text()
    card.write_text(text.replace("## Size", "## Sighs") + MINE)
    assert refresh(str(folder)).changed == ("README.md",)
    assert card.read_text().startswith(text.rstrip("\n"))
    assert card.read_text().endswith(MINE)
    assert refresh(str(folder)).changed == ()


def test_a_picture_that_is_gone_or_another_is_drawn_again(folder):
    before = contents(folder)
    there = [path for path in PICTURES if path in before]
    assert there
    for path in there:
        (folder / path).write_bytes(b"not a picture")
    assert refresh(str(folder)).changed == tuple(sorted(there))
    assert contents(folder) == before


def test_without_matplotlib_pictures_that_stand_there_stay_in_the_card(folder, monkeypatch):
    monkeypatch.setattr(publish, "draw", lambda _: {})
    before = contents(folder)
    assert refresh(str(folder)).changed == ()
    assert contents(folder) == before


def test_a_drawing_that_fails_stops_nothing(folder, monkeypatch, caplog):
    def fails(_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(publish, "draw", fails)
    (folder / "README.md").unlink()
    before = contents(folder)
    assert refresh(str(folder)).changed == ("README.md",)
    assert before.items() <= contents(folder).items()
    assert "no fonts" in caplog.text


def test_without_matplotlib_and_pictures_the_card_has_none(folder, monkeypatch):
    monkeypatch.setattr(publish, "draw", lambda _: {})
    for path in PICTURES:
        (folder / path).unlink(missing_ok=True)
    assert refresh(str(folder)).changed == ("README.md",)
    assert "![" not in (folder / "README.md").read_text()


def test_a_template_of_ones_own_is_filled_in(folder, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ front_matter }}\n# {{ name }} of {{ report.source }}\n")
    refresh(str(folder), template=str(template))
    assert (folder / "README.md").read_text().endswith("\n# result of source\n")


def test_a_template_that_is_no_text_is_refused(folder, tmp_path):
    (tmp_path / "mine.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        refresh(str(folder), template=str(tmp_path / "mine.jinja"))


def test_a_folder_has_no_pull_requests(folder):
    with pytest.raises(UsageError, match="pull requests"):
        refresh(str(folder), create_pr=True)


# ── what is not ours, or not whole ───────────────────────────────────────────────────────────


def test_a_target_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SourceError, match="does not exist") as caught:
        refresh(str(tmp_path / "none"))
    assert caught.value.exit_code == 3


def test_what_hubconv_did_not_publish_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(SourceError, match=r"holds no hubconv\.json") as caught:
        refresh(str(tmp_path))
    assert caught.value.exit_code == 3
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": 1}', "[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_an_integrity_fault(folder, text):
    (folder / "hubconv.json").write_text(text)
    with pytest.raises(IntegrityError, match="cannot be read"):
        refresh(str(folder))


def test_a_manifest_of_an_older_hubconv_is_told_apart(folder):
    rewritten(folder, lambda manifest: manifest.pop("roles"))
    with pytest.raises(SourceError, match=r"lacks roles.*Convert again"):
        refresh(str(folder))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("layout",), "../../../etc/passwd"),
        (("roles", 0, "count"), "many"),
        (("roles", 0, "bytes_after"), -1),
        (("roles",), {"0": 1}),
        (("bytes", "before"), True),
        (("quality", "all", "relative_error"), float("nan")),
        (("quality", "by_layer_and_role", 0, "layer"), None),
        (("quality",), []),
        (("versions", "hubconv"), ["0.1.0"]),
        (("source", "repo"), 7),
        (("copies",), "LICENSE"),
        (("files", "LICENSE", "sha256"), 5),
        (("verified", "notes"), None),
    ],
)
def test_a_value_that_hubconv_does_not_write_is_found(folder, where, value):
    def change(manifest):
        *parents, last = where
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    before = (folder / "README.md").read_bytes()
    rewritten(folder, change)
    with pytest.raises(IntegrityError) as caught:
        refresh(str(folder))
    assert where[0] in str(caught.value)
    assert (folder / "README.md").read_bytes() == before


def test_texts_of_a_changed_manifest_are_texts_and_nothing_else(folder):
    evil = "<script>alert(1)</script> ![x](https://evil.example) {{ 7 * 7 }} <!-- keep -->"

    def change(manifest):
        manifest["family"] = manifest["roles"][0]["role"] = evil
        manifest["source"]["card"] |= {"license": evil, "tags": [evil, "chat"], "language": evil}

    rewritten(folder, change)
    refresh(str(folder))
    text = (folder / "README.md").read_text()
    assert "<!-- keep -->" not in text
    assert "\n- chat\n" in text
    page = MarkdownIt("commonmark", {"html": True}).render(text.split("\n---\n", 1)[1])
    assert "<script" not in page
    assert 'src="https://evil.example' not in page
    assert all(f'src="{path}"' in page for path in PICTURES if (folder / path).exists())


# ── repositories ─────────────────────────────────────────────────────────────────────────────


def test_a_card_that_is_right_is_not_committed_again(studio, published):
    log = studio.log(published)
    assert refresh(published).published is None
    assert studio.log(published) == log


def test_one_commit_brings_card_and_pictures(studio, published):
    tree = studio.tree(published)
    pictures = [path for path in PICTURES if path in tree]
    assert pictures
    studio.write(published, "README.md", f"---\nlicense: mit\n---\n{MINE}".encode())
    gone = [CommitOperationDelete(path) for path in pictures]
    studio.api.create_commit(published, gone, commit_message="no pictures")
    log = studio.log(published)
    done = refresh(published)
    assert done.changed == tuple(sorted(("README.md", *pictures)))
    assert done.published.commit == studio.log(published)[0].commit_id
    assert [commit.title for commit in studio.log(published)[: -len(log)]] == [TITLE]
    after = studio.tree(published)
    assert {path for path in tree if tree[path] != after[path]} == {"README.md"}
    assert MINE in studio.read(published, "README.md").decode()
    # The publish is still known for what it is: the same command has nothing to do.
    assert studio.convert(studio.source(), published).status == "up-to-date"


def test_pictures_of_an_earlier_publish_go_with_its_numbers(xet_studio, monkeypatch):
    studio, source, target = xet_studio, xet_studio.own_source(), xet_studio.name()
    studio.convert(source, target)
    assert set(PICTURES) <= set(studio.tree(target))
    monkeypatch.setattr(publish, "draw", lambda _: {})
    studio.write(source, "generation_config.json", b'{"top_k": 3}')
    assert studio.convert(source, target).status == "published"
    assert not set(PICTURES) & set(studio.tree(target))
    assert b"![" not in studio.read(target, "README.md")


def test_a_pull_request_is_opened_once(studio, published):
    before = studio.tree(published)
    studio.write(published, "README.md", b"---\nlicense: mit\n---\n# Mine\n")
    mine = studio.tree(published)
    done = refresh(published, create_pr=True)
    assert done.published.pull_request
    assert studio.tree(published) == mine
    assert studio.tree(published, f"refs/pr/{done.published.pull_request}") == before
    again = refresh(published, create_pr=True)
    assert again.published.pull_request == done.published.pull_request


def test_a_lost_answer_makes_no_second_commit(studio, published):
    studio.write(published, "README.md", b"---\nlicense: mit\n---\n# Mine\n")
    log = studio.log(published)
    studio.hub.faults.add(Rule("reset", "POST", r"/commit/", after=True))
    done = refresh(published)
    assert len(studio.log(published)) == len(log) + 1
    assert done.published.commit == studio.log(published)[0].commit_id


def test_what_somebody_commits_meanwhile_is_not_overwritten(studio, published, monkeypatch):
    from hubconv.hub.amending import Amending

    studio.write(published, "README.md", b"---\nlicense: mit\n---\n# Mine\n")
    send = Amending._send

    def late(self, *words):
        studio.write(published, "README.md", b"---\nlicense: mit\n---\n# Newer\n")
        return send(self, *words)

    monkeypatch.setattr(Amending, "_send", late)
    with pytest.raises(ConflictError, match="another commit"):
        refresh(published)
    assert studio.read(published, "README.md").endswith(b"# Newer\n")


def test_who_may_only_read_is_told_so(studio, published):
    studio.write(published, "README.md", b"---\nlicense: mit\n---\n# Mine\n")
    studio.hub.add_user("reader", "hf_reader", role="read")
    studio.token = "hf_reader"
    with pytest.raises(NotAllowedError):
        refresh(published)


def test_a_repository_that_is_not_there_is_told(studio):
    with pytest.raises(SourceError, match="does not exist"):
        refresh("demo/never-made")


def test_a_repository_of_others_is_left_alone(studio):
    repo = studio.name("other")
    studio.api.create_repo(repo)
    studio.api.create_commit(
        repo, [CommitOperationAdd("config.json", b"{}")], commit_message="theirs"
    )
    with pytest.raises(SourceError, match=r"holds no hubconv\.json"):
        refresh(repo)


def test_the_command_tells_what_it_did(lfs_studio):
    target = lfs_studio.name()
    lfs_studio.convert(lfs_studio.source(), target)
    assert lfs_studio.command("card", target).out == f"The card of {target} is up to date.\n"
    lfs_studio.write(target, "README.md", b"---\nlicense: mit\n---\n# Mine\n")
    told = lfs_studio.command("card", target, "--json").json
    assert (told["status"], told["changed"]) == ("published", ["README.md"])
    gone = lfs_studio.command("card", "demo/never-made", "--json")
    assert (gone.code, gone.json["exit_code"]) == (3, 3)
