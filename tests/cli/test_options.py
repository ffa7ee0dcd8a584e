"""What a person may write for a rate, a latency and a slice; and a recipe as options."""

import click
import pytest
from click.testing import CliRunner

from hubconv.cli.hub import hub
from hubconv.cli.options import recipe_from, recipe_options, recipe_words
from hubconv.cli.types import Latency, Part, Rate
from hubconv.pipeline import Slice
from hubconv.steps.decide import Recipe


@pytest.mark.parametrize(
    ("text", "rate"), [("50MB/s", 50_000_000), ("1.5 GiB/s", 1_610_612_736), ("200KB", 200_000)]
)
def test_a_rate_is_a_size_with_or_without_its_second(text, rate):
    assert Rate().convert(text, None, None) == rate


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), ("0ms", 0.0)])
def test_a_latency_names_its_unit(text, seconds):
    assert Latency().convert(text, None, None) == seconds


@pytest.mark.parametrize("wrong", [(Rate(), "fast"), (Rate(), "0MB/s"), (Latency(), "20")])
def test_anything_else_is_refused(wrong):
    kind, text = wrong
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_the_embedded_hub_is_served_behind_the_line_asked_for(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(
        "hubconv.embedded.serve", lambda *words, **more: served.append(more["rate"]), raising=False
    )
    words = ["--root", str(tmp_path), "--rate", "50MB/s", "--latency", "20ms"]
    assert CliRunner().invoke(hub, words).exit_code == 0
    assert CliRunner().invoke(hub, words[:2]).exit_code == 0
    assert (served[0].bytes_per_s, served[0].latency_s) == (50e6, 0.02)
    assert served[1] is None


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(
            layout="modelopt", policy="linears", activations="w4a4", scales="amax", mtp="drop",
            keep=("a b", "c|d"), quantize=("e f", r"g\.h"), input_scale=0.5,
            input_scales_from="maker/model@main", max_shard_bytes=5 * 10**9, allow_flushed=True,
        ),
    ],
    ids=["plain", "everything"],
)  # fmt: skip
def test_the_words_of_a_recipe_ask_for_it(recipe):
    asked = []

    @click.command()
    @recipe_options
    def command(**values):
        asked.append(recipe_from(values))

    command.main(recipe_words(recipe), standalone_mode=False)
    assert asked == [recipe]


def test_a_slice_is_a_number_of_a_number():
    assert Part().convert("3/16", None, None) == Slice(3, 16)
    for wrong in ("3", "3/", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(click.BadParameter, match="3/16"):
            Part().convert(wrong, None, None)
