"""One run of the slicer: reads a document's pages, cuts it, and writes its slices."""

from __future__ import annotations

from typing import Any

from nightmill.slicer import modes
from nightmill.slicer.agreement import AgreedPdf, agreed_pdf
from nightmill.slicer.model import Cut, Page
from nightmill.slicer.ocr import read_all
from nightmill.slicer.opening import PdfProblem
from nightmill.slicer.options import Options
from nightmill.slicer.output import pages_result, result_of
from nightmill.slicer.pages_file import FILE_NAME, PagesProblem, read_pages_files, write_pages
from nightmill.slicer.progress import Progress
from nightmill.slicer.writing import most_bytes, prepare_folder, write_pieces


def run(options: Options) -> dict[str, Any]:
    """Do what is asked for, and return what is to be printed.

    Raises:
        PdfProblem: The PDF cannot be sliced.
        PagesProblem: The files of pages do not fit it, or it has not the pages that are to be read.
        OutputProblem: The output folder cannot be used.
        OSError: The disk is full, or the output folder has gone.
    """
    _refuse_unreadable(options)
    prepare_folder(options.output_dir)
    with agreed_pdf(options.pdf, options.output_dir, max_pages=options.max_pages) as agreed:
        return _read_only(options, agreed) if options.read_pages is not None else _cut(options, agreed)


def _refuse_unreadable(options: Options) -> None:
    try:
        if not options.pdf.is_file():
            raise PdfProblem("damaged", f"{options.pdf}: there is no such file")
        options.pdf.open("rb").close()
    except OSError as error:
        raise PdfProblem("damaged", f"{options.pdf}: {error.strerror}") from None


def _read_only(options: Options, agreed: AgreedPdf) -> dict[str, Any]:
    assert options.read_pages is not None  # noqa: S101 - asked by the only caller
    first, last = options.read_pages
    count = len(agreed.pages)
    if last >= count:
        raise PagesProblem(f"pages {first}-{last} were to be read, and the document has {count}, counted from 0")
    progress = Progress(last - first + 1)
    pages = read_all(agreed.path, options.recognition, first=first, last=last, on_page=progress.page)
    write_pages(pages, options.output_dir, count, first, last)
    return pages_result(count, FILE_NAME, first, last, agreed.flags)


def _cut(options: Options, agreed: AgreedPdf) -> dict[str, Any]:
    progress = Progress(len(agreed.pages))
    pages = _pages(options, agreed, progress)
    cut = _pieces(options, agreed, pages)
    bound = most_bytes(options.pdf.stat().st_size)
    written = list(write_pieces(agreed.pages, cut.pieces, options.output_dir, max_bytes=bound, on_file=progress.beat))
    result = result_of(cut, pages, written, agreed.flags, options.max_text)
    # A gazette's front page is in no slice, and whoever names page ranges leaves out what they do not want. The engine
    # says itself which pages it could not place.
    result["covers"] = options.mode not in {"gazette", "ranges"}
    return result


def _pages(options: Options, agreed: AgreedPdf, progress: Progress) -> list[Page]:
    if options.pages_from is None:
        return list(read_all(agreed.path, options.recognition, on_page=progress.page))
    pages = read_pages_files(options.pages_from, len(agreed.pages))
    progress.page(len(pages))
    return pages


def _pieces(options: Options, agreed: AgreedPdf, pages: list[Page]) -> Cut:
    match options.mode:
        case "outline":
            return modes.cut_outline(pages, modes.read_outline(agreed.path), options.depth)
        case "ranges":
            return modes.cut_ranges(pages, options.ranges)
        case "every":
            return modes.cut_every(pages, options.pages)
        case "heading":
            assert options.pattern is not None  # noqa: S101 - `parse` asks for it
            heading = modes.Heading(options.pattern, options.min_size, options.bold, options.centred)
            return modes.cut_headings(pages, heading)
        case _:
            from nightmill.slicer.engine import cut_pages  # 0.1 s, which other modes do without

            return cut_pages(pages, options.profile)
