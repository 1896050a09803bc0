from __future__ import annotations

import time

import pytest

from nightmill.documents.fingerprint import fingerprint, fingerprint_version, normalized, words_of_markdown


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Some words", "  some\n\n WORDS "),
        ("日本語の文", "日本\n語の文"),
        ("Hello, world!", "hello world"),
        ("so\u00adft wo\u200brd", "soft word"),
        ("ﬁne 15", "fine \uff11\uff15"),
        ("1 5", "1\t\n5"),
        ("5 %", "5%"),
        ("\u22125 degrees", "-5 degrees"),
        ("3\u20135", "3-5"),
        ("5. 6", "5 6"),
        ("❤️", "❤"),
    ],
)
def test_what_is_written_otherwise_but_says_the_same_does_not_count(before: str, after: str) -> None:
    assert normalized(before) == normalized(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("it can be", "it cannot be"),
        ("it is open", "it is not open"),
        ("-5", "5"),
        ("$5", "€5"),
        ("5%", "5"),
        ("1.5", "15"),
        ("1.5", "1,5"),
        ("1 5", "15"),
        ("1 2 3 4", "12 3 4"),
        ("3-5", "35"),
        ("10:30", "1030"),
        ("x < 5", "x > 5"),
        ("Export ✓", "Export ✗"),
        ("कि", "की"),
        ("5 < 6", "5 > 6"),
        ("|1|2|", "|12|"),
    ],
)
def test_what_says_something_else_counts(before: str, after: str) -> None:
    assert normalized(before) != normalized(after)


def test_targets_of_links_bullets_and_quotation_marks_do_not_count_but_their_words_do() -> None:
    bare = normalized("a link and an image")
    assert normalized(words_of_markdown('- a [link](https://x/y_(z)?v=1) and an ![image](/i.png?t=2 "T")')) == bare
    assert normalized(words_of_markdown("> * a [link](/other) and an image")) == bare
    assert normalized(words_of_markdown("- an [anchor](/other) and an image")) != bare
    assert normalized(words_of_markdown("- 5 apples")) == normalized("5 apples")


def test_a_change_in_either_text_is_a_change() -> None:
    before = fingerprint("one", "two")
    assert before == fingerprint("One.", " two")
    assert before.split("-")[1] == fingerprint("other", "two").split("-")[1]
    assert len({before, fingerprint("other", "two"), fingerprint("one", "other"), fingerprint("two", "one")}) == 4
    assert [len(half) for half in before.split("-")] == [16, 16]


def test_the_version_is_short_and_stays() -> None:
    assert fingerprint_version() == fingerprint_version()
    assert len(fingerprint_version()) <= 40


@pytest.mark.parametrize("text", ["](" * 200_000, "1," * 200_000, "- " * 200_000, "-" * 1_000_000, "> " * 200_000])
def test_text_made_for_it_takes_no_longer_than_other_text(text: str) -> None:
    start = time.process_time()
    normalized(words_of_markdown(text))
    assert time.process_time() - start < 5  # some tenths; what is quadratic takes hours
