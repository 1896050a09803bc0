"""PDFs that do harm to whoever reads them, written byte by byte: small files, each with one kind of malice."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pikepdf
from reportlab.pdfgen.canvas import Canvas

Objects = Mapping[int, bytes]
MIB = 1024 * 1024

PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>"
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
WORDS = b"Considerando que corresponde al Estado velar por el bienestar de todos los habitantes"


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def text(*lines: bytes) -> bytes:
    shown = b"".join(b"(%s) Tj T*\n" % line for line in lines or (WORDS,) * 4)
    return stream(b"BT /F 10 Tf 12 TL 72 700 Td\n" + shown + b"ET")


PLAIN: dict[int, bytes] = {
    1: b"<< /Type /Catalog /Pages 2 0 R >>",
    2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    3: PAGE,
    4: text(),
    5: FONT,
}
"""A page of text, to which a bomb adds what it is."""


def pdf(objects: Objects, trailer: bytes = b"", *, between: bytes = b"") -> bytes:
    """Return a file of these objects, with a right table of where they are."""
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    for number, content in objects.items():
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n%s" % (number, content, between)
    table, size = len(out), max(objects) + 1
    out += b"xref\n0 %d\n" % size
    for number in range(size):
        out += b"%010d 00000 n \n" % places[number] if number in places else b"0000000000 65535 f \n"
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, table)
    return bytes(out)


def plain(changed: Objects, trailer: bytes = b"") -> bytes:
    return pdf({**PLAIN, **changed}, trailer)


def with_page(entries: bytes, more: Objects | None = None) -> bytes:
    """Return a page of text that has these entries besides."""
    return plain({3: PAGE[:-2] + entries + b" >>", **(more or {})})


def deflated(megabytes: int) -> bytes:
    """Return a zlib stream that grows to so many megabytes of blanks, a thousandth of them as it is."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 15)
    block = packing.compress(b" " * MIB) + packing.flush(zlib.Z_FULL_FLUSH)
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    again = packing.compress(b" " * MIB) + packing.flush(zlib.Z_FULL_FLUSH)
    return block + again * (megabytes - 1) + b"\x03\x00"


# Page trees ----------------------------------------------------------------------


def page_tree_cycle() -> bytes:
    return plain(
        {2: b"<< /Type /Pages /Kids [3 0 R 6 0 R] /Count 2 >>", 6: b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"}
    )


def million_kids() -> bytes:
    return plain({2: b"<< /Type /Pages /Count 1000000 /Kids [%s] >>" % (b"3 0 R " * 1_000_000)})


def one_page_many_times() -> bytes:
    return plain({2: b"<< /Type /Pages /Count 5000 /Kids [%s] >>" % (b"3 0 R " * 5_000)})


def count_too_large() -> bytes:
    return plain({2: b"<< /Type /Pages /Kids [3 0 R] /Count 2147483647 >>"})


def count_negative() -> bytes:
    return plain({2: b"<< /Type /Pages /Kids [3 0 R] /Count -7 >>"})


def no_pages() -> bytes:
    return plain({2: b"<< /Type /Pages /Kids [] /Count 0 >>"})


def tiny_pages(count: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(6, 6 + count))
    page = PAGE.replace(b" /Contents 4 0 R", b"")
    return plain(
        {2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, kids)} | dict.fromkeys(range(6, 6 + count), page)
    )


def deep_page_tree() -> bytes:
    depth = 20_000
    nodes = {
        number: b"<< /Type /Pages /Parent %d 0 R /Kids [%d 0 R] /Count 1 >>" % (number - 1, number + 1)
        for number in range(6, 6 + depth)
    }
    nodes[6] = nodes[6].replace(b"/Parent 5 0 R", b"/Parent 2 0 R")
    nodes[6 + depth] = PAGE
    return plain({2: b"<< /Type /Pages /Kids [6 0 R] /Count 1 >>", **nodes})


# The file's structure ----------------------------------------------------------------------


def previous_table_loop() -> bytes:
    made = plain({})
    place = made.rindex(b"xref\n0")
    return made.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev %d" % place)


def table_of_billions() -> bytes:
    return plain({}).replace(b"xref\n0 6\n", b"xref\n0 999999999\n").replace(b"/Size 6", b"/Size 2147483647")


def object_stream_circle() -> bytes:
    """Every object lies in an object stream that lies in the other one."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, other in ((6, 7), (7, 6)):
        places.append(len(out))
        packed = b"1 0 %d 34 " % other + PLAIN[1] + b" " + PLAIN[2]
        out += b"%d 0 obj\n%s\nendobj\n" % (
            number,
            stream(packed, b"/Type /ObjStm /N 2 /First 10 /Extends %d 0 R" % other),
        )
    rows = b"\x00\x00\x00\x00" + b"\x02\x00\x06\x00" * 5 + b"\x02\x00\x07\x01" + b"\x02\x00\x06\x01"
    rows += b"\x01" + len(out).to_bytes(2, "big") + b"\x00"
    table = len(out)
    out += b"8 0 obj\n%s\nendobj\n" % stream(rows, b"/Type /XRef /Size 9 /W [1 2 1] /Root 1 0 R")
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % table)


def length_of_itself() -> bytes:
    return plain({4: b"<< /Length 4 0 R >>\nstream\nBT ET\nendstream"})


def nested(opening: bytes, closing: bytes, depth: int = 100_000) -> bytes:
    return with_page(b"/Deep " + opening * depth + b" 1 " + closing * depth)


def deep_arrays() -> bytes:
    return nested(b"[", b"]")


def deep_dictionaries() -> bytes:
    return nested(b"<< /D ", b" >>")


def deep_content() -> bytes:
    return plain({4: stream(b"[" * 200_000 + b"]" * 200_000 + b" TJ\n" + b"q " * 200_000)})


def truncated() -> bytes:
    whole = ordinary(12)
    return whole[: len(whole) * 2 // 3]


def garbage_between() -> bytes:
    junk = b"\x00\xff<<[((endstream obj\n" * 50
    return pdf(PLAIN, between=junk)


# Streams ----------------------------------------------------------------------


def flate_bomb() -> bytes:
    """Content of four gigabytes, deflated twice."""
    return plain({4: stream(zlib.compress(deflated(4_096), 9), b"/Filter [/FlateDecode /FlateDecode]")})


def filters_of_filters() -> bytes:
    packed = deflated(2_048)
    for _ in range(20):
        packed = zlib.compress(packed, 9)
    return plain({4: stream(packed, b"/Filter [" + b"/FlateDecode " * 21 + b"]")})


def image(width: int, height: int, content: bytes, entries: bytes) -> Objects:
    size = b"/Type /XObject /Subtype /Image /Width %d /Height %d " % (width, height)
    return {
        4: stream(b"q 612 0 0 792 0 0 cm /I Do Q"),
        6: stream(content, size + entries),
    }


IMAGE_PAGE = PAGE.replace(b"/Font << /F 5 0 R >>", b"/XObject << /I 6 0 R >>")


def huge_image() -> bytes:
    flat = b"/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode"
    return plain({3: IMAGE_PAGE, **image(30_000, 30_000, deflated(2_576), flat)})


def absurd_predictor() -> bytes:
    entries = b"/ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /FlateDecode "
    entries += b"/DecodeParms << /Predictor 15 /Columns 2147483647 /Colors 32 /BitsPerComponent 16 >>"
    return plain({3: IMAGE_PAGE, **image(100, 100, zlib.compress(b"x" * 10_000), entries)})


# Pages ----------------------------------------------------------------------


def page_of_size(box: bytes, *, scanned: bool = False) -> bytes:
    """Return a page of this size, of text or of an image; the latter is rendered for recognition."""
    if not scanned:
        return plain({3: PAGE.replace(b"[0 0 612 792]", box)})
    flat = b"/ColorSpace /DeviceGray /BitsPerComponent 8"
    return plain({3: IMAGE_PAGE.replace(b"[0 0 612 792]", box), **image(8, 8, b"\x80" * 64, flat)})


def largest_page() -> bytes:
    return page_of_size(b"[0 0 14400 14400]", scanned=True)


def absurd_page() -> bytes:
    return page_of_size(b"[0 0 1e9 1000000000]", scanned=True)


def page_of_no_number() -> bytes:
    return page_of_size(b"[0 0 NaN 1e999]")


def page_inside_out() -> bytes:
    return page_of_size(b"[612 792 -612 -792]")


def form(content: bytes, resources: bytes) -> bytes:
    return stream(content, b"/Type /XObject /Subtype /Form /BBox [0 0 612 792] /Resources << %s >>" % resources)


def form_in_itself() -> bytes:
    page = PAGE.replace(b"/Font", b"/XObject << /X 6 0 R >> /Font")
    inside = form(b"/X Do (again) Tj /X Do", b"/XObject << /X 6 0 R >>")
    return plain({3: page, 4: stream(b"/X Do"), 6: inside})


def forms_by_the_billion() -> bytes:
    """Ten forms, each of which shows the next one ten times."""
    page = PAGE.replace(b"/Font", b"/XObject << /X 6 0 R >> /Font")
    forms = {number: form(b"/X Do " * 10, b"/XObject << /X %d 0 R >>" % (number + 1)) for number in range(6, 16)}
    last = form(b"BT /F 10 Tf (ja) Tj ET", b"/Font << /F 5 0 R >>")
    return plain({3: page, 4: stream(b"/X Do"), **forms, 16: last})


def ten_million_characters() -> bytes:
    line = b"(" + b"lorem ipsum dolor sit amet " * 37 + b") Tj T*\n"
    return plain(
        {4: stream(zlib.compress(b"BT /F 1 Tf 1 TL 0 792 Td\n" + line * 10_000 + b"ET"), b"/Filter /FlateDecode")}
    )


def broken_maps() -> bytes:
    """A font whose map to Unicode maps four thousand million codes, names itself, and breaks off."""
    cmap = b"/M usecmap begincmap 1 begincodespacerange <00> <FFFFFFFF> endcodespacerange\n"
    cmap += b"100 beginbfrange\n" + b"<00000000> <FFFFFFFF> <0041>\n" * 100 + b"endbfrange 1 beginbfchar <41> <D800"
    font = b"<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /ToUnicode 6 0 R"
    font += b" /DescendantFonts [7 0 R] >>"
    inside = b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /W [0 2147483647 600] /CIDToGIDMap 6 0 R >>"
    return plain({5: font, 6: stream(cmap, b"/UseCMap 6 0 R"), 7: inside})


def glyphs_in_themselves() -> bytes:
    """A font of Type 3 whose glyph is a text in the same font."""
    font = b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1 1] /FontMatrix [1 0 0 1 0 0] /FirstChar 97 /LastChar 97"
    font += b" /Widths [1] /Encoding << /Differences [97 /a] >> /CharProcs << /a 6 0 R >>"
    font += b" /Resources << /Font << /F 5 0 R >> >> >>"
    return plain({4: text(b"aaaa"), 5: font, 6: stream(b"1 0 d0 BT /F 1 Tf (aaaa) Tj ET")})


def patterns_in_themselves() -> bytes:
    page = PAGE.replace(b"/Font", b"/Pattern << /P 6 0 R >> /Font")
    tile = b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep 0.0001 /YStep 0.0001"
    inside = stream(b"/Pattern cs /P scn 0 0 1 1 re f", tile + b" /Resources << /Pattern << /P 6 0 R >> >>")
    return plain({3: page, 4: stream(b"/Pattern cs /P scn 0 0 612 792 re f"), 6: inside})


# The catalogue ----------------------------------------------------------------------


def catalogue(entries: bytes, more: Objects) -> bytes:
    return plain({1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % entries, **more})


def outline_cycle() -> bytes:
    item = b"<< /Title (Round) /Parent 6 0 R /Next 8 0 R /First 6 0 R /Dest [3 0 R /Fit] >>"
    return catalogue(
        b"/Outlines 6 0 R",
        {6: b"<< /First 7 0 R /Last 8 0 R /Count -99 >>", 7: item, 8: item.replace(b"/Next 8", b"/Next 7")},
    )


def names_in_circles() -> bytes:
    item = b"<< /Title (Where) /Parent 6 0 R /Dest (nowhere) >>"
    names = {8: b"<< /Kids [9 0 R 8 0 R] /Limits [(a) (z)] >>", 9: b"<< /Kids [8 0 R] /Limits [(a) (z)] >>"}
    return catalogue(
        b"/Outlines 6 0 R /Names << /Dests 8 0 R >>", {6: b"<< /First 7 0 R /Last 7 0 R >>", 7: item, **names}
    )


def absurd_labels() -> bytes:
    many = b"0 << /S /A /St 2147483647 >> 1 << /S /r /St 2000000000 /P (" + b"p" * 100_000 + b") >>"
    return catalogue(
        b"/PageLabels 6 0 R",
        {6: b"<< /Kids [6 0 R 7 0 R] /Nums [%s] >>" % many, 7: b"<< /Kids [6 0 R] /Limits [0 99] /Nums [%s] >>" % many},
    )


def actions() -> bytes:
    """What a reader might run: a script, a program, a form that is sent, a file that is embedded."""
    script = b"<< /S /JavaScript /JS (while (true) { app.alert(1) })"
    script += b" /Next << /S /Launch /F (/bin/sh) /Win << /F (c) >> >> >>"
    more = b"/OpenAction 6 0 R /AA << /WC 6 0 R >> /Names << /JavaScript << /Names [(a) 6 0 R] >> >>"
    return catalogue(more + b" /AcroForm << /XFA 7 0 R /Fields [] >>", {6: script, 7: stream(b"<xdp/>")})


# Locks ----------------------------------------------------------------------


def ordinary(pages: int = 1) -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, invariant=1)
    for _ in range(pages):
        for line in range(20):
            canvas.drawString(72, 700 - 20 * line, WORDS.decode())
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def locked(user: str) -> bytes:
    target = io.BytesIO()
    with pikepdf.open(io.BytesIO(ordinary())) as document:
        document.save(target, encryption=pikepdf.Encryption(owner="owner", user=user))
    return target.getvalue()


def unknown_lock() -> bytes:
    return plain({6: b"<< /Filter /Acme.Lock /V 99 /R 99 /O (x) /U (y) /P -1 >>"}, b"/Encrypt 6 0 R /ID [(a) (b)]")


@dataclass(frozen=True)
class Bomb:
    """One of them.

    Attributes:
        make: Returns its bytes.
        ends: How reading it may end: `sliced`, or error codes.
        options: Of the slicer.
        says: Part of what a person is told of it where it is sliced.
        slow: Whether it takes more than a second or two.
    """

    make: Callable[[], bytes]
    ends: Sequence[str] = ("sliced",)
    options: Sequence[str] = ("--mode", "every", "--pages", "10", "--ocr", "never")
    says: str = ""
    slow: bool = False

    @property
    def name(self) -> str:
        """What it is."""
        return self.make.__name__


def hundred_thousand_pages() -> bytes:
    return tiny_pages(100_000)


def five_thousand_pages() -> bytes:
    return tiny_pages(5_000)


def locked_for_readers() -> bytes:
    return locked("secret")


def locked_for_writers() -> bytes:
    return locked("")


RECOGNIZED = ("--mode", "every", "--pages", "10", "--ocr-timeout", "5")
OUTLINE = ("--mode", "outline", "--ocr", "never")
CLOCKS = ("cpu_clock", "wall_clock")
NO_MEMORY = ("out_of_memory",)
BOMBS = (
    Bomb(page_tree_cycle, says="2 pages by one count"),
    Bomb(million_kids, (*NO_MEMORY, "too_large"), slow=True),
    Bomb(one_page_many_times, ("sliced", *CLOCKS), slow=True),
    Bomb(count_too_large),
    Bomb(count_negative, slow=True),
    Bomb(no_pages, ("damaged_pdf",)),
    Bomb(hundred_thousand_pages, ("too_large",), slow=True),
    Bomb(five_thousand_pages, ("sliced", *CLOCKS), slow=True),
    Bomb(deep_page_tree, ("damaged_pdf",), slow=True),
    Bomb(previous_table_loop),
    Bomb(table_of_billions),
    Bomb(object_stream_circle, ("damaged_pdf",)),
    Bomb(length_of_itself, slow=True),
    Bomb(deep_arrays, says="damaged", slow=True),
    Bomb(deep_dictionaries, says="damaged"),
    Bomb(deep_content, slow=True),
    Bomb(truncated, says="repaired"),
    Bomb(garbage_between),
    Bomb(flate_bomb, NO_MEMORY),
    Bomb(filters_of_filters, NO_MEMORY, slow=True),
    Bomb(huge_image, says="image cannot be read"),
    Bomb(absurd_predictor, slow=True),
    Bomb(largest_page, ("sliced", *CLOCKS), RECOGNIZED, slow=True),
    Bomb(absurd_page),
    Bomb(page_of_no_number),
    Bomb(page_inside_out, slow=True),
    Bomb(form_in_itself, (*NO_MEMORY, *CLOCKS), slow=True),
    Bomb(forms_by_the_billion, (*NO_MEMORY, *CLOCKS), slow=True),
    Bomb(ten_million_characters, ("sliced", *NO_MEMORY), slow=True),
    Bomb(broken_maps),
    Bomb(glyphs_in_themselves, options=RECOGNIZED, slow=True),
    Bomb(patterns_in_themselves, ("sliced", *CLOCKS), RECOGNIZED, slow=True),
    Bomb(outline_cycle, options=OUTLINE),
    Bomb(names_in_circles, options=OUTLINE, says="no slices were found", slow=True),
    Bomb(absurd_labels),
    Bomb(actions),
    Bomb(locked_for_readers, ("encrypted_pdf",)),
    Bomb(locked_for_writers),
    Bomb(unknown_lock, ("encrypted_pdf",)),
)
