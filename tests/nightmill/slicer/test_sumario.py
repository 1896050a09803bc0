"""The SUMARIO: what it announces, and where it ends."""

from __future__ import annotations

import pytest

from nightmill.slicer.columns import Row
from nightmill.slicer.naming import act_key, expanded
from nightmill.slicer.profiles import HONDURAS, NICARAGUA
from nightmill.slicer.sumario import read_sumario


def rows(*texts: str, column: int = 1, left: float = 330.0, top: float = 200.0, page: int = 0) -> list[Row]:
    return [
        Row(text, page, column, left, top + 12 * place, 560, top + 12 * place + 9, 8, False, 316, 572)
        for place, text in enumerate(texts)
    ]


HONDURAN = rows(
    "SUMARIO",
    "Sección A",
    "Decretos y Acuerdos",
    "PODER LEGISLATIVO",
    "Decreto No. 46-2014 A. 2-4",
    "SECRETARÍA DE AGRICULTURA",
    "Y GANADERÍA",
    "Acuerdos Nos.: 378-A-2014, 379-2014 y",
    "SE-380-2014 A.5 - 20",
    "AVANCE A. 36",
    "Sección B",
    "Avisos Legales B. 1-24",
    "Desprendible para su comodidad",
)


def test_entries_have_their_institution_and_pages() -> None:
    sumario = read_sumario(HONDURAN, HONDURAS)

    assert [(each.name, each.issuer, each.first, each.last) for each in sumario.expected] == [
        ("Decreto No. 46-2014", "PODER LEGISLATIVO", 2, 4),
        ("Acuerdo No. 378-A-2014", "SECRETARÍA DE AGRICULTURA Y GANADERÍA", 5, 20),
        ("Acuerdo No. 379-2014", "SECRETARÍA DE AGRICULTURA Y GANADERÍA", 5, 20),
        ("Acuerdo No. SE-380-2014", "SECRETARÍA DE AGRICULTURA Y GANADERÍA", 5, 20),
        ("AVANCE", "SECRETARÍA DE AGRICULTURA Y GANADERÍA", 36, 36),
    ]
    assert [each.leads for each in sumario.expected] == [True, True, False, False, True]
    assert sumario.b_pages == (1, 24)


def test_it_ends_where_the_text_under_it_begins() -> None:
    below = rows("CONSIDERANDO: Que el", *["texto que sigue"] * 20, top=400)
    other = rows("EL CONGRESO NACIONAL", column=0, left=40, top=100)
    sumario = read_sumario([*other, *HONDURAN, *below], HONDURAS)

    assert sumario.places == set(range(1, 1 + len(HONDURAN)))


def test_there_may_be_none() -> None:
    sumario = read_sumario(rows("PODER LEGISLATIVO", "DECRETO No. 46-2014"), HONDURAS)

    assert (sumario.expected, sumario.places) == ([], set())


def test_dotted_leaders_and_titles_over_several_lines_are_read() -> None:
    sumario = read_sumario(
        [
            *rows("SUMARIO", column=0, left=76, top=273),
            *rows("Pág.", column=0, left=273, top=307),
            *rows("MINISTERIO DE FOMENTO,", "INDUSTRIA Y COMERCIO", left=360, top=350),
            *rows('Estatutos "Fundación Kolping', "(OBRA KOLPING", "NICARAGUA) ........... 9423", left=316, top=383),
            *rows("Marcas de Fábrica, Comercio y Servicio....9439", left=316, top=430),
        ],
        NICARAGUA,
    )

    assert [(each.name, each.issuer, each.first) for each in sumario.expected] == [
        (
            'Estatutos "Fundación Kolping (OBRA KOLPING NICARAGUA)',
            "MINISTERIO DE FOMENTO, INDUSTRIA Y COMERCIO",
            9423,
        ),
        ("Marcas de Fábrica, Comercio y Servicio", "MINISTERIO DE FOMENTO, INDUSTRIA Y COMERCIO", 9439),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "Decretos Ejecutivos Nos.: PCM-081-2014 y PCM-83-2014",
            ["Decreto Ejecutivo No. PCM-081-2014", "Decreto Ejecutivo No. PCM-83-2014"],
        ),
        ("Decreto No. 46-2014", ["Decreto No. 46-2014"]),
        ("Certificación", ["Certificación"]),
    ],
)
def test_an_entry_may_name_several_acts(text: str, names: list[str]) -> None:
    assert expanded(text) == names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DECRETO EJECUTIVO NÚMERO PCM-081-2014", "Decreto Ejecutivo No. PCM-81-2014"),
        ("ACUERDO No. 16/2020", "Acuerdos Nos. 16-2020"),
        ("RESOLUCIÓN No. 50-2/2016", "Resolución No. 50-2/2016"),
        ("CERTIFICACIÓN", "Certificación"),
    ],
)
def test_two_spellings_of_an_act_are_one(one: str, other: str) -> None:
    assert act_key(one) == act_key(other)


def test_two_acts_are_two() -> None:
    assert act_key("DECRETO No. 16-2020") != act_key("DECRETO No. 61-2020")
    assert act_key("DECRETO No. 16-2020") != act_key("ACUERDO No. 16-2020")
