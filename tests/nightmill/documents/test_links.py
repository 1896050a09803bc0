from __future__ import annotations

import pytest

from nightmill.documents.links import MAX_LINK, is_home, is_pdf, read_link, same_site
from nightmill.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "canonical", "host"),
    [
        ("http://Example.COM", "http://example.com/", "example.com:80"),
        ("HTTPS://example.com:443/a", "https://example.com/a", "example.com:443"),
        ("http://example.com:443/", "http://example.com:443/", "example.com:443"),
        ("  https://example.com:8443/a/ \n", "https://example.com:8443/a/", "example.com:8443"),
        ("https://example.com:/a", "https://example.com/a", "example.com:443"),
        ("https://example.com./a", "https://example.com/a", "example.com:443"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example:443"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example:443"),
        ("https://faß.example/", "https://xn--fa-hia.example/", "xn--fa-hia.example:443"),
        ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/", "127.0.0.1:80"),
        ("http://%65xample.com/", "http://example.com/", "example.com:80"),
        ("http://[0:0::1]:80/", "http://[::1]/", "[::1]:80"),
        ("http://my_host:8080", "http://my_host:8080/", "my_host:8080"),
        ("https://x.example/a/../b/./c/%2E%2e/d/", "https://x.example/b/d/", "x.example:443"),
        ("https://x.example/../..", "https://x.example/", "x.example:443"),
        ("https://x.example/a//b/..", "https://x.example/a//", "x.example:443"),
        ("https://x.example/%7efoo%2fbar%e4", "https://x.example/~foo%2Fbar%E4", "x.example:443"),
        ("https://x.example/ü ö\t%zz", "https://x.example/%C3%BC%20%C3%B6%09%25zz", "x.example:443"),
        ("https://x.example/a?b=2&a=1&b=3", "https://x.example/a?b=2&a=1&b=3", "x.example:443"),
        ("https://x.example/a?q=ä b&c[]=d", "https://x.example/a?q=%C3%A4%20b&c%5B%5D=d", "x.example:443"),
        ("https://x.example/a?", "https://x.example/a", "x.example:443"),
        ("https://x.example?a=/../b", "https://x.example/?a=/../b", "x.example:443"),
        ("https://x.example/a?utm_source=n&p=1&UTM_x=&gclid=3", "https://x.example/a?p=1", "x.example:443"),
        ("https://x.example/?fbclid=1&msclkid=2&mc_eid=3", "https://x.example/", "x.example:443"),
        ("https://x.example/?utmost=1&gclids=2", "https://x.example/?utmost=1&gclids=2", "x.example:443"),
        ("https://x.example/a#top", "https://x.example/a", "x.example:443"),
        ("https://x.example/#!/prices", "https://x.example/#!/prices", "x.example:443"),
    ],
)
def test_all_spellings_of_a_link_have_one_canonical_form(text: str, canonical: str, host: str) -> None:
    link = read_link(text)
    assert (link.external, link.canonical, link.host) == (text.strip(), canonical, host)
    again = read_link(canonical)
    assert (again.canonical, again.host) == (canonical, host)


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com/page", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)",
        "http://", "http:///path", "http://?a", "http://a b/", "http://a..b/", "http://.a/", "http://-a.example/",
        "http://x.example:0/", "http://x.example:99999/", "http://x.example:8a/", "http://[::1", "http://[fe80::1%25e]/",
        "http://x\\y.example/", "http://☃.example/", "http://xn--a/",
        "http://" + "a" * 64 + ".example/", "http://\x00/", "http://\ud800/",
        "http://" + ".".join(["a" * 60] * 5) + "/",
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_link(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["https://user:geheim@x.example/", "ftp://user:geheim@x.example/", "http://:geheim@/"])
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_link(text)
    assert "geheim" not in str(caught.value)


def test_a_canonical_link_fits_into_an_index_however_much_its_escapes_take() -> None:
    assert len(read_link("https://x.example/" + "a" * (MAX_LINK - 18)).canonical) == MAX_LINK
    for text in ("https://x.example/" + "a" * MAX_LINK, "https://x.example/" + "ü" * 400):
        with pytest.raises(InvalidInput, match="longer than"):
            read_link(text)


def test_a_pdf_is_told_by_its_path_alone() -> None:
    for text in ("https://x.example/a.pdf", "https://x.example/A.PDF?v=2", "https://x.example/a%2Epdf#page=2"):
        assert is_pdf(read_link(text))
    for text in ("https://x.example/a.pdf/", "https://x.example/?f=a.pdf", "https://x.pdf/"):
        assert not is_pdf(read_link(text))


def test_the_home_page_is_the_sites_first_and_no_other() -> None:
    for text in ("https://x.example", "https://x.example/?utm_source=a", "https://x.example/index.html#top"):
        assert is_home(read_link(text))
    for text in ("https://x.example/a", "https://x.example/?p=5", "https://x.example/#!/a", "https://x.example/en/"):
        assert not is_home(read_link(text))


def test_a_site_is_one_host_with_and_without_www_and_tls() -> None:
    one = read_link("https://www.x.example/a")
    for text in ("http://x.example/", "https://X.example./b", "https://x.example:443/"):
        assert same_site(one, read_link(text))
    for text in ("https://docs.x.example/", "https://x.example:8443/", "https://y.example/"):
        assert not same_site(one, read_link(text))
