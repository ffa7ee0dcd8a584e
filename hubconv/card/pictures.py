"""Two pictures beside the card: error by layer and role, bytes before and after by role.

Drawn by matplotlib where it is installed (extra `plots`); without it there are none. The same
numbers give the same bytes: nothing of the machine, the user's settings or the time comes in.
"""

import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from hubconv.card.markup import error_figure, inert
from hubconv.progress import printable
from hubconv.quantities import human_bytes

ERROR_PICTURE: Final = "assets/hubconv-error.png"
BYTES_PICTURE: Final = "assets/hubconv-bytes.png"
PICTURES: Final = (ERROR_PICTURE, BYTES_PICTURE)

WIDTH_IN: Final = 6.4
DPI: Final = 225
"""Twice the width of a card's column, so that it is sharp there and on a phone."""

MOST_ROLES: Final = 6
MOST_LETTERS: Final = 26
"""Of a name in a picture: a longer one would leave no room for what it names."""

BEFORE: Final = "#9A9A9A"
AFTER: Final = "#0072B2"
LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by every kind of eye; markers say the same once more."""

MARKERS: Final = "osD^vPX"

_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 11.5,
    "text.parse_math": False,  # names are names, not formulas
    "text.color": "#1F2328",
    "axes.labelcolor": "#1F2328",
    "axes.edgecolor": "#8C959F",
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#1F2328",
    "ytick.color": "#1F2328",
    "grid.color": "#D8DEE4",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "figure.facecolor": "#FFFFFF",  # opaque: a card is read on white and on black pages
    "axes.facecolor": "#FFFFFF",
    "savefig.facecolor": "#FFFFFF",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a template shows it.

    Attributes:
        path: Where it lies, from the card.
        alt: What it shows, for those who do not see it; inert.
    """

    path: str
    alt: Markup


def shown(report: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Picture | None]:
    """The pictures that a card may show, under `error` and `bytes`; None for what there is not.

    Args:
        report: The report's plain values.
        paths: Pictures that stand beside the card.
    """
    there = set(paths)
    error = ERROR_PICTURE in there and _has_errors(report)
    sizes = BYTES_PICTURE in there and report["roles"]
    return {
        "error": Picture(ERROR_PICTURE, inert(_error_words(report))) if error else None,
        "bytes": Picture(BYTES_PICTURE, inert(_bytes_words(report))) if sizes else None,
    }


def load() -> bool:
    """Import what draws, which takes half a second; whether it is there."""
    try:
        for name in ("matplotlib.backends.backend_agg", "matplotlib.figure"):
            importlib.import_module(name)
    except ImportError:
        return False
    return True


def draw(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Path to PNG of every picture that has something to show; none without matplotlib.

    Args:
        report: The report's plain values.
    """
    if not load():
        return {}
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {}
    with mpl.rc_context():
        mpl.rcdefaults()  # the user's own settings are for the user's own pictures
        mpl.rcParams.update(_STYLE)
        if _has_errors(report):
            drawn[ERROR_PICTURE] = _png(_draw_errors(Figure(), report), FigureCanvasAgg)
        if report["roles"]:
            drawn[BYTES_PICTURE] = _png(_draw_bytes(Figure(), report), FigureCanvasAgg)
    return drawn


def _png(figure: Any, canvas: Any) -> bytes:  # noqa: ANN401 - matplotlib need not be there
    out = io.BytesIO()
    canvas(figure)
    # Without its own name and version in the file, the same drawing is the same bytes.
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


# ── error by layer and role ──────────────────────────────────────────────────────────────────


def _has_errors(report: Mapping[str, Any]) -> bool:
    """Whether there is an error to show: one of zeros is told better in words."""
    return any(row["relative_error"] for row in report["by_layer_and_role"])


def _error_words(report: Mapping[str, Any]) -> str:
    """Such as: Relative error by layer: routed_expert from 0.0795 to 0.0834."""
    spans = []
    for role, rows in _by_role(report).items():
        errors = [row["relative_error"] for row in rows]
        low, high = error_figure(min(errors)), error_figure(max(errors))
        spans.append(f"{role} {low}" if low == high else f"{role} from {low} to {high}")
    return f"Relative error by layer: {'; '.join(spans)}."


def _by_role(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    roles: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["by_layer_and_role"]:
        roles.setdefault(_short(row["role"]), []).append(row)
    return roles


def _draw_errors(figure: Any, report: Mapping[str, Any]) -> Any:  # noqa: ANN401
    roles = _by_role(report)
    layers = list(dict.fromkeys(row["layer"] for row in report["by_layer_and_role"]))
    rows_of_names = -(-len(roles) // 3) if len(roles) > 1 else 0
    figure.set_size_inches(WIDTH_IN, 3.2 + 0.27 * rows_of_names)
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.12)
    axes = figure.add_subplot()
    for number, (role, rows) in enumerate(roles.items()):
        errors = [
            (layers.index(row["layer"]), row["relative_error"], row["layer"].isdigit())
            for row in rows
        ]
        look = _look(number, len(roles), len(layers))
        axes.plot(*_points(errors, numbered=True), label=role, **look)
        # What is no layer of the stack is not joined to the last one.
        axes.plot(*_points(errors, numbered=False), **{**look, "linestyle": "none"})
    bottom, top = _span([row["relative_error"] for row in report["by_layer_and_role"]])
    only = f": {next(iter(roles))}" if len(roles) == 1 else ""
    axes.set_title(f"Relative error by layer{only}")
    axes.set_ylim(bottom, top)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    ticks = _ticks(layers)
    axes.set_xticks(ticks, [_layer_words(layers[at]) for at in ticks])
    axes.set_xlabel(f"layer{f' (error axis begins at {error_figure(bottom)})' if bottom else ''}")
    axes.set_ylabel("‖here \N{MINUS SIGN} source‖ / ‖source‖")
    axes.grid(axis="y")
    if rows_of_names:
        figure.legend(loc="outside lower left", ncols=3, handlelength=1.6, columnspacing=1.4)
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def _span(errors: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: from zero, or where all errors are near each other from close below them.

    Roles often differ by a few hundredths of their error, which an axis from zero would hide.
    """
    largest = max(errors)
    bottom = 0.75 * largest if min(errors) >= 0.8 * largest else 0.0
    return bottom, largest + 0.08 * (largest - bottom)


def _look(number: int, roles: int, layers: int) -> dict[str, Any]:
    """How a role is drawn; later ones finer, so that no line hides another that is equal."""
    largest = 8 if layers <= 40 else 6
    return {
        "color": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": largest * (1 - 0.5 * number / max(roles - 1, 1)) if roles > 1 else 5,
        "linewidth": 2.4 - 1.4 * number / max(roles - 1, 1) if roles > 1 else 1.4,
    }


def _points(
    errors: Iterable[tuple[int, float, bool]], *, numbered: bool
) -> tuple[list[int], list[float]]:
    chosen = [(at, error) for at, error, is_numbered in errors if is_numbered is numbered]
    return [at for at, _ in chosen], [error for _, error in chosen]


def _layer_words(layer: str) -> str:
    return "other" if layer == "outside the layers" else _short(layer)


def _ticks(layers: Sequence[str], most: int = 10) -> list[int]:
    """Which layers are named on the axis: evenly, and those without a number always."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if len(layers) <= s * most)
    named = [at for at, layer in enumerate(layers) if not layer.isdigit()]
    room = [
        at
        for at, layer in enumerate(layers)
        if layer.isdigit()
        and int(layer) % step == 0
        and all(abs(at - other) >= 0.8 * step for other in named)
    ]
    return sorted([*room, *named]) or list(range(0, len(layers), step))


# ── bytes before and after by role ───────────────────────────────────────────────────────────


def _bytes_words(report: Mapping[str, Any]) -> str:
    """Such as: Bytes by role, in the source and here: all weights 688 GB and 400 GB; ..."""
    told = [
        f"{name} {human_bytes(before)} and {human_bytes(after)}"
        for name, before, after in _bars(report)
    ]
    return f"Bytes by role, in the source and here: {'; '.join(told)}."


def _bars(report: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(name, bytes before, bytes here): everything, then the largest roles, then the rest."""
    sums: dict[str, tuple[int, int]] = {}
    for row in report["roles"]:
        before, after = sums.get(row["role"], (0, 0))
        sums[row["role"]] = (before + row["bytes_before"], after + row["bytes_after"])
    ranked = sorted(sums.items(), key=lambda item: (-max(item[1]), item[0]))
    most = MOST_ROLES if len(ranked) <= MOST_ROLES else MOST_ROLES - 1
    bars = [("all weights", report["bytes_before"], report["bytes_after"])]
    bars += [(_short(role), *sizes) for role, sizes in ranked[:most]]
    if rest := [sizes for _, sizes in ranked[most:]]:
        before, after = (sum(sizes) for sizes in zip(*rest, strict=True))
        bars.append((f"{len(rest)} other roles", before, after))
    return bars


def _draw_bytes(figure: Any, report: Mapping[str, Any]) -> Any:  # noqa: ANN401
    bars = _bars(report)
    figure.set_size_inches(WIDTH_IN, 0.95 + 0.54 * len(bars))
    figure.set_layout_engine("constrained", w_pad=0.14, h_pad=0.12)
    axes = figure.add_subplot()
    largest = max(max(before, after) for _, before, after in bars) or 1
    for at, (_, before, after) in enumerate(bars):
        for size, place, colour in ((before, at - 0.2, BEFORE), (after, at + 0.2, AFTER)):
            axes.barh(place, size / largest, height=0.37, color=colour)
            axes.annotate(
                human_bytes(size), (size / largest, place), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=10.5,
            )  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.tick_params(left=False)
    axes.set_ylim(len(bars) - 0.45, -0.55)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title("Bytes by role")
    axes.legend(
        handles=[_patch(BEFORE, "source"), _patch(AFTER, "here")],
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1.2,
    )  # fmt: skip
    return figure


def _patch(colour: str, name: str) -> Any:  # noqa: ANN401
    from matplotlib.patches import Patch

    return Patch(color=colour, label=name)
