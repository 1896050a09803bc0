"""Pages for tests: an article, and what sites put around it."""

from __future__ import annotations

SENTENCES = (
    "The observatory opens its doors every evening at seven, and visitors may look through the large telescope.",
    "A ticket costs $12.50 for adults; children under ten pay nothing at all when they come with a parent.",
    "On cloudy nights there is a talk about the planets instead, which takes about fifty minutes.",
    "Temperatures in the dome fall to -5 degrees in winter, so warm clothes are a good idea for everybody.",
)


def article(*paragraphs: str, title: str = "Visiting the observatory") -> str:
    """Return HTML of a main part."""
    return f"<h1>{title}</h1>" + "".join(f"<p>{text}</p>" for text in (paragraphs or SENTENCES))


def page(content: str | None = None, *, turn: int = 1, title: str = "Visiting the observatory | Example") -> str:
    """Return a whole page; each `turn` has other surroundings around the same content."""
    content = article() if content is None else content
    related = [f'<li><a href="/r{turn}{n}">Another story number {turn}{n} to read next</a></li>' for n in range(4)]
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="csrf-token" content="{turn * 7919}"><link rel="stylesheet" href="/site.css?v={turn}">
<script nonce="{turn * 104729}">window.t = {turn};</script></head><body>
<div id="cookie-banner" class="cookie-consent" data-id="{turn}">We use cookies, consent id {turn * 31337}.
<button>Accept</button></div>
<header><nav><a href="/?v={turn}">Home</a> <a href="/inbox">Inbox ({turn})</a></nav></header>
<main>{content}<p><img src="/picture.png?bust={turn}" alt="The dome"></p>
<div class="related-articles"><h2>Related</h2><ul>{"".join(related)}</ul></div></main>
<footer><p>Page made at 2026-11-22 0{turn}:14:59</p><p>Copyright Example</p></footer></body></html>"""
