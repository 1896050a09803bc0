"""Which paragraphs of a text are new and which are gone, for change handlers and for people.

In time O(n log n) whatever the texts are: the k-th occurrence of a paragraph in the old text belongs to the k-th in the
new one, and the longest run of such pairs that are in the same order in both is what was kept. Where no paragraph
occurs twice this is exactly the longest common subsequence, which the standard library's `difflib` takes quadratic
time for.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from nightmill.contracts import ParagraphDiff
from nightmill.documents.fingerprint import normalized, words_of_markdown

MAX_POSITIONS = 100
"""Positions that a diff names; the numbers count all."""

MAX_WORDS = 1_000
"""A paragraph with more words is shown as a whole, before and after."""

_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_OWN_LINE = re.compile(r"[ \t]*(?:[-+*•][ \t]|\d{1,9}[.)][ \t]|\||#{1,6}[ \t]|>)")
_WORD = re.compile(r"\S+")

_SIMILAR = 0.4
"""Words in common, at least, of two paragraphs that are shown as one."""


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text in order: blocks between blank lines, items of lists, rows of tables, code."""
    found: list[str] = []
    block: list[str] = []
    fenced = False
    for line in text.splitlines():
        fence = _FENCE.match(line) is not None
        starts = not fenced and (fence or not line.strip() or _OWN_LINE.match(line) is not None)
        if starts and block:
            found.append("\n".join(block))
            block = []
        if line.strip() or fenced:
            block.append(line)
        if fence:
            fenced = not fenced
            if not fenced:
                found.append("\n".join(block))
                block = []
    if block:
        found.append("\n".join(block))
    return found


def compare(old: str | None, new: str) -> ParagraphDiff:
    """Return how many paragraphs are new, gone and kept, and where; a moved one is both new and gone.

    Paragraphs are the same where the fingerprint would call them the same. Those without a word are left out.
    """
    before, after = _keyed(paragraphs(old or "")), _keyed(paragraphs(new))
    kept = _matches([key for _, key in before], [key for _, key in after])
    kept_before, kept_after = {first for first, _ in kept}, {second for _, second in kept}
    removed = [at for index, (at, _) in enumerate(before) if index not in kept_before]
    added = [at for index, (at, _) in enumerate(after) if index not in kept_after]
    return ParagraphDiff(
        added=len(added),
        removed=len(removed),
        kept=len(kept),
        added_at=tuple(added[:MAX_POSITIONS]),
        removed_at=tuple(removed[:MAX_POSITIONS]),
    )


def shown(old: str | None, new: str, *, context: int = 1) -> Iterator[str]:
    """Yield lines for people; the first two characters say what each is.

    `"- "` is gone, `"+ "` is new, `"~ "` is a paragraph with words `[-gone-]` and `{+new+}`, `"  "` is the same as
    before, `"@@"` says how many same paragraphs are left out. Nothing comes out when the texts are the same.

    Args:
        old: The text before, if there was one.
        new: The text now.
        context: How many unchanged paragraphs are shown around each change.
    """
    before, after = paragraphs(old or ""), paragraphs(new)
    keyed_before, keyed_after = _keyed(before), _keyed(after)
    pairs = _matches([key for _, key in keyed_before], [key for _, key in keyed_after])
    waiting: list[str] = []  # kept paragraphs, of which only the nearest are shown
    changed_before = False
    i = j = 0
    for kept_i, kept_j in [*pairs, (len(keyed_before), len(keyed_after))]:
        gone = [before[at] for at, _ in keyed_before[i:kept_i]]
        come = [after[at] for at, _ in keyed_after[j:kept_j]]
        if gone or come:
            yield from _around(waiting, context, changed_before)
            yield from _changes(gone, come)
            waiting, changed_before = [], True
        if kept_j < len(keyed_after):
            waiting.append(after[keyed_after[kept_j][0]])
        i, j = kept_i + 1, kept_j + 1
    if changed_before:
        yield from (_marked("  ", text) for text in waiting[:context])
        if len(waiting) > context:
            yield f"@@ {len(waiting) - context} unchanged"


def _around(waiting: Sequence[str], context: int, changed_before: bool) -> Iterator[str]:
    first = context if changed_before else 0
    left_out = len(waiting) - first - context
    if left_out <= 0:
        yield from (_marked("  ", text) for text in waiting)
        return
    yield from (_marked("  ", text) for text in waiting[:first])
    yield f"@@ {left_out} unchanged"
    yield from (_marked("  ", text) for text in waiting[len(waiting) - context :])


def _changes(gone: Sequence[str], come: Sequence[str]) -> Iterator[str]:
    if len(gone) != len(come):
        yield from (_marked("- ", text) for text in gone)
        yield from (_marked("+ ", text) for text in come)
        return
    for old, new in zip(gone, come, strict=True):
        together = _in_one(old, new)
        if together is not None:
            yield _marked("~ ", together)
        else:
            yield _marked("- ", old)
            yield _marked("+ ", new)


def _in_one(old: str, new: str) -> str | None:
    """Return both texts in one, with their words marked, where they have enough in common."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    if max(len(before), len(after)) > MAX_WORDS:
        return None
    pairs = _matches([normalized(word) or word for word in before], [normalized(word) or word for word in after])
    if len(pairs) < _SIMILAR * max(len(before), len(after)):
        return None
    words: list[str] = []
    i = j = 0
    for kept_i, kept_j in [*pairs, (len(before), len(after))]:
        if i < kept_i:
            words.append(f"[-{' '.join(before[i:kept_i])}-]")
        if j < kept_j:
            words.append(f"{{+{' '.join(after[j:kept_j])}+}}")
        if kept_j < len(after):
            words.append(after[kept_j])
        i, j = kept_i + 1, kept_j + 1
    return " ".join(words)


def _marked(mark: str, text: str) -> str:
    """Put a paragraph on one line; what would steer a terminal is taken out."""
    return mark + "".join(c for c in " ".join(text.split()) if c.isprintable())


def _keyed(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Return position and key of each paragraph that says something."""
    return [(at, key) for at, text in enumerate(texts) if (key := normalized(words_of_markdown(text)))]


def _matches(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Return index pairs of what is in both, ascending in both, as many as can be found."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    places: defaultdict[str, list[int]] = defaultdict(list)
    for j in range(len(after) - end - 1, start - 1, -1):
        places[after[j]].append(j)
    candidates = [(i, places[before[i]].pop()) for i in range(start, len(before) - end) if places.get(before[i])]
    return [
        *((k, k) for k in range(start)),
        *_longest_ascending(candidates),
        *((len(before) - k, len(after) - k) for k in range(end, 0, -1)),
    ]


def _longest_ascending(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest part of `pairs`, which ascend in the first number, that ascends in the second one, too."""
    tails: list[int] = []  # the least second number at which an ascent of this length ends
    ends: list[int] = []  # and whose pair that is
    previous: list[int] = []
    for index, (_, second) in enumerate(pairs):
        length = bisect_left(tails, second)
        previous.append(ends[length - 1] if length else -1)
        tails[length : length + 1] = [second]
        ends[length : length + 1] = [index]
    found: list[tuple[int, int]] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        found.append(pairs[index])
        index = previous[index]
    return found[::-1]
