# ruff: noqa: RUF001 - texts in other scripts
from __future__ import annotations

import gzip
import hashlib
import socket
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from nightmill.documents.charset import decoded_html
from nightmill.documents.fetching import FetchedPage, NotModified, PageFetcher, Validators, open_page_client
from nightmill.errors import (
    PageAccessDenied,
    PageBlocked,
    PageFetchFailed,
    PageNotFound,
    PageRefused,
    PageTimeout,
    PageTooLarge,
    PageUnavailable,
    PageUnsupported,
)
from nightmill.settings import DocumentSettings
from nightmill.web.resolver import Resolver
from tests.nightmill.web.certificates import Authority
from tests.nightmill.web.internet import PUBLIC, Internet, names
from tests.nightmill.web.loopback import Loopback, Received, Script, answer, loopback

AGENT = "Nightmill/0.1 (+https://nightmill.example)"
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = b"<!doctype html><title>T</title><p>Words"
SITES = {
    "site.example": [PUBLIC],
    "www.site.example": [PUBLIC],
    "other.example": [PUBLIC],
    "inner.example": ["127.0.0.1"],
}


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(answer(PAGE, headers=HTML)) as server:
        yield server


@pytest.fixture
def internet(server: Loopback) -> Internet:
    return Internet(server)


@pytest.fixture
def fetcher(internet: Internet) -> Iterator[PageFetcher]:
    resolver = Resolver(names(SITES))
    with open_page_client(DocumentSettings(), resolver=resolver, connector=internet) as client:
        yield PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=2), max_body=100_000)


def fetched(fetcher: PageFetcher, link: str = "http://site.example/a") -> FetchedPage:
    page = fetcher.fetch(link)
    assert isinstance(page, FetchedPage)
    return page


def at(table: dict[str, Script]) -> Script:
    """Answer each path by its own script."""

    def script(request: Received, peer: socket.socket) -> None:
        table[request.target](request, peer)

    return script


def raw(data: bytes) -> Script:
    """Answer with these very bytes."""

    def script(_: Received, peer: socket.socket) -> None:
        peer.sendall(data)
        peer.close()

    return script


def reset(_: Received, peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def to(location: str, status: str = "302 Found") -> Script:
    return answer(b"", status=status, headers={"Location": location})


def test_a_page_comes_with_all_that_is_said_of_it(server: Loopback, fetcher: PageFetcher) -> None:
    body = "<p>Größe".encode("latin-1")
    headers = {
        "Content-Type": 'Text/HTML; Charset="ISO-8859-1"',
        "ETag": 'W/"7"',
        "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT",
        "Content-Encoding": "gzip",
        "Set-Cookie": "a=b",
    }
    server.script = answer(gzip.compress(body), headers=headers)
    assert fetched(fetcher) == FetchedPage(
        url="http://site.example/a",
        redirects=(),
        body=body,
        raw_hash=hashlib.sha256(body).hexdigest(),
        media_type="text/html",
        charset="iso-8859-1",
        etag='W/"7"',
        last_modified="Sun, 22 Nov 2026 10:00:00 GMT",
    )
    fetched(fetcher)
    sent = server.received[1].headers
    assert sent["user-agent"] == AGENT
    assert sent["accept-encoding"] == "gzip"
    assert sent["accept"].startswith("text/html,")
    assert not {"cookie", "if-none-match", "if-modified-since", "authorization"} & set(sent)


def test_a_page_that_is_the_same_as_last_time_needs_no_body(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = answer(b"", status="304 Not Modified", headers={"ETag": '"8"'})
    seen = fetcher.fetch("http://site.example/a", Validators(etag='"7"', last_modified="yesterday"))
    assert seen == NotModified(etag='"8"', last_modified="yesterday", url="http://site.example/a", redirects=())
    sent = server.received[0].headers
    assert (sent["if-none-match"], sent["if-modified-since"]) == ('"7"', "yesterday")
    for nothing in (None, Validators(), Validators(etag="a\r\nX: y", last_modified="ä")):
        with pytest.raises(PageFetchFailed) as caught:
            fetcher.fetch("http://site.example/a", nothing)
        assert caught.value.reason == "status_304"


def test_the_pages_of_a_site_come_over_one_connection(server: Loopback, fetcher: PageFetcher) -> None:
    scripts = iter([answer(PAGE, headers=HTML), answer(b"", status="304 Not Modified"), answer(PAGE, headers=HTML)])
    server.script = lambda request, peer: next(scripts)(request, peer)
    for _ in range(3):
        fetcher.fetch("http://site.example/a", Validators(etag='"7"'))
    assert server.connections == 1


def test_validators_that_could_not_be_sent_back_are_not_kept(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = answer(PAGE, headers={**HTML, "ETag": '"' + "x" * 5_000 + '"', "Last-Modified": "\xe4"})
    page = fetched(fetcher)
    assert (page.etag, page.last_modified) == (None, None)


STATUSES = [
    (404, PageNotFound, None), (410, PageNotFound, None),
    (401, PageAccessDenied, "status_401"), (403, PageAccessDenied, "status_403"),
    (407, PageAccessDenied, "status_407"), (451, PageAccessDenied, "status_451"),
    (408, PageTimeout, "status_408"), (504, PageTimeout, "status_504"),
    (429, PageFetchFailed, "status_429"), (500, PageFetchFailed, "status_500"), (503, PageFetchFailed, "status_503"),
    (400, PageFetchFailed, "status_400"), (418, PageFetchFailed, "status_418"), (999, PageFetchFailed, "status_999"),
    (202, PageFetchFailed, "status_202"), (204, PageFetchFailed, "status_204"), (206, PageFetchFailed, "status_206"),
    (300, PageFetchFailed, "status_300"), (302, PageFetchFailed, "status_302"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "reason"), STATUSES)
def test_a_status_decides_the_error(
    server: Loopback, fetcher: PageFetcher, status: int, kind: type[PageRefused | PageUnavailable], reason: str | None
) -> None:
    body = b"" if status == 204 else PAGE
    server.script = answer(body, status=f"{status} Word", headers=HTML)
    with pytest.raises(kind) as caught:
        fetcher.fetch("http://site.example/a?token=geheim")
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.http_status) == (reason, status)
    assert "geheim" not in str(caught.value)
    assert "site.example/a" in str(caught.value)


@pytest.mark.parametrize("status", ["429 Slowly", "503 Busy", "408 Slow", "500 Oops", "420 Calm"])
def test_a_host_that_asks_to_be_left_alone_is_named_with_the_pause(
    server: Loopback, fetcher: PageFetcher, status: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    for header, low, high in (("120", 120, 120), ("86400", 3600, 3600), (date, 290, 300), ("soon", None, None)):
        server.script = at(
            {"/a": to("http://other.example:8080/b"), "/b": answer(status=status, headers={"Retry-After": header})}
        )
        with pytest.raises(PageUnavailable) as caught:
            fetcher.fetch("http://site.example/a")
        pause = caught.value.retry_after
        if low is None:
            assert (pause, caught.value.failed_host) == (None, None)
        else:
            assert pause is not None
            assert low <= pause.total_seconds() <= high
            assert caught.value.failed_host == "other.example:8080"


@pytest.mark.parametrize(
    ("content_type", "body", "found"),
    [
        ("text/html", PAGE, "text/html"),
        ("application/xhtml+xml; charset=utf-8", b"<html/>", "application/xhtml+xml"),
        ("text/plain", b"<html> as text", "text/plain"),
        ("text/markdown", b"# Title", "text/markdown"),
        (None, b"\xef\xbb\xbf \n<!-- > --><!DOCTYPE HTML><p>", "text/html"),
        ("application/octet-stream", b"<?xml version='1.0'?><html>", "text/html"),
        ("nonsense", b"only words", "text/plain"),
        (None, b"", "text/plain"),
        ("text/html", b"", "text/html"),
        ("text/html", "<p>wide".encode("utf-16"), "text/html"),
        ("text/html; charset=utf-16le", "<p>wide".encode("utf-16-le"), "text/html"),
    ],
)
def test_text_documents_are_known_by_their_type_and_without_one_by_their_begin(
    server: Loopback, fetcher: PageFetcher, content_type: str | None, body: bytes, found: str
) -> None:
    server.script = answer(body, headers={"Content-Type": content_type} if content_type else {})
    page = fetched(fetcher, "http://site.example/a.pdf")  # the suffix is of no account
    assert (page.media_type, page.body) == (found, body)


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("application/pdf", b"%PDF-1.7", "pdf"),
        ("text/html", b"%PDF-1.7 ...", "pdf"),
        (None, b"%PDF-1.7 ...", "pdf"),
        ("image/png", b"\x89PNG", "image/png"),
        ("application/json; charset=utf-8", b"{}", "application/json"),
        ("text/css", b"p {}", "text/css"),
        ("application/octet-stream", b"\x7fELF\x01", "application/octet-stream"),
        (None, b"\x1f\x8b\x08\x00", "application/octet-stream"),
        ("text/html", b"<p>\0\0\1", "application/octet-stream"),
    ],
)
def test_what_is_no_text_document_is_refused_with_its_type(
    server: Loopback, fetcher: PageFetcher, content_type: str | None, body: bytes, reason: str
) -> None:
    server.script = answer(body, headers={"Content-Type": content_type} if content_type else {})
    with pytest.raises(PageUnsupported) as caught:
        fetcher.fetch("http://site.example/a")
    assert caught.value.reason == reason


def test_redirects_are_recorded_and_each_address_is_asked_for_first(server: Loopback, fetcher: PageFetcher) -> None:
    server.script = at(
        {"/a": to("/b", "301 Moved"), "/b": to("http://other.example/c?d=1"), "/c?d=1": answer(PAGE, headers=HTML)}
    )
    asked: list[str] = []
    page = fetcher.fetch("http://site.example/a", allowed=asked.append)
    assert isinstance(page, FetchedPage)
    assert page.url == "http://other.example/c?d=1"
    assert page.redirects == ("http://site.example/a", "http://site.example/b")
    assert asked == ["http://site.example/a", "http://site.example/b", "http://other.example/c?d=1"]

    def robots(url: str) -> None:
        if "other" in url:
            raise PageAccessDenied("no", reason="robots")

    server.received.clear()
    with pytest.raises(PageAccessDenied, match=r"^no$"):
        fetcher.fetch("http://site.example/a", allowed=robots)
    assert [request.target for request in server.received] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("link", "location"),
    [
        ("http://site.example/old/page", "/"),
        ("http://site.example/old/page", "http://www.site.example/index.html"),
        ("http://www.site.example/?p=5", "http://site.example/?utm_source=gone"),
    ],
)
def test_a_redirect_to_the_home_page_says_that_the_page_is_gone(
    server: Loopback, fetcher: PageFetcher, link: str, location: str
) -> None:
    def script(request: Received, peer: socket.socket) -> None:
        gone = request.target in {"/old/page", "/?p=5"}
        (to(location) if gone else answer(PAGE, headers=HTML))(request, peer)

    server.script = script
    with pytest.raises(PageNotFound) as caught:
        fetcher.fetch(link)
    assert caught.value.reason == "redirect_to_home"


@pytest.mark.parametrize(
    ("link", "location"),
    [("http://site.example/a", "http://other.example/"), ("http://site.example/", "http://www.site.example/")],
)
def test_a_redirect_to_another_sites_home_or_from_home_to_home_is_none_of_that(
    server: Loopback, fetcher: PageFetcher, link: str, location: str
) -> None:
    hosts = iter([to(location), answer(PAGE, headers=HTML)])
    server.script = lambda request, peer: next(hosts)(request, peer)
    assert fetched(fetcher, link).url == location


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/", "http://inner.example/", "http://169.254.169.254/latest", "http://[::1]/",
        "http://site.example:22/", "ftp://site.example/", "file:///etc/passwd", "http://user:geheim@site.example/", "http://xn--a/",
    ],
)  # fmt: skip
def test_what_is_not_connected_to_is_blocked_directly_and_behind_a_redirect(
    server: Loopback, internet: Internet, fetcher: PageFetcher, target: str
) -> None:
    server.script = to(target)
    for link in (target, "http://site.example/a"):
        with pytest.raises(PageBlocked) as caught:
            fetcher.fetch(link)
        with pytest.raises(PageBlocked):
            fetcher.fetch_text(link, max_bytes=1000)
        assert "geheim" not in str(caught.value)
        if "inner" in target:
            assert "127.0.0.1" not in str(caught.value)
    assert set(internet.asked) == {(PUBLIC, 80)}


def test_pages_are_fetched_from_the_ports_of_the_web_alone(internet: Internet, fetcher: PageFetcher) -> None:
    for port in (80, 443, 8080, 8443):
        fetched(fetcher, f"http://site.example:{port}/a")
    assert [port for _, port in internet.asked] == [80, 443, 8080, 8443]


def test_a_page_over_the_bound_is_too_large_however_it_comes(server: Loopback, fetcher: PageFetcher) -> None:
    scripts = [
        answer(b"", headers=HTML, length=100_001),
        answer(gzip.compress(b"<p>" * 40_000), headers={**HTML, "Content-Encoding": "gzip"}),
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + b"x" * 100_001),
    ]  # fmt: skip
    for script in scripts:
        server.script = script
        with pytest.raises(PageTooLarge):
            fetcher.fetch("http://site.example/a")
    server.script = answer(b"x" * 100_000, headers=HTML)
    assert len(fetched(fetcher).body) == 100_000


BROKEN: dict[str, tuple[Script, str]] = {
    "reset": (reset, "reset"),
    "silence": (raw(b""), "protocol"),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH\r\n"), "protocol"),
    "cut short": (answer(PAGE, headers=HTML, length=5_000, close=True), "protocol"),
    "bad length": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "protocol"),
    "no gzip": (answer(PAGE, headers={**HTML, "Content-Encoding": "gzip"}), "encoding"),
    "half a gzip": (answer(gzip.compress(PAGE)[:-9], headers={**HTML, "Content-Encoding": "gzip"}), "encoding"),
    "brotli": (answer(PAGE, headers={**HTML, "Content-Encoding": "br"}), "encoding"),
    "a switch": (answer(b"", status="101 Switching Protocols"), "protocol"),
    "no address": (to("http://[::1"), "redirects"),
    "long address": (to("http://site.example/" + "x" * 9_000), "redirects"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_exchange_that_breaks_is_transient_with_one_word_for_why(
    server: Loopback, fetcher: PageFetcher, name: str
) -> None:
    server.script, reason = BROKEN[name]
    with pytest.raises(PageFetchFailed) as caught:
        fetcher.fetch("http://site.example/a")
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()


def test_a_host_that_cannot_be_reached_is_transient(internet: Internet, fetcher: PageFetcher) -> None:
    with pytest.raises(PageFetchFailed) as caught:
        fetcher.fetch("http://nowhere.invalid/")
    assert caught.value.reason == "dns"
    internet.dead = (PUBLIC,)
    with pytest.raises(PageFetchFailed) as caught:
        fetcher.fetch("http://site.example/")
    assert caught.value.reason == "connect"


@pytest.mark.parametrize(
    "link",
    [
        "https://.a.example/", "http://a..b/", "http://" + "a" * 70 + ".example/", "https://*/", "http://x_y/", "",
        "http://", "http://xn--a/", "http://\u3002/", "http://site.example:99999/",
    ],
)  # fmt: skip
def test_no_link_raises_anything_but_an_error_of_pages(fetcher: PageFetcher, link: str) -> None:
    with pytest.raises((PageRefused, PageUnavailable)):
        fetcher.fetch(link)


def test_a_certificate_that_is_not_right_is_refused(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path)
    cases = [
        (authority.server_context("wrong.example"), "https://site.example/"),
        (authority.server_context("site.example", days=-3), "https://site.example/"),
        (authority.server_context("site.example"), f"https://{PUBLIC}/"),
        (stranger.server_context("site.example"), "https://site.example/"),
    ]
    settings = DocumentSettings()
    for context, link in [*cases, (authority.server_context("site.example"), "https://site.example/")]:
        with loopback(answer(PAGE, headers=HTML), tls=context) as server:
            client = open_page_client(
                settings,
                resolver=Resolver(names(SITES)),
                connector=Internet(server),
                ssl_context=authority.client_context(),
            )
            with client:
                fetcher = PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=5), max_body=1000)
                if (context, link) in cases:
                    with pytest.raises(PageFetchFailed) as caught:
                        fetcher.fetch(link)
                    assert caught.value.reason == "tls"
                    assert server.received == []
                else:
                    fetched(fetcher, link)


def test_private_addresses_and_any_port_are_a_setting(server: Loopback) -> None:
    with open_page_client(DocumentSettings(allow_private_addresses=True)) as client:
        fetcher = PageFetcher(client, user_agent=AGENT, fetch_timeout=timedelta(seconds=2), max_body=1000)
        assert fetched(fetcher, f"{server.url}/a").body == PAGE
        with pytest.raises(PageBlocked):
            fetcher.fetch("http://169.254.169.254/")


RUSSIAN = "Правительство объявило о новых мерах поддержки малого бизнеса. " * 4
JAPANESE = "これは日本語の文章です。文字コードの判定を試すために書かれました。" * 4


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "Größe “x” 日本"),
        ("cp1252", "Le gouvernement a annoncé des mesures “étonnantes” pour l’été. " * 4),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy v zelené zahradě. " * 4),
        ("cp1251", RUSSIAN),
        ("koi8-r", RUSSIAN),
        ("shift_jis", JAPANESE),
        ("euc-jp", JAPANESE),
        ("iso-2022-jp", JAPANESE),
        ("gb18030", "这是一个用来测试字符编码检测的中文段落，内容没有特别的意义。" * 4),
        ("big5", "這是一個用來測試字元編碼偵測的中文段落，內容沒有特別的意義。" * 4),
        ("euc-kr", "이것은 문자 인코딩 감지를 시험하기 위한 한국어 문장입니다. " * 4),
        ("iso-8859-7", "Η κυβέρνηση ανακοίνωσε νέα μέτρα στήριξης για τις μικρές επιχειρήσεις. " * 4),
        ("utf-16", "Größe “x” 日本"),
    ],
)  # fmt: skip
def test_a_page_is_read_in_its_charset_whoever_names_it(encoding: str, text: str) -> None:
    page = f"<html><p>{text}"
    assert decoded_html(page.encode(encoding), encoding) == page
    assert decoded_html(page.encode(encoding), None) == page
    declared = f'<meta charset="{encoding}"><p>{text}'
    assert decoded_html(declared.encode(encoding), None) == declared


def test_the_mark_goes_before_the_header_and_the_header_before_the_page() -> None:
    assert decoded_html("ä".encode("utf-8-sig"), "koi8-r") == "ä"
    assert decoded_html(b'<meta charset="koi8-r">\xe4', "latin1") == '<meta charset="koi8-r">ä'
    assert decoded_html(b'<meta charset="koi8-r">\xc4', "no-such-charset") == '<meta charset="koi8-r">д'
    assert decoded_html('<meta charset="utf-16">ä'.encode(), None) == '<meta charset="utf-16">ä'
    assert decoded_html(b"a\0b\xff", "utf-8") == "ab\ufffd"
    assert decoded_html("ä".encode() * 10 + b"\xc3", None) == "ä" * 10 + "\ufffd"


@pytest.mark.parametrize(
    "label", ["rot13", "zlib", "undefined", "punycode", "unicode_escape", "utf-7", "idna", "hex", "mbcs"]
)
def test_a_codec_that_is_no_charset_is_not_used(label: str) -> None:
    body = f'<meta charset="{label}">caf\\u00e9 +ADw-'.encode()
    assert decoded_html(body, label) == body.decode()
