"""Pictures: the same numbers the same bytes, every name whole, nothing where there is nothing."""

import io
import os
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from test_card import FACTS, V4_FACTS, moe_in_compressed_tensors, role, v4_from_mxfp4

from hubconv.card import PICTURES, draw, pictures, render_card, shown

ERROR, BYTES = PICTURES
HOSTILE = r"$\frac{a}{b}$ ![x](https://evil.example) <img src=x>"


def rows(roles, layers):
    return [
        {"layer": layer, "role": name, "weights": 2, "relative_error": 0.08 + 0.01 * at}
        for layer in layers
        for at, name in enumerate(roles)
    ]


def pixels(png):
    """[height, width, 4] of a picture."""
    image = pytest.importorskip("matplotlib.image")
    return image.imread(io.BytesIO(png))


def test_every_picture_is_a_png_of_the_width_of_a_card():
    drawn = draw(moe_in_compressed_tensors())
    assert set(drawn) == {ERROR, BYTES}
    for png in drawn.values():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert pixels(png).shape[1] == 1440
        assert len(png) < 200_000


def test_the_background_is_opaque_and_light_so_that_dark_pages_show_it_too():
    for png in draw(moe_in_compressed_tensors()).values():
        shown = pixels(png)
        assert (shown[..., 3] == 1).all()
        assert (shown[0, :, :3] > 0.95).all()


def test_the_same_numbers_give_the_same_bytes_in_any_surroundings(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests');"
        "from test_card import moe_in_compressed_tensors;"
        "from hubconv.card import draw; import zlib;"
        "print([zlib.crc32(png) for png in draw(moe_in_compressed_tensors()).values()])"
    )
    (tmp_path / "matplotlibrc").write_text("font.size: 40\naxes.facecolor: red\nsavefig.dpi: 30\n")
    odd = {"MPLBACKEND": "svg", "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | odd,
        capture_output=True,
        text=True,
        check=True,
    )
    mine = [zlib.crc32(png) for png in draw(moe_in_compressed_tensors()).values()]
    assert done.stdout.strip() == str(mine)


def test_drawing_leaves_the_settings_of_its_surroundings_alone():
    mpl = pytest.importorskip("matplotlib")
    before = dict(mpl.rcParams)
    draw(moe_in_compressed_tensors())
    assert dict(mpl.rcParams) == before


def test_other_numbers_give_another_picture():
    report = moe_in_compressed_tensors()
    other = report | {"by_layer_and_role": rows(["routed_expert"], ["3", "4"])}
    assert draw(report)[ERROR] != draw(other)[ERROR]
    assert draw(report)[BYTES] == draw(other)[BYTES]


def test_nothing_is_cut_off_or_touches_the_edge():
    """A rim of background all around, however long names are and many layers and roles."""
    report = moe_in_compressed_tensors()
    report["by_layer_and_role"] = rows(
        [
            "routed_expert",
            "shared_expert",
            "linear_attention",
            "a_role_of_a_long_name",
            "mtp_expert",
        ],
        [*map(str, range(93)), "mtp.0", "outside the layers"],
    )
    report["roles"] = [role(f"role_number_{n}_with_a_name", "keep", "BF16", "BF16", 1, 9, 9)
                       for n in range(12)]  # fmt: skip
    alone = report | {"by_layer_and_role": rows(["a_role_of_26_letters_and_no"], ["0", "1"])}
    for png in (*draw(report).values(), *draw(alone).values()):
        shown = pixels(png)[..., :3]
        for rim in (shown[:6], shown[-6:], shown[:, :6], shown[:, -6:]):
            assert np.all(rim > 0.99)


def test_exact_weights_have_no_picture_of_zeros():
    assert set(draw(v4_from_mxfp4())) == {BYTES}
    assert shown(v4_from_mxfp4(), PICTURES)["error"] is None


def test_before_anything_is_measured_there_is_no_error_to_draw():
    report = moe_in_compressed_tensors() | {"by_layer_and_role": []}
    assert set(draw(report)) == {BYTES}


def test_without_matplotlib_there_are_no_pictures_and_no_word_of_them(monkeypatch):
    for name in [*(n for n in sys.modules if n.split(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert draw(moe_in_compressed_tensors()) == {}
    text = render_card(FACTS)
    assert "![" not in text
    assert "assets" not in text


def test_a_card_shows_its_pictures_with_words_for_those_who_do_not_see_them():
    text = render_card(replace(FACTS, pictures=frozenset(PICTURES)))

    assert "![Relative error by layer: routed_expert from 0.0800 to 0.0834.]" in text
    assert "all weights 688 GB and 400 GB; routed_expert 654 GB and 368 GB" in text
    assert f"]({ERROR})" in text
    assert f"]({BYTES})" in text
    assert f"]({ERROR})" not in render_card(replace(V4_FACTS, pictures=frozenset(PICTURES)))


def test_a_name_in_a_picture_is_a_name():
    report = moe_in_compressed_tensors()
    report["by_layer_and_role"] = rows([HOSTILE], ["0", HOSTILE])
    report["roles"] = [role(HOSTILE, "nvfp4", "BF16", "NVFP4", 1, 2, 1)]
    assert set(draw(report)) == {ERROR, BYTES}  # no formula that cannot be read stops the drawing
    facts = replace(FACTS, report=report, pictures=frozenset(PICTURES))
    page = MarkdownIt("commonmark", {"html": True}).render(
        render_card(facts).split("\n---\n", 1)[1]
    )
    assert page.count("<img ") == 2
    assert "<img src=x" not in page
    assert 'src="https://evil.example' not in page


def test_a_long_name_leaves_room_for_what_it_names(recwarn):
    report = moe_in_compressed_tensors()
    report["by_layer_and_role"] = rows(["a" * 300, "b" * 300], ["0", "c" * 300])
    report["roles"] = [role("d" * 300, "nvfp4", "BF16", "NVFP4", 1, 2, 1)]
    assert set(draw(report)) == {ERROR, BYTES}
    assert not list(recwarn)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([str(n) for n in range(4)], ["0", "1", "2", "3"]),
        ([str(n) for n in range(3, 61)], ["10", "20", "30", "40", "50", "60"]),
        ([*(str(n) for n in range(61)), "mtp.0"], ["0", "10", "20", "30", "40", "50", "mtp.0"]),
        (["outside the layers"], ["outside the layers"]),
        ([str(n) for n in range(3, 95, 4)], None),
    ],
)
def test_layers_are_named_evenly_and_not_too_often(layers, named):
    ticks = pictures._ticks(layers)
    assert 1 <= len(ticks) <= 12
    assert named is None or [layers[at] for at in ticks] == named


@pytest.mark.parametrize(
    ("errors", "bottom"),
    [([0.08, 0.082, 0.079], 0.75 * 0.082), ([0.0, 0.08], 0.0), ([0.04, 0.08], 0.0), ([0.1], 0.075)],
)
def test_an_axis_begins_at_zero_unless_all_errors_are_near_each_other(errors, bottom):
    low, high = pictures._span(errors)
    assert low == pytest.approx(bottom)
    assert all(low < error < high or error == low == 0 for error in errors)


def test_of_equal_errors_every_role_is_seen():
    """Each drawn over the one before, finer: its colour is found around the next."""
    report = moe_in_compressed_tensors()
    names = ["one", "two", "three"]
    report["by_layer_and_role"] = [
        {"layer": layer, "role": name, "weights": 1, "relative_error": 0.08}
        for layer in ("0", "1")
        for name in names
    ]
    found = pixels(draw(report)[ERROR])[:400]  # above the legend
    for colour in pictures.LINES[: len(names)]:
        wanted = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        assert (np.abs(found[..., :3] - wanted).max(-1) < 0.02).sum() > 50


def test_small_roles_are_told_together():
    report = moe_in_compressed_tensors()
    report["roles"] += [role(f"small_{n}", "keep", "BF16", "BF16", 1, 5, 5) for n in range(4)]
    bars = pictures._bars(report)
    assert bars[0] == ("all weights", 688 * 10**9, 400 * 10**9)
    assert bars[-1][0] == "4 other roles"
    assert len(bars) == 1 + pictures.MOST_ROLES
    sums = [sum(row[f"bytes_{end}"] for row in report["roles"]) for end in ("before", "after")]
    assert [sum(bar[at] for bar in bars[1:]) for at in (1, 2)] == sums
