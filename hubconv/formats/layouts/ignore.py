"""Which names in a configuration stand for which modules: few patterns, and none too wide.

Every loader asks for the modules of its own model, not for ours: `qkv_proj` where the file has q, k
and v, `mlp.experts` for a whole layer of experts. `lookups` gives all those names; `cover` finds
patterns that hit every wanted one and no forbidden one. Three shapes of pattern suffice, and each
means the same to fnmatch, to a regular expression and to a substring search:

    within   `.mlp.experts.`   stands somewhere in the name
    ending   `.mlp.gate`       the name ends so
    under    `mtp.`            the name begins so
    exact    `lm_head`         the name itself
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hubconv.errors import IntegrityError
from hubconv.formats.contract.names import aliases, moved, probed

Shape = Literal["within", "ending", "exact", "under"]

_ORDER: Final[tuple[Shape, ...]] = ("within", "ending", "exact", "under")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of a list of targets or of ignored modules.

    Attributes:
        shape: How `text` is to be found in a module's name.
        text: The words and dots to find.
    """

    shape: Shape
    text: str

    def hits(self, name: str) -> bool:
        """Whether it stands for the module `name`."""
        if self.shape == "within":
            return self.text in name
        if self.shape == "ending":
            return name.endswith(self.text)
        return name == self.text if self.shape == "exact" else name.startswith(self.text)

    @property
    def glob(self) -> str:
        """As ModelOpt writes it; the star keeps vLLM's substring rule from widening it."""
        return {
            "within": f"*{self.text}*",
            "ending": f"*{self.text}",
            "exact": self.text,
            "under": f"{self.text}*",
        }[self.shape]

    @property
    def regex(self) -> str:
        """As compressed-tensors writes it: an exact name, or `re:` and an expression.

        Every expression begins with `.*`, because vLLM renames modules but not expressions
        (vLLM 0.33 compressed_tensors.py:129-152). No alternation: the Hub's own reader of these
        lists knows only `.*`, `^`, `$` and escaped dots.
        """
        text = self.text.replace(".", r"\.")
        return {
            "within": f"re:.*{text}.*",
            "ending": f"re:.*{text}$",
            "exact": self.text,
            "under": f"re:.*{text}.*",
        }[self.shape]


def file_names(modules: Iterable[str]) -> list[str]:
    """The file's own names, where engines move them, and how SGLang asks for its experts."""
    found: dict[str, None] = {}
    for module in modules:
        for name in (module, *moved(module)):
            found[name] = None
            found.update(dict.fromkeys(probed(name)))
    return list(found)


def lookups(modules: Iterable[str]) -> list[str]:
    """Every name under which some engine may look up `modules`, the file's own among them."""
    found: dict[str, None] = {}
    for module in modules:
        for name in (module, *moved(module)):
            found[name] = None
            found.update(dict.fromkeys(aliases(name)))
    return list(found)


def cover(
    wanted: Sequence[str],
    forbidden: Sequence[str],
    too_wide: Callable[[Pattern], bool] = lambda _: False,
) -> list[Pattern]:
    """Patterns that hit every wanted name and no forbidden one, widest first.

    Args:
        wanted: Names to hit.
        forbidden: Names that must not be hit; none of them is wanted.
        too_wide: A further reason to reject a pattern, some loader's rule.

    Returns:
        In a fixed order, whatever the order of the names.

    Raises:
        IntegrityError: Two modules cannot be told apart by any loader's rule.
    """
    # One search in the joined text is as good as one per name, and a thousand times faster.
    text = "\n" + "\n".join(forbidden) + "\n"
    chosen: list[Pattern] = []
    open_names = sorted(wanted)
    for propose in (_top, _within, _under, _ending, _one_layer, _exact):
        judged: dict[Pattern, bool] = {}
        for name in open_names:
            if any(judged.get(p) for p in propose(name)):
                continue
            for pattern in propose(name):
                if pattern not in judged:
                    judged[pattern] = not _in_text(pattern, text) and not too_wide(pattern)
                if judged[pattern]:
                    break
        accepted = [pattern for pattern, fits in judged.items() if fits]
        open_names = [n for n in open_names if not any(p.hits(n) for p in accepted)]
        chosen += accepted
    if open_names:
        raise IntegrityError(
            f"No entry of an ignore list can stand for {open_names[0]} and not for another module."
        )
    return sorted(chosen, key=lambda pattern: (_ORDER.index(pattern.shape), pattern.text))


def _in_text(pattern: Pattern, text: str) -> bool:
    """Whether some loader would find the pattern in the text; rather once too often.

    A name without a star is a substring to vLLM (0.33 modelopt.py:202-214), and the expression for
    `under` may match further inside.
    """
    return (f"{pattern.text}\n" if pattern.shape == "ending" else pattern.text) in text


def _split(name: str) -> tuple[list[str], list[str]]:
    """(up to the first number, after it): the layer, and what stands in it."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return parts[: first + 1], parts[first + 1 :]


def _words(parts: Sequence[str]) -> list[str]:
    """The leading parts that are no numbers."""
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return list(parts[:first])


def _top(name: str) -> list[Pattern]:
    return [] if "." in name else [Pattern("exact", name)]


def _within(name: str) -> list[Pattern]:
    words = _words(_split(name)[1][:-1])
    return [Pattern("within", f".{'.'.join(words[:n])}.") for n in range(1, len(words) + 1)]


def _under(name: str) -> list[Pattern]:
    first, dot, _ = name.partition(".")
    return [Pattern("under", first + dot)] if dot else []


def _ending(name: str) -> list[Pattern]:
    inside = _split(name)[1]
    words = list(reversed(_words(inside[::-1])))
    return [Pattern("ending", f".{'.'.join(words)}")] if words else []


def _one_layer(name: str) -> list[Pattern]:
    outside, inside = _split(name)
    if not outside[-1].isdigit() or len(outside) < 2:
        return []
    if len(outside) == 2:  # mtp.0: no dot before it
        return [Pattern("under", f"{outside[0]}.{outside[1]}.")]
    layer = f".{outside[-2]}.{outside[-1]}."
    words = _words(inside[:-1])
    kinds = [f"{layer}{'.'.join(words[:n])}." for n in range(1, len(words) + 1)]
    return [Pattern("within", text) for text in (layer, *kinds)]


def _exact(name: str) -> list[Pattern]:
    _, dot, rest = name.partition(".")
    shorter = [Pattern("ending", dot + rest)] if dot else []
    # The whole name as an ending: with a star before it, it is no substring to vLLM.
    return [*shorter, Pattern("exact", name), Pattern("ending", name)]
