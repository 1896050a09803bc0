"""Writes set pages as a PDF."""

from __future__ import annotations

from io import BytesIO
from random import Random

from reportlab import rl_config
from reportlab.pdfgen.canvas import Canvas

from nightmill.slicer.samples.options import SampleOptions
from nightmill.slicer.samples.press import HEIGHT, WIDE, WIDTH, Run, Sheet

rl_config.useA85 = 0  # bytes as text: a fifth larger, and a fifth of the whole time

TURNED = {
    0: (1, 0, 0, 1, 0, 0),
    90: (0, 1, -1, 0, HEIGHT, 0),
    180: (-1, 0, 0, -1, WIDTH, HEIGHT),
    270: (0, -1, 1, 0, 0, WIDTH),
}
"""How the content has to lie so that a page with this `/Rotate` is seen upright."""
_ESCAPED = {
    ord(bytes([code]).decode("cp1252", "ignore") or "\0"): f"\\{code:03o}" for code in (*b"()\\", *range(128, 256))
}
"""How a string in a PDF has the characters that are not plain; the fonts have Windows' code page."""
WATERMARK = "Procesamiento Técnico Documental Digital UDI-DEGT-UNAH"


def draw(sheets: list[Sheet], options: SampleOptions) -> bytes:
    """Return the PDF of the pages."""
    chance = Random(f"drawing {options.country} {options.seed}")  # noqa: S311 - a sample, not a secret
    target = BytesIO()
    canvas = Canvas(target, pagesize=(WIDTH, HEIGHT), pageCompression=1, invariant=1)
    canvas.setTitle("La Gaceta")
    for page, sheet in enumerate(sheets):
        turn = chance.choice((0, 90, 180, 270)) if options.rotated else 0
        canvas.setPageRotation(turn)  # which also turns the page's box
        canvas.saveState()
        canvas.transform(*TURNED[turn])
        if options.forms:
            canvas.beginForm(f"page{page}", 0, 0, WIDTH, HEIGHT)
        _draw_sheet(canvas, sheet, options, chance)
        if options.forms:
            canvas.endForm()
            canvas.doForm(f"page{page}")
        canvas.restoreState()
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def _draw_sheet(canvas: Canvas, sheet: Sheet, options: SampleOptions, chance: Random) -> None:
    canvas.setLineWidth(0.6)
    for rule in sheet.rules:
        canvas.line(rule.x0, HEIGHT - rule.y0, rule.x1, HEIGHT - rule.y1)
    parts = [[run for run in sheet.runs if run.column == column] for column in (WIDE, 0, 1)]
    if options.tangled:
        chance.shuffle(parts)
    runs = [run for part in parts for run in part]
    if options.watermark:
        runs = _with_watermark(runs)
    _write(canvas, runs, options.shadows)


def _with_watermark(runs: list[Run]) -> list[Run]:
    """Return the lines with a letter after each of the first ones, down the right margin."""
    marked: list[Run] = []
    letters = list(enumerate(WATERMARK.replace(" ", "")))
    for run in runs:
        marked.append(run)
        if letters:
            place, letter = letters.pop(0)
            marked.append(Run(WIDTH - 24, 90 + 12.0 * place, letter, "Helvetica", 8))
    return marked


def _write(canvas: Canvas, runs: list[Run], shadows: bool) -> None:
    """Write the lines as PDF's own operators: reportlab's text objects take three times as long."""
    font, size, spacing = "", 0.0, 0.0
    for run in runs:
        if (run.font, run.size) != (font, size):
            font, size = run.font, run.size
            canvas.setFont(font, size)
        if run.spacing != spacing:
            spacing = run.spacing
            canvas.addLiteral(f"{spacing:.3f} Tw")
        text = run.text.translate(_ESCAPED)
        for copy in range(run.shadow if shadows else 1):
            canvas.addLiteral(
                f"BT 1 0 0 1 {run.x + copy * 0.5:.2f} {HEIGHT - run.y - copy * 0.4:.2f} Tm ({text}) Tj ET"
            )
    if spacing:
        canvas.addLiteral("0 Tw")
