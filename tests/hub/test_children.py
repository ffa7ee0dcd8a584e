"""How child processes are started: what they are given, and what they are not."""

import json
import os
import subprocess
import sys

import pytest

from hubconv.hub import children


@pytest.mark.parametrize(
    ("given", "both"),
    [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"no_proxy": "a.b"}, ("a.b,127.0.0.1", "a.b,127.0.0.1")),
        ({"NO_PROXY": "A", "no_proxy": "b"}, ("A,127.0.0.1", "b,127.0.0.1")),
        ({"NO_PROXY": "*"}, ("*", "*")),
    ],
)
def test_a_child_asks_us_for_tokens_by_no_proxy(monkeypatch, tmp_path, given, both):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    made = children._environment(tmp_path)
    assert (made["NO_PROXY"], made["no_proxy"]) == both


def test_an_order_of_somebody_else_is_none():
    stranger = json.dumps({"parent": os.getpid(), "engine": "http"}).encode() + b"\n"
    # In a process of its own: whoever reads an order dies with its parent from then on.
    program = f"""
import io
from hubconv.hub.childhood import order_of_parent
for line in ({stranger!r}, b"", b'{{"parent": 1}}'):
    print("order" if order_of_parent(io.BytesIO(line)) else "none")
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["order", "none", "none"]


def test_a_child_is_ended_whatever_it_does(tmp_path):
    with (tmp_path / "said").open("wb") as said:
        process = children.start("hubconv.hub.uploading.xet_child", tmp_path, said)
    assert process.poll() is None  # it waits for its order
    children.end(process)
    assert process.returncode is not None
    assert process.stdin.closed
    assert process.stdout.closed
    children.end(process)


def test_an_order_names_its_parent_and_fills_one_line():
    (line,) = children.told({"url": "x"}).splitlines()
    assert json.loads(line) == {"url": "x", "parent": os.getpid()}
