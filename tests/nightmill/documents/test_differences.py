from __future__ import annotations

import random
import time

from nightmill.contracts import ParagraphDiff
from nightmill.documents.differences import compare, paragraphs, shown

OLD = "# Title\n\nFirst text.\n\n- one\n- two\n\nLast text."


def test_paragraphs_are_blocks_items_rows_and_code() -> None:
    text = "# Title\nText that\nis wrapped.\n\n\n- one\n- two\n\n| a | b |\n| 1 | 2 |\n\n```\nx\n\ny\n```\nEnd."
    assert paragraphs(text) == [
        "# Title\nText that\nis wrapped.",
        "- one",
        "- two",
        "| a | b |",
        "| 1 | 2 |",
        "```\nx\n\ny\n```",
        "End.",
    ]
    assert paragraphs("") == paragraphs("\n \n") == []


def test_the_first_text_is_all_new() -> None:
    assert compare(None, OLD) == ParagraphDiff(added=5, added_at=(0, 1, 2, 3, 4))


def test_what_the_fingerprint_calls_the_same_is_kept() -> None:
    assert compare(OLD, OLD.replace("First text.", "FIRST   text!").replace("- one", "* [one](/x?1)")).kept == 5


def test_new_gone_and_kept_paragraphs_are_counted_and_placed() -> None:
    new = "# Title\n\nFirst text.\n\nQuite new.\n\n- two\n\nLast text is not the same."
    assert compare(OLD, new) == ParagraphDiff(added=2, removed=2, kept=3, added_at=(2, 4), removed_at=(2, 4))


def test_a_moved_paragraph_is_new_and_gone() -> None:
    diff = compare("a\n\nb\n\nc\n\nd", "d\n\na\n\nb\n\nc")
    assert (diff.added, diff.removed, diff.kept) == (1, 1, 3)


def test_paragraphs_without_a_word_are_left_out() -> None:
    assert compare("a\n\n---\n\nb", "a\n\nb") == ParagraphDiff(kept=2)


def test_positions_are_bounded_and_numbers_are_not() -> None:
    diff = compare("", "\n\n".join(f"word{n}x" for n in range(500)))
    assert diff.added == 500
    assert diff.added_at == tuple(range(100))


def test_the_numbers_always_add_up() -> None:
    chance = random.Random(7)
    for _ in range(200):
        old = [chance.choice("abcdefg") for _ in range(chance.randrange(20))]
        new = [chance.choice("abcdefg") for _ in range(chance.randrange(20))]
        diff = compare("\n\n".join(old), "\n\n".join(new))
        assert (diff.removed + diff.kept, diff.added + diff.kept) == (len(old), len(new))
        left = [text for at, text in enumerate(old) if at not in diff.removed_at]
        assert left == [text for at, text in enumerate(new) if at not in diff.added_at]


def test_ten_thousand_paragraphs_are_compared_in_seconds() -> None:
    old = [f"row {n} of many" for n in range(5_000)] + ["the same"] * 5_000
    new = old[::2] + [f"new {n}" for n in range(5_000)]
    start = time.process_time()
    diff = compare("\n\n".join(old), "\n\n".join(new))
    assert time.process_time() - start < 10  # one; difflib takes minutes
    assert (diff.added, diff.removed, diff.kept) == (5_000, 5_000, 5_000)


def test_people_see_words_within_a_paragraph_and_a_little_around_it() -> None:
    old = "\n\n".join(["zero", "one", "two", "It is open on all days of the week.", "four", "five", "six"])
    new = old.replace("is open", "is not open").replace("six", "six\n\nseven")
    assert list(shown(old, new)) == [
        "@@ 2 unchanged",
        "  two",
        "~ It is {+not+} open on all days of the week.",
        "  four",
        "@@ 1 unchanged",
        "  six",
        "+ seven",
    ]


def test_nothing_is_shown_of_texts_that_say_the_same() -> None:
    assert list(shown(OLD, OLD.upper())) == []


def test_paragraphs_with_little_in_common_are_shown_before_and_after() -> None:
    assert list(shown("Rain falls.", "The sun shines on us.")) == ["- Rain falls.", "+ The sun shines on us."]


def test_nothing_that_steers_a_terminal_is_shown() -> None:
    assert list(shown("", "red \x1b[31m text\x9b2J")) == ["+ red [31m text2J"]
