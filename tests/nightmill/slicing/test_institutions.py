from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import pytest

from nightmill.errors import NotConfigured
from nightmill.slicing.institutions import InstitutionNames

BANK = "Banco Central de Honduras"
TABLE = """\ufeffname,other name
Banco Central de Honduras,BCH
Banco Central de Honduras,Banco Central
Secretaría de Finanzas,SEFIN,Finanzas
"Comisión Nacional de Bancos y Seguros",C.N.B.S.
Empresa C++,C++ (compiladores)
Instituto Ñandú

Servicio [a-z]+,.*
"""


@pytest.fixture
def names(tmp_path: Path) -> InstitutionNames:
    return InstitutionNames.load(_file(tmp_path, TABLE.replace("Servicio [a-z]+,.*\n", "Servicio [a-z]+\n")))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BCH", [BANK]),
        ("el bch.", [BANK]),
        ("(BCH)", [BANK]),
        ("ABCH BCHA 1BCH BCH2", []),
        ("EL BANCO CENTRAL DE HONDURAS", [BANK]),
        ("el Banco  Central\nde Honduras", [BANK]),
        ("el Banco Centrale", []),
        ("SECRETARIA DE FINANZAS", ["Secretaría de Finanzas"]),
        ("Secretari\u0301a de Finanzas", ["Secretaría de Finanzas"]),
        ("la Comisio\u0301n, C.N.B.S., dijo", ["Comisión Nacional de Bancos y Seguros"]),
        ("CNBS", []),
        ("C N B S", []),
        ("c", []),
        ("la c++ (COMPILADORES)", ["Empresa C++"]),
        ("instituto nandu", ["Instituto Ñandú"]),
        ("servicio abc", []),
        ("servicio [A-Z]+", ["Servicio [a-z]+"]),
        ("Finanzas y el BCH, y Finanzas", ["Secretaría de Finanzas", BANK]),
        ("", []),
    ],
)
def test_names_are_found_as_whole_words_whatever_case_and_accents(
    names: InstitutionNames, text: str, found: list[str]
) -> None:
    assert names.found_in(text) == found


def test_a_name_within_a_longer_one_is_found_too() -> None:
    names = InstitutionNames([("Short", "Banco Central"), ("Long", "Banco Central de Honduras"), ("Tail", "Honduras")])

    assert names.found_in("Banco Central de Honduras") == ["Short", "Long", "Tail"]


def test_without_a_file_nothing_is_found() -> None:
    assert InstitutionNames.load(None).found_in("BCH") == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"name,other\n,BCH\n", "row 2: the official name"),
        (b"Banco,BCH\nX,***\n", "row 2: '***' has neither letter nor digit"),
        (b"Banco\n" + b"x" * 501 + b"\n", "row 2: a name of more than 500"),
        (b'Banco,"BCH\n', "row 1"),
        ("Comisión".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(tmp_path: Path, table: bytes, said: str) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(table)

    with pytest.raises(NotConfigured, match=r"NIGHTMILL_SLICING__INSTITUTIONS.*" + said.replace("*", r"\*")):
        InstitutionNames.load(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="cannot be read"):
        InstitutionNames.load(tmp_path / "none.csv")


def test_a_megabyte_is_searched_for_two_thousand_names_in_a_moment() -> None:
    chance = random.Random(7)
    words = ["secretaria", "de", "estado", "instituto", "nacional", *(f"palabra{n}" for n in range(2_000))]
    pairs = [(f"I{n}", " ".join(["Secretaría de Estado", *chance.choices(words, k=4)])) for n in range(2_000)]
    names = InstitutionNames(pairs)
    text = " ".join(chance.choices(words[:5] * 80 + words, k=130_000))
    text = f"{pairs[5][1]} {text} {pairs[1_999][1].upper()}"
    assert len(text) > 1_000_000

    begun = time.process_time()
    found = names.found_in(text)

    assert time.process_time() - begun < 2  # 0.25 s on two cores of 2.5 GHz; an alternation of 2,000 takes minutes
    assert {"I5", "I1999"} <= set(found)


def _file(folder: Path, table: str) -> Path:
    path = folder / "names.csv"
    path.write_text(table, encoding="utf-8")
    return path


def test_names_are_found_wherever_a_long_text_is_parted(names: InstitutionNames) -> None:
    for blanks in range(9_980, 10_001):
        assert names.found_in(f"{'x' * blanks} Banco Central\n{'y' * 12_000} SEFIN") == [BANK, "Secretaría de Finanzas"]


def test_a_hostile_text_takes_little_memory() -> None:
    names = InstitutionNames([(BANK, BANK)])
    text = "\ufdfa a " * 20_000  # one letter that becomes eighteen
    tracemalloc.start()
    try:
        assert names.found_in(f"{text} {BANK}") == [BANK]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
