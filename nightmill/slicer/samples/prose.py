"""The words of invented gazettes: sentences, citations, names, dates. Nothing in them is real but offices."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

MONTHS = (
    "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre",
    "diciembre",
)  # fmt: skip
WEEKDAYS = ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo")

_SUBJECTS = (
    "la Secretaría", "el Instituto", "la Dirección General", "la Comisión", "el solicitante", "la municipalidad",
    "el Estado", "la empresa contratista", "el administrador", "la junta directiva", "el beneficiario",
    "la unidad ejecutora",
)  # fmt: skip
_VERBS = (
    "presentará", "deberá remitir", "revisará", "pondrá a disposición", "ejecutará", "financiará", "inscribirá",
    "evaluará", "dará seguimiento a", "publicará", "ampliará", "conservará",
)  # fmt: skip
_OBJECTS = (
    "los informes trimestrales de avance", "el presupuesto aprobado para el ejercicio fiscal",
    "las garantías de cumplimiento", "la documentación de respaldo", "el registro de proveedores",
    "las obras de mantenimiento del camino vecinal", "los equipos adquiridos", "el padrón de beneficiarios",
    "la contratación del personal técnico", "el inventario de bienes", "las tarifas del servicio",
    "los expedientes en trámite", "la red de distribución de agua potable", "el programa de becas",
)  # fmt: skip
_TAILS = (
    "dentro de los treinta días siguientes", "conforme a las normas de contabilidad aplicables",
    "sin perjuicio de las acciones que correspondan", "con cargo a los fondos asignados",
    "en todo el territorio nacional", "a más tardar el último día hábil de cada mes",
    "previo dictamen de la unidad jurídica", "según el cronograma acordado entre las partes",
    "en las oficinas regionales", "cuando así lo requiera el interés público", "por un período de cuatro años",
    "bajo la supervisión de la auditoría interna",
)  # fmt: skip
_CITING = (
    "de conformidad con lo dispuesto en el {},", "contenida en el {},", "reformado mediante {},",
    "en aplicación del {},", "creado por el {},", "según lo establece el {},",
)  # fmt: skip
_FIRST = ("Marta", "Julio", "Ana Lucía", "Óscar", "Rosa", "Edgardo", "Íngrid", "Tomás", "Wendy", "Álvaro", "Belinda")
_LAST = (
    "Zelmira", "Quintanar", "Urbizo", "Montenor", "Carías Leiva", "Ordóñez Paz", "Valdemar", "Ñurinda", "Escotero",
    "Bográn Pineda", "Alvarenga Sosa",
)  # fmt: skip
_THINGS = ("Café", "Laguna", "Norte", "Pinar", "Delta", "Cumbre", "Istmo", "Colibrí", "Sol", "Ceiba")
_TRADES = ("Industrias", "Laboratorios", "Comercial", "Inversiones", "Distribuidora", "Alimentos")


def sentence(chance: Random) -> str:
    """Return a sentence without a citation."""
    parts = [f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.choice(_OBJECTS)} {chance.choice(_TAILS)}"]
    while chance.random() < 0.4:
        parts.append(f"y {chance.choice(_VERBS)} {chance.choice(_OBJECTS)} {chance.choice(_TAILS)}")
    text = ", ".join(parts)
    return text[0].upper() + text[1:] + "."


def paragraph(chance: Random, sentences: int = 0) -> str:
    """Return some sentences."""
    return " ".join(sentence(chance) for _ in range(sentences or chance.randint(1, 5)))


def citation(chance: Random, year: int) -> str:
    """Return the name of another act as bodies cite it, now and then in capitals as a head would have it."""
    kind = chance.choice(("Decreto No. {}", "Decreto Legislativo No. {}", "Acuerdo No. {}", "Resolución No. {}",
                          "Acuerdo Ejecutivo Número {}", "Decreto Ejecutivo Número PCM-{}"))  # fmt: skip
    text = kind.format(f"{chance.randint(1, 400)}-{year - chance.randint(0, 20)}")
    return text.upper().replace("NO.", "No.") if chance.random() < 0.5 else text


def citing(chance: Random, year: int) -> str:
    """Return a sentence that cites."""
    text = sentence(chance)
    return f"{text[:-1]}, {chance.choice(_CITING).format(citation(chance, year))} {uncapitalized(sentence(chance))}"


def uncapitalized(text: str) -> str:
    """Return a sentence as it goes on after a comma."""
    return text[0].lower() + text[1:]


def person(chance: Random) -> str:
    """Return somebody's name."""
    return f"{chance.choice(_FIRST)} {chance.choice(_LAST)}"


def company(chance: Random) -> str:
    """Return a company's name."""
    end = chance.choice(("S.A. DE C.V.", "S. DE R.L.", "S.A."))
    return f"{chance.choice(_TRADES)} {chance.choice(_THINGS)} {chance.choice(_THINGS)}".upper() + f", {end}"


def brand(chance: Random) -> str:
    """Return a trademark."""
    return f"{chance.choice(_THINGS)}{chance.choice(_THINGS).lower()}".upper()


def spelled(day: date, of: str = "de") -> str:
    """Return `26 de junio de 2014`; the second `de` may be `del`."""
    return f"{day.day} de {MONTHS[day.month - 1]} {of} {day.year}"


def closing(chance: Random, city: str, day: date) -> str:
    """Return where and when an act was signed."""
    signed = day - timedelta(days=chance.randint(3, 90))
    return (
        f"Dado en la ciudad de {city}, a los {signed.day} días del mes de {MONTHS[signed.month - 1]} de {signed.year}."
    )
