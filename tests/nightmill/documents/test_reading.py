from __future__ import annotations

import pytest

from nightmill.documents.reading import Reading, read_page
from nightmill.documents.verdicts import says_not_found
from nightmill.errors import PageAccessDenied, PageEmpty, PageNotFound, PageRefused
from tests.nightmill.documents.pages import SENTENCES, article, page

URL = "https://site.example/docs/page"


def read(html: str, charset: str | None = None, media_type: str = "text/html", limit: int = 200_000) -> Reading:
    return read_page(
        html.encode(charset or "utf-8"), media_type=media_type, charset=charset, url=URL, max_content=limit
    )


def changed(before: str, after: str) -> bool:
    return read(before).fingerprint != read(after).fingerprint


def test_the_content_is_the_main_part_in_markdown() -> None:
    reading = read(page(article() + '<p>More is <a href="/hours?x=1">in the hours</a> that we keep.</p>'))
    assert all(sentence in reading.content for sentence in SENTENCES)
    assert "# Visiting the observatory" in reading.content
    assert "[in the hours](https://site.example/hours?x=1)" in reading.content
    for around in ("cookies", "Inbox", "Another story", "Page made", "Copyright"):
        assert around not in reading.content
    assert reading.title == "Visiting the observatory | Example"
    assert (reading.source_type, reading.cut) == ("html", False)


def test_what_surrounds_the_content_changes_nothing() -> None:
    assert not changed(page(turn=1), page(turn=2))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("visitors may look", "visitors may not look"),
        ("$12.50", "$13.50"),
        ("$12.50", "€12.50"),
        ("-5 degrees", "5 degrees"),
        (f"<p>{SENTENCES[2]}</p>", ""),
        ("fifty minutes", "sixty minutes"),
    ],
)
def test_an_edit_of_the_content_is_a_change(before: str, after: str) -> None:
    assert before in page()
    assert changed(page(), page(turn=2).replace(before, after))


@pytest.mark.parametrize(
    "content",
    [
        "<table><tr><th>Plan</th><th>Price</th></tr><tr><td>Basic</td><td>{}</td></tr></table>",
        "<dl><dt>Opening hours</dt><dd>from {} until late in the night</dd></dl>",
        "<pre><code>telescope --zoom {} --target moon</code></pre>",
        "<h3><button>Is it {}?</button></h3><div hidden><p>We believe so.</p></div>",
        "<h3>When?</h3><div aria-hidden='true'><p>At {} in the morning, on all days.</p></div>",
        "<aside class='note'><p>Please note that {} visitors may come at the same time.</p></aside>",
        "<section id='cookies'><h2>Cookies</h2><p>We bake {} of them on each day. <a href='/b'>How?</a></p></section>",
        "<div class='menu'><p>Soup of the day for {} and bread</p></div>",
    ],
)
def test_tables_lists_code_folded_answers_and_notes_are_content(content: str) -> None:
    assert changed(page(article() + content.format("10")), page(article() + content.format("11")))
    assert "11" in read(page(article() + content.format("11"))).content


def test_a_wrapper_named_for_what_it_has_is_not_taken_for_it() -> None:
    wrapped = f'<div class="page has-sidebar related comments-open">{article()}</div>'
    assert all(sentence in read(page(wrapped)).content for sentence in SENTENCES)


def test_the_head_of_an_article_counts() -> None:
    head = "<header class='header'><h1>Title</h1><p>What this article says in {} words.</p></header>"
    assert changed(page(head.format("few") + article()), page(head.format("many") + article()))


def test_a_long_text_is_cut_and_the_fingerprint_is_over_all_of_it() -> None:
    before, after = page(article(*SENTENCES * 20, "The end.")), page(article(*SENTENCES * 20, "The start."))
    first, second = read(before, limit=500), read(after, limit=500)
    assert first.content == second.content
    assert len(first.content) == 500
    assert first.length > 5_000
    assert first.cut
    assert first.fingerprint != second.fingerprint


def test_a_page_of_links_is_taken_whole() -> None:
    rows = "".join(f"<div><span>Opening {n}</span></div>" for n in range(200))
    assert "Opening 199" in read(page(f"<h1>Hours</h1>{rows}")).content


def test_a_page_of_many_elements_is_read_in_seconds() -> None:
    reading = read(page("<h1>Rows</h1>" + "".join(f"<p>Row number {n} of the list</p>" for n in range(16_000))))
    assert reading.length > 400_000


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("/canonical", "https://site.example/canonical"),
        ("https://other.example/x?a=1", "https://other.example/x?a=1"),
        ("javascript:alert(1)", None),
        ("http://[bad", None),
        ("/" + "x" * 3_000, None),
    ],
)
def test_the_canonical_link_is_absolute_and_http(link: str, found: str | None) -> None:
    html = page().replace("</title>", f'</title><link rel="canonical" href="{link}">')
    assert read(html).page_link == found


def test_two_canonical_links_are_none_and_those_of_the_content_do_not_count() -> None:
    link = '<link rel="canonical" href="/{}">'
    assert read(page().replace("</title>", f"</title>{link.format(1)}{link.format(2)}")).page_link is None
    assert read(page(article() + link.format(1))).page_link is None


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("utf-8", "Grüße aus Köln"),
        ("utf-16", "Grüße aus Köln"),
        ("iso-8859-1", "Grüße aus Köln"),
        ("windows-1252", "“Grüße” – Köln"),  # noqa: RUF001
        ("iso-8859-2", "Zażółć gęślą jaźń"),
        ("windows-1251", "Обсерватория открыта"),
        ("koi8-r", "Обсерватория открыта"),
        ("shift_jis", "天文台は開いています"),
        ("euc-jp", "天文台は開いています"),
        ("gb18030", "天文台每天晚上开放"),
        ("big5", "天文台每天晚上開放"),
        ("euc-kr", "천문대는 매일 저녁"),
    ],
)
def test_pages_are_read_in_their_encoding(charset: str, text: str) -> None:
    html = f"<!doctype html><title>{text}</title><body><h1>{text}</h1><p>{text} 1</p><p>{text} 2</p></body>"
    reading = read(html, charset)
    assert reading.title == text
    assert f"{text} 2" in reading.content


def test_invalid_bytes_and_control_characters_leave_storable_text() -> None:
    body = page().encode().replace(b"every evening", b"every\x00 \xff\xfe\x1b[31m &#xD800; &#0; evening")
    content = read_page(body, media_type="text/html", charset="utf-8", url=URL, max_content=10_000).content
    content.encode()
    assert not any(c in content for c in "\x00\x1b\x7f")


def test_plain_text_and_markdown_are_taken_as_they_are() -> None:
    text = "# Not a heading\n\n<b>5 < 6</b>\x07\r\nEnd"
    plain = read(text, media_type="text/plain")
    assert (plain.content, plain.title, plain.source_type) == ("# Not a heading\n\n<b>5 < 6</b>\nEnd", None, "text")
    markdown = read("# The title\n\nA [link](/x?1).", media_type="text/markdown")
    assert (markdown.title, markdown.source_type) == ("The title", "markdown")
    assert markdown.fingerprint == read("# The title\n\nA [link](/x?2).", media_type="text/markdown").fingerprint


def test_a_page_without_body_or_with_unknown_elements_is_read() -> None:
    assert SENTENCES[0] in read(f"<!doctype html><title>T</title><main>{article()}").content
    assert SENTENCES[0] in read(f"<my-page><my-part>{article()}</my-part></my-page>").content


SHELL = '<script src="/app.js"></script>'


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("", "blank"),
        ("<!doctype html><html><head><title>App</title></head><body></body></html>", "boilerplate"),
        (page("").replace('<p><img src="/picture.png?bust=1" alt="The dome"></p>', ""), "script_shell"),
        (f'<title>App</title><body><div id="root"></div>{SHELL}</body>', "script_shell"),
        (f'<title>App</title><body><div id="__next"><div>Loading…</div></div>{SHELL}</body>', "script_shell"),
        (
            f"<title>App</title><body><p>You need to enable JavaScript to run this app.</p>{SHELL}</body>",
            "script_shell",
        ),
        ("<title>T</title><body><nav><a href='/'>Home</a></nav><footer>Copyright</footer></body>", "boilerplate"),
    ],
)
def test_a_page_without_content_is_empty(html: str, reason: str) -> None:
    with pytest.raises(PageEmpty) as refused:
        read(html)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Page not found | Acme", "Sorry, the page you are looking for does not exist."),
        ("404 Not Found", "The requested URL was not found on this server."),
        ("Acme", "<h1>Oops! That page can’t be found.</h1><p>It looks like nothing was found here.</p>"),  # noqa: RUF001
        ("Seite nicht gefunden – Acme", "Die gesuchte Seite gibt es nicht."),  # noqa: RUF001
        ("Page introuvable", "La page que vous cherchez n'existe plus."),
        ("Página no encontrada", "La página que busca no existe."),
        ("ページが見つかりません", "お探しのページは見つかりませんでした。"),
        ("404", "<h1>Error 404</h1><p>Go back home.</p>"),
    ],
)
def test_a_page_that_says_that_it_does_not_exist_is_not_found(title: str, text: str) -> None:
    with pytest.raises(PageNotFound) as refused:
        read(page(text, title=title))
    assert refused.value.reason == "soft_404"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("404 Not Found - HTTP | Reference", "<h1>404 Not Found</h1>" + article(*SENTENCES * 5)),
        (
            "404 | Glossary",
            "<h1>404</h1><p>A standard response code: the server cannot find the requested resource.</p>",
        ),
        ("How to fix 404 errors", "<h1>How to fix 404 errors</h1><p>Ask for the page that you are looking for.</p>"),
        ("Lost and found", "<p>We keep what was found for a year.</p>"),
        ("Room 404", "<p>The room is on the fourth floor.</p>"),
        ("Custom 404 pages", "<p>A page not found can say more.</p>"),
        ("Opening hours", "<p>9-17</p>"),
    ],
)
def test_a_page_about_missing_pages_is_a_page(title: str, text: str) -> None:
    assert read(page(text, title=title)).content


def test_titles_made_for_it_are_judged_at_once() -> None:
    for title in ("page" + " can" * 100 + "x", "page" + " isn't" * 100 + "x", "404 " * 100, "the " * 100):
        says_not_found(title)


def test_a_page_that_asks_to_log_in_is_denied() -> None:
    form = "<h1>Sign in</h1><form><label>User</label><input name=u><input type=password name=p></form>"
    with pytest.raises(PageAccessDenied) as refused:
        read(page(form, title="Log in | Acme"))
    assert refused.value.reason == "login_wall"
    assert read(page("<h1>Sign in</h1><p>How to sign in: press the key.</p>", title="Sign in | Manual")).content


def test_a_page_that_asks_for_proof_of_a_person_is_denied() -> None:
    text = "<h1>site.example</h1><p>Verifying you are human. Ray ID: 1. Performance and security by Cloudflare</p>"
    with pytest.raises(PageAccessDenied) as refused:
        read(page(text, title="Just a moment..."))
    assert refused.value.reason == "challenge"


def test_messages_say_nothing_of_the_page() -> None:
    with pytest.raises(PageRefused) as refused:
        read(page("Sorry, the secret page you are looking for does not exist.", title="Page not found"))
    assert "secret" not in str(refused.value)
