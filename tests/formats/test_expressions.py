"""Expressions of strangers: what `re` says, and an end to those that would never end."""

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubconv.errors import IntegrityError
from hubconv.formats.contract import expressions
from hubconv.formats.contract.ct_rules import matches
from hubconv.formats.contract.expressions import compiled
from hubconv.formats.contract.modelopt_rules import sglang_modelopt_excluded

NAME = "model.layers.33.mlp.experts.155.gate_proj"
SEEN = [
    r".*\.experts\..*",
    r".*mlp\.(gate|up|gate_up|down)_proj.*",
    r"^model\.layers\.(?:[0-9]|[1-9][0-9])\.self_attn.*",
    r"model.*layers.*.*experts.*",
    r".*layers\.(0|1|2)\..*\..*_proj$",
    r"(model\.)*layers\.\d+.*",
    r"(?i).*LM_HEAD.*|.*Experts.*(gate|up)_proj.*$",
    r"[.*+{]+x",
]


@pytest.mark.parametrize("expression", SEEN)
@pytest.mark.parametrize(
    "name", [NAME, "model.layers.7.self_attn.q_proj", "layers.2.ffn.w1", "lm_head"]
)
def test_it_says_what_re_says(expression, name):
    theirs, ours = re.compile(expression), compiled(expression)
    assert bool(ours.match(name)) == bool(theirs.match(name))
    assert bool(ours.fullmatch(name)) == bool(theirs.fullmatch(name))


PIECES = st.sampled_from(["a", "b", ".", r"\.", "a*", ".*", "[ab]+", "(a|b)*", "b{1,3}", "(?:ab)?"])


@settings(derandomize=True, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join), st.text("ab.", max_size=12))
def test_it_says_what_re_says_of_anything(expression, name):
    theirs, ours = re.compile(expression), compiled(expression)
    assert bool(ours.match(name)) == bool(theirs.match(name))
    assert bool(ours.fullmatch(name)) == bool(theirs.fullmatch(name))


@pytest.mark.parametrize("expression", ["(", "a{2,1}", "*", r"(?P<a>x)(?P<a>y)", "[", "(" * 5000])
def test_what_is_not_valid_matches_nothing(expression):
    assert compiled(expression).match("x") is None


@pytest.mark.parametrize(
    "expression", [r"((\w|\w\w)+)+[!?]c", r"(a|aa)*(a|aa)*[!?]", "(?:(?:a|aa)+)+[!?]"]
)
def test_one_that_would_never_end_is_ended(expression, monkeypatch):
    monkeypatch.setattr(expressions, "PATIENCE_S", 0.2)
    compiled.cache_clear()
    started = time.perf_counter()
    with pytest.raises(IntegrityError, match="repeats within repeats") as ended:
        matches("a" * 60 + "c", f"re:{expression}")
    assert ended.value.exit_code == 7
    assert time.perf_counter() - started < 10
    compiled.cache_clear()


def test_the_patience_is_for_all_names_together(monkeypatch):
    monkeypatch.setattr(expressions, "PATIENCE_S", 1.0)
    compiled.cache_clear()
    slow = compiled(r"((a|aa)+)+[!?]")
    asked = []

    def ask_on():
        while len(asked) < 100_000:
            slow.match("a" * 13)  # two thousandths of a second each
            asked.append(1)

    with pytest.raises(IntegrityError):
        ask_on()
    assert asked
    compiled.cache_clear()


@pytest.mark.parametrize("expression", ["(a|a)" * 60 + "[!?]c", "a?" * 60 + "a" * 60 + "[!?]c"])
def test_choices_without_a_repeat_are_patient_too(expression, monkeypatch):
    """By `re` there are as many ways to try as atoms in the universe."""
    monkeypatch.setattr(expressions, "PATIENCE_S", 0.2)
    compiled.cache_clear()
    with contextlib.suppress(IntegrityError):  # the library may see that none of them leads on
        assert compiled(expression).match("a" * 100 + "c") is None
    compiled.cache_clear()


def test_stars_of_an_ignore_list_are_patient_too():
    """By `re` this takes hours: a dozen stars, each of which may end anywhere."""
    assert not sglang_modelopt_excluded("a" * 60 + "cd", ["*a" * 12 + "[!b]d"])
