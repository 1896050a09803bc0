"""What the documents say is so: commands, options, settings, shapes of requests, links and words."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from docs.blocks import LANGUAGES, UnknownNote, blocks_of, commands_of
from docs.check import Surroundings, difference_of, failures_of
from docs.jobs_tables import AREAS, activities, kinds_by_activity
from docs.shell import Shell
from nightmill import client, ids
from nightmill.assembly import Assembly
from nightmill.cli.app import app
from nightmill.completions.requests import read_requests
from nightmill.contracts import (
    Action,
    AuditInput,
    AuditKind,
    BatchInput,
    BatchStatus,
    CrawlInput,
    CrawlLimits,
    DocumentSyncInput,
    EntryProblem,
    ErrorCode,
    Finding,
    HealthInput,
    ReconcileInput,
    RepairState,
    SlicingErrorCode,
    SlicingInput,
    SlicingStatus,
    SweepInput,
    SyncErrorCode,
    SyncResult,
)
from nightmill.errors import NightmillError
from nightmill.sandbox.faults import ACTIONS
from nightmill.sandbox.profile import Profile
from nightmill.settings import AccountKeySettings, DocumentSettings, PlanSettings, Settings
from nightmill.settings.recovery import ReconcilerSettings
from nightmill.settings.slicing import SlicerSettings, SlicingSettings
from nightmill.slicing.profiles import BUILT_IN
from worker import SLICING_WORKFLOWS, WORKFLOWS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "adr").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def blocks(language: str) -> list[tuple[str, str]]:
    """Every fenced block of a language: what stands after the language, and the block."""
    return [
        (info.strip(), body)
        for page in PAGES
        for info, body in re.findall(rf"^```{language}\b(.*)\n([\s\S]*?)^```", page.read_text(), re.MULTILINE)
    ]


def command_lines(program: str) -> list[str]:
    """Every line in a block that runs a program, continued lines joined."""
    text = "\n".join(body for _, body in blocks("console")).replace("\\\n", " ")
    found = [re.sub(r"^\w+=\S+ ", "", line.strip()) for line in text.splitlines()]
    return [line for line in found if line.startswith(f"{program} ")]


def page_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["docs_generate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_settings_tables_are_those_of_the_code(generate: ModuleType) -> None:
    stale = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not stale, "run `make docs`"


def variables(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if hasattr(type(field.default), "model_fields"):
            yield from variables(type(field.default), f"{variable}__")
        elif variable == "NIGHTMILL_ACCOUNTS":
            yield from variables(AccountKeySettings, f"{variable}__<NAME>__<PROVIDER>__")
        else:
            yield variable


def test_every_setting_is_in_the_tables() -> None:
    text = page_of("docs/settings.md")
    assert "NIGHTMILL_ACCOUNTS__<NAME>__<PROVIDER>__WEBHOOK_SECRET" in variables(Settings, "NIGHTMILL_")
    for variable in variables(Settings, "NIGHTMILL_"):
        general = re.sub(r"NIGHTMILL_(OPENAI|ANTHROPIC|GOOGLE|XAI)__", "NIGHTMILL_<PROVIDER>__", variable)
        assert f"`{variable}`" in text or f"`{general}`" in text, variable


MISSPELLED = "NIGHTMILL_OPENAI_API_KEY"
"""Which the page on the doctor shows as a mistake."""


def test_every_setting_that_is_named_exists() -> None:
    known = set(variables(Settings, "NIGHTMILL_"))
    for variable in set(re.findall(r"\bNIGHTMILL_[A-Z_]*[A-Z]\b(?!_?[<…])", TEXT)) - {"NIGHTMILL_ACCOUNTS", MISSPELLED}:
        assert variable in known, variable


RECOVERY_SCHEDULES = (ids.RECONCILER_SCHEDULE, ids.EXPIRY_SCHEDULE, ids.AUDIT_SCHEDULE)
COMMANDS = typer.main.get_command(app)


def leaves(group: Any = COMMANDS, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        elif not command.hidden:
            yield (*path, name)


def test_every_command_is_named() -> None:
    shortened = re.findall(r"`nightmill (\w+) ((?:[\w-]+ \| )+[\w-]+)`", TEXT)
    spelled_out = TEXT + "".join(
        f" nightmill {noun} {verb}\n" for noun, verbs in shortened for verb in verbs.split(" | ")
    )
    for path in leaves():
        assert re.search(rf"\bnightmill {' '.join(path)}\b", spelled_out), path


@pytest.mark.parametrize("line", command_lines("nightmill") + re.findall(r"`(nightmill [a-z][^`|]*)`", TEXT))
def test_commands_and_options_that_are_named_exist(line: str) -> None:
    words = shlex.split(line.partition(" < ")[0], comments=True)[1:]
    command: Any = COMMANDS
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, words[0]
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} - {"--help"} <= options


INPUTS: dict[str, type[BaseModel]] = {
    "ModelCompletionBatch": BatchInput,
    "DocumentSync": DocumentSyncInput,
    "DocumentSyncSweep": SweepInput,
    "SiteCrawl": CrawlInput,
    "DocumentSlicing": SlicingInput,
    "SlicerHealth": HealthInput,
    "Reconciler": ReconcileInput,
    "ExpirySweep": ReconcileInput,
    "ProviderAudit": AuditInput,
}


@pytest.mark.parametrize(
    ("kind", "text"), re.findall(r"--type (\w+)[^\n]*?--input\s+'(\{.*?\})'(?:\s|$)", TEXT.replace("\\\n", " "))
)
def test_inputs_of_workflows_are_valid(kind: str, text: str) -> None:
    INPUTS[kind].model_validate(json.loads(text.replace("'\"$PWD\"'", "/data")))


def test_an_input_of_every_workflow_is_shown() -> None:
    for kind in INPUTS:
        assert re.search(rf"--type {kind}\b", page_of("README.md")), kind


@pytest.mark.parametrize("text", sorted(set(re.findall(r"`(\{\"kind\".*?\})`|--handler '(\{.*?\})'", TEXT))))
def test_handlers_are_valid(text: tuple[str, str]) -> None:
    BatchInput.model_validate({"batch_id": "x", "completion_handler": json.loads(text[0] or text[1])})


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    folder = tmp_path_factory.mktemp("docs")
    return Assembly(Settings(_env_file=None, database_url=f"sqlite:///{folder}/x.db", storage_url=str(folder)))


def request_blocks() -> list[tuple[str, str]]:
    heredocs = re.findall(r"<<'END'\n([\s\S]*?)\nEND", "\n".join(body for _, body in blocks("console")))
    return blocks("jsonl") + [("", text) for text in heredocs]


@pytest.mark.parametrize(("info", "lines"), request_blocks())
def test_requests_are_accepted_by_their_provider(assembly: Assembly, info: str, lines: str) -> None:
    provider, model = info.split() or ("openai", "gpt-5-mini")
    reader = read_requests([lines.encode()], provider=assembly.renderer(provider), model=model, source="docs")
    assert len(list(reader)) == len(lines.strip().splitlines())


def test_neutral_requests_are_accepted_by_every_provider(assembly: Assembly) -> None:
    info, lines = blocks("jsonl")[0]
    assert not info
    plain = "\n".join(line for line in lines.splitlines() if "provider_options" not in line)
    for provider, model in (("anthropic", "claude-haiku-4-5"), ("google", "gemini-2.5-flash"), ("xai", "grok-4-fast")):
        if provider == "google":  # takes images as data only
            plain = "\n".join(line for line in plain.splitlines() if "image_url" not in line)
        reader = read_requests([plain.encode()], provider=assembly.renderer(provider), model=model, source="docs")
        assert list(reader)


@pytest.mark.parametrize("code", [body for _, body in blocks("python")])
def test_python_can_be_compiled(code: str) -> None:
    compile(code, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("text", [body for _, body in blocks("json")])
def test_json_can_be_read(text: str) -> None:
    json.loads(text)


def test_batches_names_every_status_code_and_input() -> None:
    text = page_of("docs/batches.md")
    for word in [*BatchStatus, *ErrorCode]:
        assert re.search(rf"\b{word}\b", text), word
    for name in BatchInput.model_fields:
        assert f"`{name}`" in text, name


def test_documents_names_every_result_error_code_and_input() -> None:
    text = page_of("docs/documents.md")
    for word in [*SyncResult, *SyncErrorCode, *PlanSettings.model_fields]:
        assert f"`{word}`" in text, word
    for contract in (DocumentSyncInput, SweepInput, CrawlInput, CrawlLimits):
        for name in contract.model_fields:
            assert f"`{name}`" in text, name
    for setting in DocumentSettings.model_fields:
        assert re.search(rf"NIGHTMILL_DOCUMENTS__{setting.upper()}\b", TEXT), setting


def test_slicing_names_every_status_code_problem_profile_field_input_and_metric() -> None:
    text = page_of("docs/slicing.md")
    for word in [*SlicingStatus, *SlicingErrorCode, *EntryProblem, *SlicerSettings.model_fields, *BUILT_IN]:
        assert f"`{word}`" in text, word
    for contract in (SlicingInput, HealthInput):
        for name in contract.model_fields:
            assert f"`{name}`" in text, name
    for setting in SlicingSettings.model_fields:
        assert re.search(rf"NIGHTMILL_SLICING__{setting.upper()}\b", TEXT), setting
    for metric in re.findall(
        r'"(nightmill\.(?:slicing|worker)\.[a-z_.]+)"', page_of("nightmill/telemetry/slicings.py")
    ):
        assert f"`{metric}`" in text, metric


def test_recovery_names_every_finding_repair_schedule_setting_input_and_metric() -> None:
    text = page_of("docs/recovery.md")
    for word in [*Finding, *Action, *RepairState, *AuditKind, *RECOVERY_SCHEDULES]:
        assert f"`{word}`" in text, word
    for name in (*ReconcileInput.model_fields, *AuditInput.model_fields):
        assert f'"{name}"' in text, name
    for setting in ReconcilerSettings.model_fields:
        assert re.search(rf"NIGHTMILL_RECONCILER__{setting.upper()}\b", TEXT), setting
    for metric in re.findall(r'"(nightmill\.reconciler\.[a-z_.]+)"', page_of("nightmill/telemetry/recovery.py")):
        assert f"`{metric}`" in text, metric


def test_python_names_every_call_error_and_type_of_options() -> None:
    text = page_of("docs/python.md")
    for name in client.__all__:
        found = getattr(client, name)
        if name.endswith("Options") or not isinstance(found, type) or issubclass(found, NightmillError):
            assert f"`{name}`" in text, name


def test_tests_that_are_named_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert len(named) > 30
    assert not [name for name in named if not (ROOT / name).exists()]


def test_sandbox_names_every_field_and_action() -> None:
    text = page_of("docs/sandbox.md")
    for name in [*Profile.__dataclass_fields__, *ACTIONS]:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert not target or (page.parent / target).exists(), target


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings have, as they are shown on the web."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]*)\)", page.read_text()):
        assert anchor in anchors_of(page.parent / target if target else page), f"{target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)", page_of("docs/README.md")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_jobs_has_a_section_for_every_workflow() -> None:
    text = page_of("docs/jobs.md")
    for workflow in [*WORKFLOWS, *SLICING_WORKFLOWS]:
        assert re.search(rf"^## .*`{workflow.__name__}`", text, re.MULTILINE), workflow


def test_jobs_has_a_line_for_every_activity() -> None:
    text = page_of("docs/jobs.md")
    assert {activity.module for activity in activities()} == {
        module for modules in AREAS.values() for module in modules
    }
    assert {activity.name for activity in activities()} <= set(kinds_by_activity())
    for activity in activities():
        assert f"| `{activity.name}` |" in text, activity
        assert activity.says.endswith("."), f"{activity.name}: its docstring does not say what a repeat does"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    found = blocks_of(page)
    assert len(found) == len(re.findall(rf"^ *```(?:{'|'.join(LANGUAGES)})\b", page.read_text(), re.MULTILINE))
    for block in found:
        assert block.language != "console" or block.not_run or list(commands_of(block.text)), block


def test_a_comment_that_the_check_does_not_know_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not runn: needs Docker -->\n```console\nmake up\n```\n")
    with pytest.raises(UnknownNote, match="not runn"):
        blocks_of(page)


def test_commands_are_split_where_a_shell_would() -> None:
    text = "# a comment\ncat > x <<'END'\none\n\ntwo\nEND\n\ntrue \\\n  --it\necho 'a\nb'\n"
    assert list(commands_of(text)) == ["cat > x <<'END'\none\n\ntwo\nEND", "true \\\n  --it", "echo 'a\nb'"]


def test_json_of_another_shape_is_told() -> None:
    assert not difference_of('{"a": 1, "b": {"c": []}}', 'a line\n{"b": {"c": [1]}, "a": 2}')
    assert "b.d" in difference_of('{"a": 1, "b": {"c": []}}', '{"a": 1, "b": {"c": [], "d": 0}}')
    assert difference_of("{}", "nothing") == "prints no JSON object"


def test_a_command_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- given: word=hello -->\n```console\necho $word > file\ngrep hello file\n```\n"
        "<!-- exits with 3: exit_with 3 -->\n```console\n"
        "exit_with() { return $1; }\nexit_with 3\nexit_with 4\ntouch never\n```\n"
        "<!-- stays until: up -->\n```console\necho no; false\n```\n"
        '<!-- shape of: echo \'{"b": 1}\' -->\n```json\n{"a": 1}\n```\n'
        "<!-- then: if found: -->\n<!-- then:     assert found == 1 -->\n```python\nfound = 2\n```\n"
        "<!-- stays until: up -->\n<!-- exits with 130: Ctrl-C -->\n```console\n"
        "python -c 'import time; print(\"up\", flush=True); time.sleep(60)' 2>/dev/null\n```\n"
    )
    surroundings = Surroundings(tmp_path, "http://127.0.0.1:1", mail_port=1)
    with Shell(tmp_path, surroundings.environment(installed=True), name="page") as shell:
        found = [list(failures_of(block, shell, surroundings)) for block in blocks_of(page)]
        ended = [ended.code for _, ended in shell.interrupt()]
    told = [[(failure.command, failure.reason) for failure in each] for each in found]
    assert told == [
        [],
        [("exit_with 4", "exit code 4 instead of 0")],
        [("echo no; false", "does not come up: never printed 'up'")],
        [("echo '{\"b\": 1}'", "has another shape: ['.a', '.b']")],
        [("python block at line 23", "exit code 1 instead of 0")],
        [],
    ]
    assert "no" in found[2][0].ended.output
    assert ended == [130]
    assert not (tmp_path / "never").exists()


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {first or second for first, second in named} <= targets


def test_variables_of_the_example_exist() -> None:
    known = set(variables(Settings, "NIGHTMILL_")) | {"POSTGRES_PASSWORD"}
    for name in (".env.example", "Dockerfile", "docker-compose.yml"):
        assert set(re.findall(r"\b(NIGHTMILL_[A-Z_]+|POSTGRES_PASSWORD)(?=[=:}?])", page_of(name))) <= known
