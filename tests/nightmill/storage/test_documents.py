"""Documents are made once a link, found by what they are, and read with flat memory."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from nightmill.contracts import SyncErrorCode, SyncStatus
from nightmill.errors import AccountNotFound, DocumentNotFound, InvalidInput
from nightmill.storage.accounts import AccountRepository
from nightmill.storage.documents import DocumentFilter, DocumentRepository, NewDocument
from nightmill.storage.engine import Database


def update(db: Database, assignments: str, where: str = "1 = 1") -> None:
    with db.transaction() as session:
        session.connection().execute(text(f"UPDATE documents SET {assignments} WHERE {where}"))


def test_a_link_becomes_a_document_once(database: Database, given: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    documents = DocumentRepository(database)
    new = NewDocument("acme", "help", given.link(1), name="Prices", interval=timedelta(hours=2))
    first, is_new = documents.add(new, given.noon)
    again, is_new_again = documents.add(NewDocument("acme", "help", given.link(1), id="other"), given.noon)
    elsewhere, _ = documents.add(NewDocument("acme", "faq", given.link(1)), given.noon)
    assert (is_new, is_new_again) == (True, False)
    assert (again.id, again.name, again.interval) == (first.id, "Prices", 7200.0)
    assert elsewhere.id != first.id
    found = documents.find("acme", "help", given.link(1).canonical)
    assert found is not None
    assert (found.row.id, found.account.name) == (first.id, "acme")
    assert documents.find("acme", "help", "https://site.example/2") is None


def test_adding_the_same_document_with_its_id_again_finds_it(database: Database, given: Any, add_document: Any) -> None:
    assert add_document("d1") == "d1"
    assert add_document("d1") == "d1"
    with pytest.raises(InvalidInput, match="one of these ids"):
        add_document("d1", link=given.link("else"))


def test_many_documents_are_added_in_pages_and_known_ones_are_counted(database: Database, given: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    documents = DocumentRepository(database)
    many = [NewDocument("acme", "help", given.link(number)) for number in range(1_201)]
    assert documents.add_many(iter(many), given.noon) == (1_201, 0)
    assert documents.add_many([*many[:2], NewDocument("acme", "help", given.link("new"))] * 2, given.noon) == (1, 5)
    assert len(set(documents.ids())) == 1_202


def test_two_who_add_the_same_links_at_once_make_each_once(database: Database, given: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    documents, results, barrier = DocumentRepository(database), [], threading.Barrier(4)

    def add(order: int) -> None:
        links = [NewDocument("acme", "help", given.link(number)) for number in range(300)]
        barrier.wait()
        results.append(documents.add_many(links[::order], given.noon))

    threads = [threading.Thread(target=add, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new for new, _ in results) == 300
    assert sum(known for _, known in results) == 900


def test_what_cannot_be_stored_is_refused_alike_on_both_databases(database: Database, given: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    documents = DocumentRepository(database)
    long = given.link("x" * 2_000)
    for new in (
        NewDocument("acme", "help", long),
        NewDocument("acme", "c" * 65, given.link()),
        NewDocument("acme", "help", given.link(), id="no spaces"),
    ):
        with pytest.raises(InvalidInput):
            documents.add(new, given.noon)
    with pytest.raises(AccountNotFound):
        documents.add_many([NewDocument("nobody", "help", given.link())], given.noon)


def test_what_the_web_writes_is_stored_alike_on_both_databases(database: Database, given: Any) -> None:
    AccountRepository(database).add("acme", "daily", now=given.noon)
    name = "a\0b \ud800c" + "x" * 300
    row, _ = DocumentRepository(database).add(NewDocument("acme", "help", given.link(), name=name), given.noon)
    assert DocumentRepository(database).get(row.id).row.name == ("ab \ufffdc" + "x" * 300)[:255]


def test_documents_are_listed_newest_first_and_a_page_goes_on_after_the_last(
    database: Database, add_document: Any
) -> None:
    for number in range(7):
        add_document(f"d{number}")
    documents = DocumentRepository(database)
    first = documents.listed(limit=4)
    second = documents.listed(limit=4, after=first[-1].row.id)
    assert [each.row.id for each in first + second] == ["d6", "d5", "d4", "d3", "d2", "d1", "d0"]
    with pytest.raises(DocumentNotFound):
        documents.listed(after="nothing")


def test_each_filter_chooses(database: Database, add_document: Any, given: Any) -> None:
    add_document("plain")
    add_document("failed", collection="faq", link=given.link("f", "other.example:8443"))
    add_document("waits", change_handler=given.handler)
    add_document("told", change_handler=given.handler)
    add_document("gone", change_handler=given.handler)
    add_document("theirs", account="other")
    update(database, "sync_status = 'failed', last_sync_error_code = 'timeout', needs_attention = 'x'", "id = 'failed'")
    update(database, "sync_status = 'synced', content_fingerprint = 'a'", "id <> 'failed'")
    update(database, "handled_fingerprint = 'a'", "id = 'told'")
    update(database, "handled_fingerprint = 'gone', gone_days = 3", "id = 'gone'")
    cases = {
        DocumentFilter(account="other"): ["theirs"],
        DocumentFilter(collection="faq"): ["failed"],
        DocumentFilter(status=(SyncStatus.FAILED,)): ["failed"],
        DocumentFilter(error_code=SyncErrorCode.TIMEOUT): ["failed"],
        DocumentFilter(error_code=SyncErrorCode.NOT_FOUND): [],
        DocumentFilter(host="other.example:8443"): ["failed"],
        DocumentFilter(needs_attention=True): ["failed"],
        DocumentFilter(undelivered=True): ["waits"],
        DocumentFilter(account="acme", undelivered=True, status=(SyncStatus.FAILED,)): [],
    }
    documents = DocumentRepository(database)
    for filters, expected in cases.items():
        assert [each.row.id for each in documents.listed(filters)] == expected, filters
        assert list(documents.ids(filters)) == expected, filters
        assert [stored.row.id for stored, _ in documents.export(filters)] == expected, filters
    assert [each.row.id for each in documents.undelivered()] == ["waits"]
    for stored in documents.listed():
        assert stored.is_undelivered == (stored.row.id == "waits")


def test_a_page_that_comes_back_is_told_again_though_its_content_is_the_old_one(
    database: Database, add_document: Any, given: Any
) -> None:
    add_document("d1", change_handler=given.handler)
    update(database, "content_fingerprint = 'a', handled_fingerprint = 'a', gone_days = 3")
    documents = DocumentRepository(database)
    assert documents.get("d1").due_change(gone_after_days=4) is None
    assert documents.get("d1").due_change(gone_after_days=3) == "gone"
    update(database, "handled_fingerprint = 'gone'")
    assert documents.get("d1").due_change(gone_after_days=3) is None
    update(database, "gone_days = 0")
    assert documents.get("d1").due_change(gone_after_days=3) == "a"
    update(database, "gone_days = 5, handled_fingerprint = NULL")
    assert documents.get("d1").due_change(gone_after_days=3) is None


def test_a_document_that_is_deleted_takes_its_texts_and_events_along(database: Database, add_document: Any) -> None:
    add_document("d1")
    with database.transaction() as session:
        key = session.connection().execute(text("SELECT key FROM documents")).scalar()
        for statement in (
            "INSERT INTO document_versions (document_key, fingerprint, stored_at, content)"
            " VALUES (:key, 'a', :at, 'x')",
            "INSERT INTO document_events (document_key, at) VALUES (:key, :at)",
        ):
            session.connection().execute(text(statement), {"key": key, "at": "2026-03-02 12:00:00.000000"})
    documents = DocumentRepository(database)
    documents.set_enabled("d1", False)
    assert not documents.get("d1").row.enabled
    documents.delete("d1")
    with database.reading() as session:
        for table in ("documents", "document_versions", "document_events"):
            assert session.connection().execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    for call in (documents.get, documents.delete, documents.versions, documents.history, documents.content):
        with pytest.raises(DocumentNotFound, match="nightmill document list"):
            call("d1")


def test_an_export_reads_few_large_texts_at_a_time(database: Database, add_document: Any, given: Any) -> None:
    for number in range(45):
        add_document(f"d{number}")
    update(database, "content_fingerprint = 'a', content_length = 900000", "id <> 'd7'")
    with database.transaction() as session:
        insert = text(
            "INSERT INTO document_versions (document_key, fingerprint, stored_at, content)"
            " SELECT key, 'a', created_at, id FROM documents WHERE id <> 'd7'"
        )
        session.connection().execute(insert)
    sizes: list[int] = []

    class Counted(DocumentRepository):
        def _with_texts(self, keys: list[int]) -> Any:
            sizes.append(len(keys))
            return super()._with_texts(keys)

    found = {stored.row.id: version and version.content for stored, version in Counted(database).export()}
    assert found == {f"d{n}": f"d{n}" if n != 7 else None for n in range(45)}
    assert max(sizes) == 21  # 200,000 characters each are stored, 4,000,000 are a page; one has none
    assert DocumentRepository(database).stuck(given.at(1)) == []
