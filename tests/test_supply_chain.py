"""What is installed is what was locked, and what our code does not do."""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CODE = [
    path for folder in ("nightmill", "activities", "workflows") for path in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "worker.py"]


# --- what is installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that no index has."""
    path = tmp_path_factory.mktemp("wheels") / "lockedthing-1.0-py3-none-any.whl"
    files = {
        "lockedthing.py": "",
        "lockedthing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lockedthing\nVersion: 1.0\n",
        "lockedthing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},\n"
        for name, text in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "lockedthing-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        ("lockedthing==1.0 --hash=sha256:{}", None),
        ("lockedthing==1.0", "hash"),
        ("lockedthing==1.0 --hash=sha256:" + "0" * 64, "hash"),
    ],
    ids=["as locked", "without a hash", "of another content"],
)
def test_what_is_not_as_it_was_locked_is_not_installed(
    wheel: Path, tmp_path: Path, lock: str, says: str | None
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(lock.format(hashlib.sha256(wheel.read_bytes()).hexdigest()) + "\n")
    target = tmp_path / "installed"
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links",
         str(wheel.parent), "--no-deps", "--target", str(target), "--require-hashes", "-r", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert (ended.returncode == 0) is (says is None), ended.stderr
    assert (target / "lockedthing.py").exists() is (says is None)
    assert (says or "").lower() in ended.stderr.lower()


@pytest.mark.parametrize("file", ["requirements/install", "Dockerfile"])
def test_the_installation_asks_for_hashes(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installing = [line for line in text.splitlines() if re.search(r" -r \S+\.txt| --requirements? \S+\.txt", line)]
    assert installing
    assert [line for line in installing if "--require-hashes" not in line] == []


@pytest.mark.parametrize("extra", ["", "dev", "conformance", "bench"])
def test_the_locks_hold_versions_that_the_project_allows(extra: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
    text = (ROOT / "requirements" / f"{extra or 'base'}.txt").read_text()
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", text, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), set()).add(version)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name != "nightmill":
            assert locked[name], name
            allowed: SpecifierSet = requirement.specifier
            assert not [v for v in locked[name] if not allowed.contains(v, prereleases=True)], requirement


# --- what our code does not do

NEVER = {"eval", "exec", "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "yaml.load",
         "yaml.unsafe_load", "os.system", "os.popen", "tempfile.mktemp", "ssl._create_unverified_context"}  # fmt: skip
MEANT = {
    ("nightmill/cli/temporal_checks.py", "ssl.CERT_NONE"): "it asks whether TLS is spoken, and tells nothing",
    ("nightmill/client/deployment.py", "a message that is not constant"): "one of two constants",
    ("nightmill/completions/ingest.py", "a message that is not constant"): "its callers give constants",
    ("nightmill/slicer/program.py", "printed"): "a program's own output",
    ("nightmill/slicer/progress.py", "printed"): "a program's own output",
    ("nightmill/slicing/sandbox_probe.py", "printed"): "a program's own output",
    ("nightmill/slicing/orders.py", "marshal.loads"): "what the worker itself has written for its child",
}
LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}
WAITED_FOR = {"subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call"}


def offences(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that break a rule, and which."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"ssl.CERT_NONE", "yaml.Loader"}:
            yield node.lineno, ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        for argument, value in (("shell", True), ("verify", False), ("check_hostname", False)):
            if isinstance(given.get(argument), ast.Constant) and ast.literal_eval(given[argument]) is value:
                yield node.lineno, f"{argument}={value}"
        if name in NEVER:
            yield node.lineno, name
        if name in WAITED_FOR and "timeout" not in given and None not in given:
            yield node.lineno, f"{name} without a timeout"
        if _is_logger(node.func) and node.args and not isinstance(node.args[0], ast.Constant):
            yield node.lineno, "a message that is not constant"
        if name == "print":
            yield node.lineno, "printed"


def _is_logger(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr not in LOGGING:
        return False
    return ast.unparse(function.value).rpartition(".")[2].lstrip("_") in {"logger", "log", "core"}


def test_the_code_keeps_the_rules() -> None:
    found = {(str(path.relative_to(ROOT)), what): line for path in CODE for line, what in offences(path.read_text())}
    assert found.keys() - MEANT.keys() == set()
    assert MEANT.keys() - found.keys() == set(), "an exception that is not needed any more"


BANDITS_LOW = {"S101", "S112", "S311", "S606"}
"""Exceptions that bandit calls low: asserts, loops that go on, chance that is no secret, programs without a shell."""


def test_every_kind_of_exception_that_bandit_calls_medium_is_explained() -> None:
    marked = {kind for path in CODE for line in re.findall(r"# noqa: (.*)", path.read_text())
              for kind in re.findall(r"\bS\d{3}\b", line)}  # fmt: skip
    explained = re.findall(r"^\| B(\d{3}), ", (ROOT / "docs/security.md").read_text(), re.MULTILINE)
    assert {f"S{number}" for number in explained} == marked - BANDITS_LOW


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run('ls', shell=True, timeout=1)",
        "subprocess.run(['ls'])",
        "httpx.Client(verify=False)",
        "context.verify_mode = ssl.CERT_NONE",
        "pickle.loads(body)",
        "eval(text)",
        "logger.info(f'key {key}')",
        "print(settings)",
    ],
)
def test_each_rule_can_be_broken(line: str) -> None:
    assert list(offences(line))
