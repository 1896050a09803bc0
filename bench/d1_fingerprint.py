"""D1: does the fingerprint of a page change when the page changed, and only then?

    .venv/bin/python -m bench.d1_fingerprint [--pages FOLDER ...] [--number 40] [--seed 1]

    noise   the same page twice, with another clock, cookie banner, list of related pages, counter in the navigation,
            nonce and cache-buster around it: in elements that say what they are, in `div`s whose class names do, within
            the main part, and in `div`s without any name
    edits   one word replaced, one number raised, one "not" put in, one paragraph removed, one price put in

Percentages of pages whose fingerprint changed by noise (false changes) and did not by an edit (missed). `stripped` is
without what the page itself names as boilerplate (nightmill/documents/boilerplate.py).
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import html_to_markdown
import lxml.html
import trafilatura
from lxml.html import HtmlElement
from resiliparse.extract.html2text import extract_plain_text

from nightmill.documents.fingerprint import digest, words_of_markdown
from nightmill.documents.texts import texts_of

URL = "https://docs.example/page"
SIZES = range(3_000, 400_000)
STYLES = ("elements", "names", "within", "nameless")
EDITS = ("word", "number", "not", "paragraph", "price")
AROUND = re.compile(r"sidebar|related|footer|menu|breadcrumb|toc|contents", re.IGNORECASE)

Halves = tuple[str, ...]


def parsed(text: str) -> HtmlElement:
    return lxml.html.document_fromstring(text.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))


def written(tree: HtmlElement) -> str:
    return str(lxml.html.tostring(tree, encoding="unicode"))


def add_noise(tree: HtmlElement, turn: int, style: str) -> None:
    """Put what surrounds content into a page; differently at each turn."""
    body = tree.find("body")
    n = str(turn)
    titles = (
        ["How to bake bread", "Travel tips", "Why cats sleep all day"],
        ["Phones", "Garden in spring", "Opera now"],
    )
    links = "".join(f'<li><a href="/r{n}">{title}</a></li>' for title in titles[turn % 2])
    clock = f"<p>Page generated on 2026-11-2{n} at 0{n}:4{n}:59</p><p>Copyright 2026 Example</p>"
    cookies = f"We use cookies to improve this site. Consent id {n * 8}. <button>Accept</button>"
    nav = f'<ul><li><a href="/a?v={n}">Home</a></li><li><a href="/inbox">Inbox ({n}7)</a></li></ul>'
    first, last = {
        "elements": (
            [
                f'<div id="cookie-banner-{n * 6}" class="cookie-consent" role="dialog">{cookies}</div>',
                f"<nav>{nav}</nav>",
            ],
            [f"<aside><h3>Related articles</h3><ul>{links}</ul></aside>", f"<footer>{clock}</footer>"],
        ),
        "names": (
            [f'<div class="CookieConsent__banner"><p>{cookies}</p></div>', f'<div id="topmenu">{nav}</div>'],
            [f'<div class="related-posts"><h3>More</h3><ul>{links}</ul></div>', f'<div id="footer">{clock}</div>'],
        ),
        "within": (
            [],
            [f'<div class="related-articles"><ul>{links}</ul></div>', f'<footer class="page-footer">{clock}</footer>'],
        ),
        "nameless": ([f"<div>{cookies}</div>", f"<div>{nav}</div>"], [f"<div>{links}</div>", f"<div>{clock}</div>"]),
    }[style]
    main = next(iter(tree.xpath('//main|//article|//*[@role="main"]|//*[@id="content"]')), body)
    for text in first:
        body.insert(0, lxml.html.fragment_fromstring(text))
    for text in last:
        (main if style == "within" else body).append(lxml.html.fragment_fromstring(text))
    body.append(lxml.html.fragment_fromstring(f'<form><input type="hidden" name="csrf" value="{n * 32}"></form>'))
    body.append(lxml.html.fragment_fromstring(f'<script nonce="{n * 16}">var t = {n * 10};</script>'))
    for element in tree.iter("a", "img", "link", "script"):
        for name in ("href", "src"):
            if (target := element.get(name)) and "#" not in target:
                element.set(name, f"{target}?v={n * 8}")


def editable(tree: HtmlElement) -> list[HtmlElement]:
    """Return the elements of the main part that have text of their own."""
    found: dict[HtmlElement, None] = {}
    for block in tree.iter("p", "li", "td", "dd", "dt", "pre", "h2", "h3"):
        above = [element for element in block.iterancestors() if isinstance(element.tag, str)]
        if any(
            element.tag in {"nav", "footer", "aside", "header", "head", "form", "noscript"}
            or AROUND.search(f"{element.get('class') or ''} {element.get('id') or ''}")
            for element in above
        ):
            continue
        for element in block.iter():
            if isinstance(element.tag, str) and element.tag != "script" and len((element.text or "").split()) >= 4:
                found[element] = None
    return list(found)


def edit(tree: HtmlElement, kind: str, chance: random.Random) -> bool:
    """Change one thing; return whether there was one to change."""
    places = editable(tree)
    if kind == "number":
        places = [place for place in places if re.search(r"\b\d+\b", place.text or "")]
    if kind == "paragraph":
        places = [place for place in places if place.tag == "p"]
    if not places:
        return False
    place = chance.choice(places)
    words = (place.text or "").split(" ")
    if kind == "paragraph":
        place.drop_tree()
        return True
    if kind == "number":
        found = chance.choice(list(re.finditer(r"\b\d+\b", place.text)))
        place.text = place.text[: found.start()] + str(int(found[0]) + 1) + place.text[found.end() :]
        return True
    if kind == "price":
        words.insert(chance.randrange(len(words) + 1), "$19.99")
    else:
        at = [index for index, word in enumerate(words) if word.strip().isalpha()]
        if not at:
            return False
        index = chance.choice(at)
        words[index] = "replaced" if kind == "word" else f"not {words[index]}"
    place.text = " ".join(words)
    return True


def naive(html: str) -> Halves:
    return (html_to_markdown.convert(html).content or "",)


def stock(html: str) -> Halves:
    """Return what the two libraries find in the page as it is."""
    main = trafilatura.extract(
        html,
        url=URL,
        fast=True,
        output_format="markdown",
        include_links=True,
        include_comments=False,
        favor_recall=True,
    )
    second = extract_plain_text(html, preserve_formatting=True, main_content=True, alt_texts=False, list_bullets=False)
    return digest(words_of_markdown(main or "")), digest(second)


def ours(html: str) -> Halves:
    texts = texts_of(html, url=URL)
    return ("", "") if texts is None else (digest(words_of_markdown(texts.main)), digest(texts.second))


WAYS: dict[str, tuple[Callable[[str], Halves], slice]] = {
    "whole page in markdown": (naive, slice(0, 1)),
    "A: Trafilatura": (stock, slice(0, 1)),
    "B: Resiliparse": (stock, slice(1, 2)),
    "A and B": (stock, slice(0, 2)),
    "A, stripped": (ours, slice(0, 1)),
    "B, stripped": (ours, slice(1, 2)),
    "A and B, stripped (ours)": (ours, slice(0, 2)),
}


def chosen(folders: list[Path], number: int, chance: random.Random) -> list[Path]:
    pages: list[Path] = []
    for folder in folders:
        found = [page for page in sorted(folder.rglob("*.html")) if page.stat().st_size in SIZES]
        pages += chance.sample(found, min(number, len(found)))
    return pages


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="D1: false changes and missed edits of the fingerprint.")
    parser.add_argument("--pages", type=Path, nargs="*", default=sorted(Path("/usr/share/doc").glob("*/html")))
    parser.add_argument("--number", type=int, default=40, help="pages of each folder")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.disable()
    pages = chosen([folder for folder in asked.pages if folder.is_dir()], asked.number, random.Random(asked.seed))
    false: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    missed: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    spent: dict[Callable[[str], Halves], float] = defaultdict(float)
    calls = 0

    def read(tree: HtmlElement) -> dict[Callable[[str], Halves], Halves]:
        nonlocal calls
        calls += 1
        html, found = written(tree), {}
        for way in (naive, stock, ours):
            before = time.process_time()
            found[way] = way(html)
            spent[way] += time.process_time() - before
        return found

    for page in pages:
        plain = parsed(page.read_text("utf-8", "replace"))
        for style in STYLES:
            turns = []
            for turn in (1, 2):
                tree = copy.deepcopy(plain)
                add_noise(tree, turn, style)
                turns.append(read(tree))
            for name, (way, part) in WAYS.items():
                false[name][style].append(turns[0][way][part] != turns[1][way][part])
        before = read(plain)
        for kind in EDITS:
            tree = copy.deepcopy(plain)
            if not edit(tree, kind, random.Random(f"{asked.seed}{page}{kind}")):
                continue
            after = read(tree)
            for name, (way, part) in WAYS.items():
                missed[name][kind].append(before[way][part] == after[way][part])
            if before[ours] == after[ours]:
                print(f"missed: {kind} in {page}")
    costs = ", ".join(f"{way.__name__} {1000 * seconds / calls:.0f}" for way, seconds in spent.items())
    print(f"{len(pages)} pages; CPU-ms a page: {costs}")
    styles, kinds = " ".join(f"{style:>8}" for style in STYLES), " ".join(f"{kind:>9}" for kind in EDITS)
    print(f"{'':26} | false: {styles} | missed: {kinds}   all")
    for name in WAYS:
        every = [one for kind in EDITS for one in missed[name][kind]]
        print(
            f"{name:26} |        {' '.join(f'{share(false[name][style]):8.1f}' for style in STYLES)} |        "
            f" {' '.join(f'{share(missed[name][kind]):9.1f}' for kind in EDITS)} {share(every):5.1f}"
        )


def share(values: list[bool]) -> float:
    return 100 * sum(values) / max(1, len(values))


if __name__ == "__main__":
    main()
