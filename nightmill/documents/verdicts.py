"""Whether a page that came with status 200 has content at all.

Each verdict needs two signs that do not depend on each other, and little text: a page that writes *about* missing pages,
scripts or passwords must not be taken for one. What is in doubt is content.
"""

# ruff: noqa: E501, RUF001 - phrases of many languages, in their own letters

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nightmill.documents.fingerprint import normalized
from nightmill.errors import PageAccessDenied, PageEmpty, PageNotFound

if TYPE_CHECKING:
    from nightmill.documents.texts import PageTexts

SHORT = 1_500
"""Characters; pages that say that they do not exist say no more, whatever they offer instead."""

VERY_SHORT = 250
"""Characters; with so little, a title that says so is enough."""

_PARTS = re.compile(r"\s+[|–—·•:»-]+\s+|\s*[|·•»]\s*|:\s+")

# What the title or a heading says in full, apart from the name of the site. The words of browsers, servers and common
# systems in the fifteen languages with most pages (w3techs.com/technologies/overview/content_language, read 2026-11).
_NOT_FOUND_TITLE = re.compile(
    r"(?:http\s*)?(?:error|fehler|erreur|errore|erro|fout|błąd|ошибка|エラー|错误|오류|hata|virhe|fel|fejl|feil|chyba)?[\s:#-]*"
    r"(?:code\s*)?404(?:[\s!.:-]*(?:error|fehler|erreur|page|seite|not found|file not found|page not found|nicht gefunden"
    r"|non trouvée|no encontrada|non trovata|não encontrada|niet gevonden|nie znaleziono))?"
    r"|(?:oops|sorry|uh[- ]oh|whoops|ups|hoppla|oh no)?[\s,!.…:-]*(?:"
    r"(?:the |this |that |your |requested )*+(?:page|file|document|article|content|url|resource|object)"
    r"(?: you requested| you are looking for)?"
    # Possessive, the longer word first: such titles come from strangers, and must not be tried in all ways.
    r"(?: was| is| could| cannot| can|n't|'t|’t| not| been| be| has| does| no longer|'s| found| exists| exist"
    r"| available| removed| deleted| moved){2,}+"
    r"|not found|nothing found|nothing here|page missing|missing page|page unavailable"
    r"|(?:die |diese )?(?:seite|datei|artikel)(?: wurde| konnte| ist| existiert)?(?: leider)? (?:nicht|nicht mehr) "
    r"(?:gefunden|vorhanden|verfügbar)(?: werden)?|nicht gefunden|(?:die |diese )?seite existiert nicht(?: mehr)?"
    r"|(?:la |cette )?page (?:non trouvée|introuvable|inexistante|pas trouvée|n['’]existe (?:pas|plus))|introuvable"
    r"|(?:la )?página no (?:encontrada|existe|disponible|se encuentra)|no encontrad[oa]|no se encontró la página"
    r"|(?:la )?pagina (?:non trovata|inesistente|non esiste|non disponibile)"
    r"|(?:a )?página não (?:encontrada|existe|disponível)|não encontrad[oa]"
    r"|(?:deze )?pagina (?:is )?niet gevonden|pagina bestaat niet(?: meer)?"
    r"|(?:nie znaleziono strony|strona nie (?:została znaleziona|istnieje)|nie znaleziono)"
    r"|(?:страница не (?:найдена|существует)|не найдено)|сторінку не знайдено"
    r"|sidan (?:hittades inte|kunde inte hittas|finns inte)|siden (?:blev ikke fundet|ble ikke funnet|findes ikke|finnes ikke)"
    r"|sivua ei (?:löydy|löytynyt)|stránka (?:nenalezena|nebyla nalezena|neexistuje)|az oldal nem található"
    r"|sayfa bulunamadı|pagina nu a fost găsită|η σελίδα δεν βρέθηκε"
    r"|(?:お探しの)?ページ(?:が|は)?(?:見つかりません(?:でした)?|存在しません)|页面(?:不存在|未找到|没有找到)|找不到(?:该)?页面|找不到(?:此)?網頁"
    r"|페이지를 찾을 수 없(?:습니다|음)|không tìm thấy trang|halaman tidak ditemukan|הדף לא נמצא|الصفحة غير موجودة"
    r")[\s!.…:(]*(?:404)?[\s)!.…]*",
    re.IGNORECASE,
)

# How such pages speak to the reader of what he asked for. Texts about them speak of servers and clients.
_APOLOGY = re.compile(
    r"(?:page|file|document|article|content|resource|url|link)s?\b[^.!?]{0,60}\b(?:you|requested|this server)\b[^.!?]{0,80}"
    r"|\b(?:you(?:'re| are)? (?:looking|trying|searching|requested)|requested (?:url|page|resource|document))\b[^.!?]{0,60}"
    r"|can(?:'t|not|’t) find (?:the|that|this|a) (?:page|file|document)"
    r"|(?:seite|datei|adresse|inhalt)[^.!?]{0,60}(?:gesucht|gewünscht|angefordert|aufgerufen|nicht (?:mehr )?(?:gefunden|existiert|vorhanden))"
    r"|page (?:que vous|demandée|recherchée)|página (?:que busca|que está buscando|solicitada|que você|que procura)"
    r"|pagina (?:che (?:stai|hai)|richiesta|cercata|die u|die je|opgevraagde)|strona,? której|запрашиваем\w+ страниц"
    r"|お探しのページ|您(?:访问|要找|请求)的(?:页面|网页)|요청하신 페이지",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"status codes?|response codes?|error codes?|\bservers? (?:respond|return|send|cannot find|can't find)|\bweb ?masters?\b"
    r"|\bclient[- ]side|\brfc\s?\d{4}|statuscode|http-status|codes? d['’]état|código de estado|codice di stato",
    re.IGNORECASE,
)

_NEEDS_SCRIPTS = re.compile(
    r"(?:enable|requires?|need|turn on|activate|without|supports?)\b[^.!?]{0,40}\bjava ?script|java ?script\b[^.!?]{0,60}"
    r"\b(?:enabled?|required|disabled|turned (?:on|off)|to run this app)|javascript[^.!?]{0,40}(?:aktivier|activ|habilit|attiva)",
    re.IGNORECASE,
)
_LOADING = re.compile(
    r"(?:loading|please wait|wird geladen|chargement|cargando|caricamento|carregando|загрузка)?[\s.…]*", re.IGNORECASE
)
_ROOT = re.compile(
    r"(?:root|app|__next|__nuxt|___gatsby|svelte|main-app|react-root|app-root|q-app|elm|ember\w*)", re.IGNORECASE
)
_CHALLENGE = re.compile(
    r"just a moment|attention required|checking your browser|verify(?:ing)? (?:that )?you are (?:a )?human",
    re.IGNORECASE,
)
_CHALLENGE_TEXT = re.compile(
    r"cloudflare|ray id|security (?:of your connection|check|service)|captcha|bots?\b|human", re.IGNORECASE
)
_LOGIN = re.compile(
    r"(?:please )?(?:log ?in|sign ?in|log ?on|anmeld(?:en|ung)|einloggen|login|(?:se )?connect(?:er|ez-vous|ion)|identifiez-vous"
    r"|iniciar sesión|inicia sesión|acced(?:er|i)|entrar|inloggen|aanmelden|zaloguj się|logowanie|войти|вход|ログイン|登录|로그인)"
    r"(?: required| to continue| to your account| page)?[\s!.…]*",
    re.IGNORECASE,
)


def refuse_pages_without_content(page: PageTexts) -> None:
    """Return if the page has content, or may have.

    Raises:
        PageNotFound: It says that there is no such page.
        PageAccessDenied: It asks to log in, or to prove that one is a person.
        PageEmpty: Nothing is left without the boilerplate, or scripts would have to fill it.
    """
    if _is_soft_404(page):
        raise PageNotFound("the page says that it does not exist, with status 200", reason="soft_404")
    if len(page.visible) < SHORT:
        if _is_challenge(page):
            raise PageAccessDenied("the site wants proof that a person is asking", reason="challenge")
        if _is_login(page):
            raise PageAccessDenied("the page asks to log in", reason="login_wall")
    if _is_shell(page):
        raise PageEmpty("scripts would have to fill the page", reason="script_shell")
    if not normalized(page.visible):
        raise PageEmpty("nothing is left without the boilerplate", reason="boilerplate")


def says_not_found(title: str) -> bool:
    """Whether a title or heading says in full that something is not there; the site's name may stand beside it."""
    parts = [part.strip() for part in _PARTS.split(title[:300])] + [title.strip()[:300]]
    return any(_NOT_FOUND_TITLE.fullmatch(part) for part in parts if part)


def _is_soft_404(page: PageTexts) -> bool:
    size = len(page.visible)
    if size >= SHORT or not any(says_not_found(said) for said in (page.title or "", *page.headings)):
        return False
    about = len(_ABOUT.findall(page.visible))
    if _APOLOGY.search(page.visible):
        return about < 2
    return size < VERY_SHORT and not about


def _is_challenge(page: PageTexts) -> bool:
    said = " ".join((page.title or "", *page.headings))
    return bool(page.has_scripts and _CHALLENGE.search(said) and _CHALLENGE_TEXT.search(page.visible))


def _is_login(page: PageTexts) -> bool:
    parts = [part for said in (page.title or "", *page.headings) for part in _PARTS.split(said)]
    return page.has_password and any(_LOGIN.fullmatch(part.strip()) for part in parts)


def _is_shell(page: PageTexts) -> bool:
    if not page.has_scripts:
        return False
    text = page.visible.strip()
    if _LOADING.fullmatch(text):
        return True
    if len(text) < VERY_SHORT and _NEEDS_SCRIPTS.search(text):
        return True
    return len(text) < 60 and any(_ROOT.fullmatch(name) for name in page.roots)
