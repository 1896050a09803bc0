"""A real issue, scanned with a text layer: La Gaceta of Nicaragua no. 214 of 2014; the environment has its path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nightmill.slicer.engine import cut_pages
from nightmill.slicer.model import Cut
from nightmill.slicer.reading import read_pages

PATH = os.environ.get("NIGHTMILL_REAL_GAZETTE")

pytestmark = pytest.mark.skipif(PATH is None, reason="NIGHTMILL_REAL_GAZETTE names no file")

FIRST_PRINTED = 9422

ENTRIES = [
    (9423, "Estatutos", "MINISTERIO DE GOBERNACIÓN", "MINISTERIO DE GOBERNACIÓN\nESTATUTOS"),
    (9429, "Estatutos", "MINISTERIO DE GOBERNACIÓN", 'ESTATUTOS "CONGREGACIÓN'),
    (9436, "Resoluciones", "MINISTERIO DE EDUCACIÓN", "MINISTERIO DE EDUCACIÓN\nReg. 21480"),
    (9438, "Acuerdo Ministerial Nº 042-2014", "MINISTERIO DE FOMENTO, INDUSTRIA Y COMERCIO", "MINISTERIO DE FOMENTO,"),
    (9439, "Marcas de Fábrica", "MINISTERIO DE FOMENTO, INDUSTRIA Y COMERCIO", "MARCAS DE FÁBRICA"),
    (
        9446,
        "Acuerdo Ministerial No-079-DM-550-2014",
        "MINISTERIO DE ENERGÍA Y MINAS",
        "MINISTERIO DE ENERGÍA Y MINAS\nReg.",
    ),
    (9449, "Resolución Administrativa Nº 97-2014", "INSTITUTO NACIONAL FORESTAL", "INSTITUTO NACIONAL FORESTAL\nReg."),
    (9453, "Licitación Selectiva Nº 070-2014", "EMPRESA NICARAGÜENSE DE ACUEDUCTOS", "EMPRESA NICARAGÜENSE"),
    (9453, "Edictos", "DIRECCIÓN GENERAL DE SERVICIOS ADUANEROS", "DIRECCIÓN GENERAL\nDE SERVICIOS"),
    (9454, "Edicto", "COMISIÓN NACIONAL DE REGISTRO", "COMISIÓN NACIONAL DE REGISTRO"),
    (9454, "Edictos", "SECCIÓN JUDICIAL", "SECCIÓN JUDICIAL\nReg."),
    (9455, "Títulos Profesionales", "UNIVERSIDADES", "UNIVERSIDADES\nTÍTULOS"),
]


@pytest.fixture(scope="module")
def found() -> Cut:
    return cut_pages(list(read_pages(Path(PATH or ""))))


def test_its_number_and_date_are_read(found: Cut) -> None:
    assert (found.extras["profile"], found.number, found.issued_on) == ("nicaragua", "214", "2014-11-11")


def test_every_entry_of_its_sumario_is_cut_on_its_page(found: Cut) -> None:
    assert len(found.pieces) == len(ENTRIES)
    for piece, (printed, name, issuer, beginning) in zip(found.pieces, ENTRIES, strict=True):
        assert piece.start_page == printed - FIRST_PRINTED
        assert piece.name.startswith(name)
        assert piece.issuer.startswith(issuer)
        assert piece.full_text.startswith(beginning)
    assert found.pieces[-1].end_page == 47
    assert found.flags == []


def test_its_trademarks_are_listed(found: Cut) -> None:
    (marcas,) = [piece for piece in found.pieces if piece.name == "Marcas de Fábrica"]
    numbers = [record["number"] for record in marcas.extras["records"]]

    assert {"2014-004028", "2014-004029", "2014-004030", "2014-003099"} <= set(numbers)
