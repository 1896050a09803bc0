"""Heads: what begins an act, and what only looks like it."""

from __future__ import annotations

import pytest

from nightmill.slicer.columns import Row
from nightmill.slicer.heads import Head, Type, find_heads, find_issuers, with_issuers
from nightmill.slicer.profiles import HONDURAS

TYPE = Type([9.0], has_bold=True)
WIDTH = 256.0


def row(text: str, top: float, *, size: float = 9.0, bold: bool = False, centred: bool = True) -> Row:
    width = min(len(text) * size * 0.5, WIDTH)
    left = 40 + (WIDTH - width) / 2 if centred else 40.0
    return Row(text, 0, 0, left, top, left + width, top + size * 1.1, size, bold, 40, 40 + WIDTH)


def heads(*rows: Row, kind: Type = TYPE) -> list[Head]:
    return find_heads(rows, kind, HONDURAS, ())


@pytest.mark.parametrize(
    "text",
    [
        "DECRETO No. 100-2014",
        "DECRETO EJECUTIVO NÚMERO PCM-081-2014",
        "ACUERDO No. 16/2020",
        "ACUERDO No. 2188-SE-2014",
        "ACUERDO No. FGR-007-2022",
        "ACUERDO EJECUTIVO NÚMERO 001-SEDIS-2017",
        "ACUERDO SE-035-2016",
        "Resolución No. 50-2/2016",
        "CERTIFICACIÓN",
        "CONTRATO",
        "CONVENIO",
        "REGLAMENTO",
        "FE DE ERRATAS",
        "AVANCE",
    ],
)
def test_every_kind_of_head_is_found(text: str) -> None:
    assert [head.name for head in heads(row(text, 100, bold=True))] == [text]
    assert [head.name for head in heads(row(text, 100, size=11))] == [text]


@pytest.mark.parametrize(
    "cited",
    [
        row("Decreto No. 38-2020", 100, centred=False),
        row("DECRETO No. 38-2020", 100, bold=True, centred=False),
        row("DECRETO No. 38-2020", 100),
        row("DECRETO No. 38-2020 de fecha cuatro de mayo", 100, bold=True),
        row("DECRETO No. 38-2020, y", 100, bold=True),
        row("ACUERDO", 100, bold=True),
        row("ACUERDA:", 100, bold=True),
        row("decreto No. 38-2020", 100, bold=True),
    ],
    ids=lambda cited: f"{cited.text}{' bold' if cited.bold else ''}{' centred' if cited.is_inset else ''}",
)
def test_a_citation_is_no_head(cited: Row) -> None:
    assert heads(cited) == []


def test_a_title_that_cites_an_act_line_by_line_is_no_head() -> None:
    title = [row("REFORMA DEL", 100, bold=True), row("DECRETO No. 38-2020", 110, bold=True)]

    assert heads(*title) == []
    assert len(heads(row("SECRETARIO GENERAL", 60, bold=True), title[1])) == 1


def test_a_head_over_two_lines_is_one() -> None:
    (head,) = heads(row("DECRETO EJECUTIVO", 100, bold=True), row("NÚMERO PCM-081-2014", 111, bold=True))

    assert (head.name, head.last) == ("DECRETO EJECUTIVO NÚMERO PCM-081-2014", 1)


def test_where_nothing_is_known_of_bold_type_a_head_has_room_on_both_sides() -> None:
    unknown = Type([9.0], has_bold=False)

    assert len(heads(row("DECRETO No. 38-2020", 100), kind=unknown)) == 1
    assert heads(row("Decreto No. 38-2020", 100, centred=False), kind=unknown) == []


def test_rows_of_the_sumario_are_no_heads() -> None:
    assert find_heads([row("DECRETO No. 38-2020", 100, bold=True)], TYPE, HONDURAS, {0}) == []


def test_an_institution_over_several_lines_belongs_to_the_heads_under_it() -> None:
    rows = [
        row("texto de otro acto que termina aquí", 80, centred=False),
        row("Secretaría de Estado", 100, size=16, bold=True),
        row("en los Despachos de", 119, size=16, bold=True),
        row("Agricultura y Ganadería", 138, size=16, bold=True),
        row("ACUERDO No. 16/2020", 165, size=11, bold=True),
        row("CONSIDERANDO: Que el texto", 180, centred=False),
        row("ACUERDO No. 17/2020", 265, size=11, bold=True),
    ]
    found = heads(*rows)
    with_issuers(found, find_issuers(rows, TYPE, HONDURAS, found, ()), rows)

    assert [head.issuer for head in found] == ["Secretaría de Estado en los Despachos de Agricultura y Ganadería"] * 2
    assert [head.first for head in found] == [1, 6]


def test_an_office_under_a_signature_is_no_institution() -> None:
    rows = [
        row("SECRETARÍA GENERAL", 100, bold=True),
        row("CONSIDERANDO: Que el texto", 120, centred=False),
        row("ACUERDO No. 17/2020", 265, size=11, bold=True),
    ]

    assert find_issuers(rows, TYPE, HONDURAS, heads(*rows), ()) == []
