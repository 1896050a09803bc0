"""What `nightmill doctor` looks at for the database and the file storage."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nightmill.cli.checks import Finding, State, has_database, reason_of
from nightmill.errors import NotConfigured, SchemaOutdated, StorageUnavailable

if TYPE_CHECKING:
    from nightmill.assembly import Assembly

_SEE = "see NIGHTMILL_DATABASE_URL"

_MAKE_ROOM = "make room on the disk; if there is some, the system's log says what ails the disk"

_MENDS = {
    "read-only transaction": "it is a standby, or set to read only: name the primary in NIGHTMILL_DATABASE_URL",
    "during recovery": "it is a standby: name the primary in NIGHTMILL_DATABASE_URL",
    "permission denied for": "GRANT ALL ON ALL TABLES IN SCHEMA public TO the user of NIGHTMILL_DATABASE_URL, or let "
    "it own them",
    "no space": _MAKE_ROOM,
    "is full": _MAKE_ROOM,
    "disk i/o": _MAKE_ROOM,
    "password authentication failed": "correct user and password in NIGHTMILL_DATABASE_URL",
    "no password supplied": "give the password in NIGHTMILL_DATABASE_URL: postgresql://USER:PASSWORD@HOST/DATABASE",
    "role": "create the user, or correct it in NIGHTMILL_DATABASE_URL",
    "does not exist": "`createdb NAME`, then `nightmill db upgrade`; or correct the name in NIGHTMILL_DATABASE_URL",
    "too many": "raise max_connections, stop workers, or lower NIGHTMILL_DATABASE__POOL_SIZE",
    "remaining connection slots": "raise max_connections, stop workers, or lower NIGHTMILL_DATABASE__POOL_SIZE",
    "refused": "start PostgreSQL, or correct host and port in NIGHTMILL_DATABASE_URL",
    "no such file": "start PostgreSQL, or correct the host in NIGHTMILL_DATABASE_URL: its socket is not there",
    "resolve": "correct the host in NIGHTMILL_DATABASE_URL, or the name service",
    "timeout": "is a firewall in between? Else correct host and port in NIGHTMILL_DATABASE_URL",
    "not a database": "NIGHTMILL_DATABASE_URL names a file of another kind: correct it, or restore the backup",
    "locked": "another process writes for long: which one says `fuser FILE`",
    "readonly": "let this user write the file and its folder: `chown`, or mount it for writing",
}
"""What mends it, by what PostgreSQL, its driver and SQLite say; the first that fits. They have no codes for it where
no connection comes about."""

_OF_OTHERS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "glusterfs", "ceph"})
_MOUNTS = Path("/proc/self/mounts")


def examine_database(assembly: Assembly) -> Iterator[Finding]:
    """Yield the findings about the database."""
    from sqlalchemy import make_url

    from nightmill.storage import schema

    try:
        database = assembly.database
        url = make_url(assembly.settings.database_url)
        shown = f"{database.dialect}, {url.host or url.query.get('host') or ''}/{url.database}".replace(", //", ", /")
        if database.dialect == "sqlite":
            file = Path(url.database or "")
            shown = f"sqlite, {file}"
            if not has_database(assembly.settings):
                yield Finding(
                    "database", State.FAIL, f"{shown}: there is no such file yet", "run `nightmill db upgrade`"
                )
                return
            yield from _file(file)
        current = schema.current_revision(database)
        yield Finding("database", State.OK, f"{shown} answers")
        schema.check(database)
        yield Finding("database schema", State.OK, f"version {current}")
        yield _writing(assembly)
        if database.dialect == "postgresql":
            yield _connections(assembly)
    except SchemaOutdated as error:
        fix = "install the release that made it" if "later release" in str(error) else "`nightmill db upgrade`"
        yield Finding("database schema", State.FAIL, str(error), fix)
    except StorageUnavailable as error:
        yield Finding("database", State.FAIL, str(error), _mend(str(error)), unreachable=True)
    except NotConfigured as error:
        yield Finding("database", State.FAIL, str(error), _SEE)
    except Exception as error:  # noqa: BLE001 - drivers fail in many ways, and each is a finding
        said = _said(error)
        yield Finding("database", State.FAIL, said, _mend(said))


def examine_storage(assembly: Assembly) -> Iterator[Finding]:
    """Yield whether files can be written, read and deleted."""
    key, content = f"doctor/{secrets.token_hex(8)}", b"written by nightmill doctor"
    see = "see NIGHTMILL_STORAGE_URL; for object stores also AWS_ENDPOINT, AWS_REGION and the credentials' variables"
    try:
        assembly.files.write(key, [content])
        readable = b"".join(assembly.files.read(key)) == content
        assembly.files.delete(key)
    except Exception as error:  # noqa: BLE001 - object stores fail in many ways, and each is a finding
        said = reason_of(error)[:400]
        fix = _MAKE_ROOM if "no space" in said.lower() else see
        yield Finding("file storage", State.FAIL, f"{assembly.settings.storage_url}: {said}", fix)
        return
    if not readable:
        yield Finding("file storage", State.FAIL, "a file came back with other bytes", see)
        return
    yield Finding("file storage", State.OK, f"{assembly.settings.storage_url} takes and gives files")


def file_system_of(file: Path, mounts: str) -> str:
    """Return the kind of file system that a file is on; `mounts` is what Linux says in `/proc/self/mounts`."""
    best, kind = "", ""
    for line in mounts.splitlines():
        words = line.split()
        place = words[1].encode().decode("unicode_escape") if len(words) > 2 else ""
        if place and file.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, words[2]
    return kind


def _file(file: Path) -> Iterator[Finding]:
    kind = file_system_of(file.resolve(), _MOUNTS.read_text()) if _MOUNTS.exists() else ""
    if kind in _OF_OTHERS:
        message = f"{file} is on {kind}, over which SQLite's locks and its log in shared memory do not hold"
        fix = "put it on a disk of this host, or use PostgreSQL: NIGHTMILL_DATABASE_URL=postgresql://…"
        yield Finding("database file", State.FAIL, message, fix)


def _writing(assembly: Assembly) -> Finding:
    from sqlalchemy import text

    try:
        with assembly.database.transaction() as session:
            # No row has this id. SQLite takes its write lock for it, PostgreSQL looks at the right to write.
            session.connection().execute(text("UPDATE batches SET id = id WHERE id = ''"))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        said = _said(error)
        return Finding("database writes", State.FAIL, said, _mend(said))
    return Finding("database writes", State.OK, "allowed")


def _connections(assembly: Assembly) -> Finding:
    from sqlalchemy import text

    query = (
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    )
    with assembly.database.reading() as session:
        most, used = session.connection().execute(text(query)).one()
    pool = assembly.settings.database.pool_size
    said = f"{used} of {most} in use, room for {max(0, most - used) // pool} more workers at {pool} each"
    if most - used < pool:
        fix = "raise max_connections, lower NIGHTMILL_DATABASE__POOL_SIZE, or put PgBouncer in between"
        return Finding("database connections", State.WARN, said, fix)
    return Finding("database connections", State.OK, said)


def _said(error: Exception) -> str:
    """Return what a driver says, without the statement and the tree of errors around it."""
    inner = getattr(error, "orig", None) or error
    return (str(inner).strip().splitlines() or [type(inner).__name__])[0][:400]


def _mend(said: str) -> str:
    lower = said.lower()
    return next((fix for words, fix in _MENDS.items() if words in lower), _SEE)
