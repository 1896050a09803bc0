"""The files that deploy Nightmill fit each other, the settings, and what the programs that read them expect."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from nightmill.settings import WorkerSettings
from nightmill.storage import schema
from nightmill.storage.engine import open_database
from tests.conftest import QUICK, PostgresServer
from tests.deploying import SECRET, settings_of_all
from tests.stack import FAIRNESS, ROOT, TemporalServer, free_port, temporal_binary

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
ELSEWHERE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose/elsewhere.yaml").read_text())["services"]
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
# Images without a shell or anything else that could ask.
UNASKED = {"otel-collector", "jaeger"}
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "no"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_bound(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "ui")
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] in ("no", "unless-stopped")


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OURS))
def test_what_runs_is_asked_how_it_is(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) is (name not in UNASKED | ONE_SHOT)


def test_what_one_waits_for_is_there_and_can_come() -> None:
    for name, service in SERVICES.items():
        for other, wanted in service.get("depends_on", {}).items():
            condition = wanted["condition"]
            assert (condition == "service_completed_successfully") is (other in ONE_SHOT), (name, other)
            assert condition != "service_healthy" or "healthcheck" in SERVICES[other], (name, other)
            assert not SERVICES[other].get("profiles"), (name, other)


def test_somebody_who_stays_waits_for_each_that_ends() -> None:
    """Else `docker compose up --wait` takes their end for a failure (docker/compose#10596)."""
    staying = [service for name, service in SERVICES.items() if name not in ONE_SHOT and "profiles" not in service]
    assert ONE_SHOT & {other for service in staying for other in service.get("depends_on", {})} == ONE_SHOT


def test_postgres_may_have_a_process_for_each_connection() -> None:
    service = SERVICES["postgres"]
    connections = re.search(r"max_connections=(\d+)", " ".join(service["command"]))
    assert connections
    assert int(connections[1]) + 100 < service["pids_limit"]


def test_ports_are_the_hosts_own_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in SERVICES.items():
        assert "ports" not in service or "default" in service["networks"], f"{name}: an internal network has no ports"


def test_images_of_others_have_a_version() -> None:
    for service in SERVICES.values():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), service["image"]


def test_what_is_mounted_is_there() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    for volume in volumes:
        source = volume.split(":")[0]
        if source == "./input":  # Docker makes it
            continue
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        assert source in COMPOSE["volumes"] or volume.endswith(":ro"), volume


def test_no_secret_stands_in_a_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) and variable != "NIGHTMILL_ENCRYPTION_OLD_KEYS":
                assert value == "" or re.fullmatch(r"\$\{\w+:[-?].*\}", value), (name, variable)
            assert "://" not in str(value) or not re.search(r":[^/$@]+@", str(value)), (name, variable)
    for line in (ROOT / ".env.example").read_text().splitlines():
        assert not SECRET.search(line) or line.startswith("#") or line.endswith("="), line


def test_what_must_be_given_says_how() -> None:
    asked = re.findall(r"\$\{(\w+):\?(.*?)\}", (ROOT / "docker-compose.yml").read_text())
    given = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines()}
    assert {name for name, _ in asked} <= given
    assert {what for _, what in asked} == {"run deploy/new-env"}


def test_every_variable_of_ours_is_a_setting() -> None:
    used = {
        variable
        for name in OURS
        for variable in SERVICES[name].get("environment", {})
        if variable.startswith(("NIGHTMILL_", "TEMPORAL_"))
    }
    used |= {variable for service in ELSEWHERE.values() for variable in service["environment"]}
    for file in (".env.example", "deploy/new-env"):
        used |= set(re.findall(r"^#?(NIGHTMILL_\w+)=", (ROOT / file).read_text(), re.MULTILINE))
    used |= set(re.findall(r"(NIGHTMILL_\w+)=", (ROOT / "Dockerfile").read_text()))
    assert used
    assert used <= settings_of_all()


def test_a_container_outlives_its_workers_grace() -> None:
    grace = WorkerSettings().shutdown_grace.total_seconds()
    for name in ("worker", "slicing-worker"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > grace


def test_the_slicers_container_has_no_way_out_and_no_providers_key() -> None:
    service = SERVICES["slicing-worker"]
    assert service["networks"] == ["backend"]
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert not any(source["path"] == ".env" for source in service["env_file"])
    assert not any(re.search("OPENAI|ANTHROPIC|GOOGLE|XAI|ACCOUNTS", name) for name in service["environment"])


def test_the_receiver_of_events_has_no_file_and_no_key_of_a_provider() -> None:
    service = SERVICES["events"]
    assert [source["path"] for source in service["env_file"]] == ["events.env"]
    assert not any(re.search("API_KEY|ENCRYPTION|STORAGE|INPUT", name) for name in service["environment"])
    assert "volumes" not in service


def test_elsewhere_changes_what_there_is_and_lets_the_slicers_container_out() -> None:
    """Compose adds lists together, so that this is what comes of it."""
    for name, changed in ELSEWHERE.items():
        assert changed["environment"].keys() <= SERVICES[name]["environment"].keys()
        assert "default" in {*SERVICES[name]["networks"], *changed.get("networks", [])}, name
    connected = {name for name in OURS if "TEMPORAL_ADDRESS" in SERVICES[name].get("environment", {})}
    assert ELSEWHERE.keys() == connected


def test_everything_that_reads_the_database_stops_before_it_is_upgraded() -> None:
    asked = ["make", "--no-print-directory", "-n", "up"]
    commands = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    stopping, starting = commands.splitlines()[-2:]
    stopped = re.fullmatch(r"docker compose --profile events stop (.*)", stopping)
    assert stopped
    assert starting.startswith("docker compose up")
    assert {*stopped[1].split()} == {
        name for name in OURS - ONE_SHOT if "NIGHTMILL_DATABASE_URL" in SERVICES[name].get("environment", {})
    }


def test_workers_do_not_learn_the_stacks_passwords() -> None:
    passwords = re.findall(r"^(\w+_PASSWORD)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(passwords) == 4
    for name, service in SERVICES.items():
        if any(source["path"] == ".env" for source in service.get("env_file", [])):
            assert {service["environment"][password] for password in passwords} == {""}, name


def test_prometheus_scrapes_what_listens() -> None:
    jobs = {job["job_name"]: job for job in _read("deploy/prometheus/prometheus.yml")["scrape_configs"]}
    ours = jobs["nightmill"]["dns_sd_configs"][0]
    assert ours["port"] == WorkerSettings().metrics_port
    assert ours["names"] == ["worker", "slicing-worker", *SERVICES["events"]["networks"]["backend"]["aliases"]]
    assert "EXPOSE 8081 9464" in (ROOT / "Dockerfile").read_text()
    targets = {
        target for job in jobs.values() for config in job.get("static_configs", []) for target in config["targets"]
    }
    collector = _read("deploy/otel/collector.yaml")
    assert f"temporal:{SERVICES['temporal']['environment']['PROMETHEUS_ENDPOINT'].split(':')[1]}" in targets
    assert collector["exporters"]["prometheus"]["endpoint"].replace("0.0.0.0", "otel-collector") in targets
    for target in targets:
        assert target.split(":")[0] in SERVICES.keys() | {"127.0.0.1"}
    assert _read("deploy/prometheus/prometheus.yml")["rule_files"] == ["rules/*.yml"]
    assert list((ROOT / "deploy/prometheus/rules").glob("*.yml"))


def test_the_collectors_pipelines_are_made_of_what_it_configures() -> None:
    config = _read("deploy/otel/collector.yaml")
    assert set(config) == {"receivers", "processors", "exporters", "service"}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])
    used = {kind: {n for p in config["service"]["pipelines"].values() for n in p[kind]} for kind in pipeline}
    assert used == {kind: set(config[kind]) for kind in pipeline}
    sent = SERVICES["worker"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert sent == "http://otel-collector:" + config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]


def test_grafana_finds_its_data_and_its_dashboards() -> None:
    (source,) = _read("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"].removeprefix("http://").split(":")[0] in SERVICES
    (provider,) = _read("deploy/grafana/provisioning/dashboards/nightmill.yaml")["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in SERVICES["grafana"]["volumes"])
    folder = ROOT / mounts[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).exists()
    assert provider["allowUiUpdates"] is True  # else its variables, the address of Temporal's UI, cannot be saved


def test_temporal_is_as_fair_in_containers_as_in_the_tests() -> None:
    config = _read("deploy/temporal/dynamic.yaml")
    assert {f"{name}={str(value['value']).lower()}" for name, (value,) in config.items()} == set(FAIRNESS)


def test_scripts_are_of_a_plain_shell() -> None:
    scripts = [*ROOT.glob("deploy/*/*.sh"), ROOT / "deploy/new-env"]
    assert len(scripts) == 4
    for script in scripts:
        assert os.access(script, os.X_OK), script
        subprocess.run(["/bin/sh", "-n", script], check=True)


def test_the_namespace_is_made_once_and_can_be_used(temporal_server: TemporalServer) -> None:
    environment = {"TEMPORAL_ADDRESS": temporal_server.address, "TEMPORAL_NAMESPACE": "deployed", "RETENTION": "5d"}
    first = _script("temporal/namespace.sh", environment)
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "namespace deployed is ready"), first.stderr
    again = _script("temporal/namespace.sh", environment)
    assert (again.returncode, again.stdout.splitlines()) == (0, ["namespace deployed is ready"])
    described = subprocess.run(
        [temporal_binary(), "operator", "namespace", "describe", "-n", "deployed", "-o", "json"],
        env=os.environ | {"TEMPORAL_ADDRESS": temporal_server.address},
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"432000s"' in described.stdout


def test_a_namespace_that_cannot_be_made_is_said() -> None:
    away = _script("temporal/namespace.sh", {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "ATTEMPTS": "1"})
    assert away.returncode == 1
    assert away.stderr.startswith("Temporal does not answer on 127.0.0.1:")


def test_new_passwords_are_long_and_the_owners_and_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in (".env.example", "deploy/new-env"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([tmp_path / "deploy/new-env"], check=True, capture_output=True)
    made = (tmp_path / ".env").read_text()
    passwords = re.findall(r"^\w+_PASSWORD=([0-9a-f]{48})$", made, re.MULTILINE)
    assert len(set(passwords)) == 4
    received = (tmp_path / "events.env").read_text()
    assert re.findall(r"^(\w+)=$", received, re.MULTILINE) == [
        "NIGHTMILL_OPENAI__WEBHOOK_SECRET",
        "NIGHTMILL_GOOGLE__WEBHOOK_SECRET",
    ]
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (".env", "events.env")} == {0o600}
    assert len(made.splitlines()) == len((ROOT / ".env.example").read_text().splitlines())
    (tmp_path / "events.env").write_text(received.replace("=", "=whsec_mine"))
    subprocess.run([tmp_path / "deploy/new-env"], check=True, capture_output=True)
    assert (tmp_path / ".env").read_text() == made
    assert "whsec_mine" in (tmp_path / "events.env").read_text()


@pytest.fixture
def bare_postgres() -> Iterator[PostgresServer]:
    """A server as the image starts it: of no role but the administrator's."""
    folder = Path(tempfile.mkdtemp(prefix="nightmill-pg-"))
    server = PostgresServer(folder)
    server.initialize()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_each_role_owns_its_databases_and_enters_no_others(bare_postgres: PostgresServer) -> None:
    bare_postgres.execute("CREATE ROLE postgres SUPERUSER LOGIN")
    with psycopg.connect(f"postgresql://postgres@/postgres?host={bare_postgres.folder}", autocommit=True) as boss:
        boss.execute("ALTER ROLE nightmill RENAME TO first_one")
    done = _script(
        "postgres/databases.sh",
        {
            "PATH": f"{bare_postgres.programs}:{os.environ['PATH']}",
            "PGHOST": str(bare_postgres.folder),
            "POSTGRES_NIGHTMILL_PASSWORD": 'it\'s "quoted" $HOME \\',
            "POSTGRES_TEMPORAL_PASSWORD": "other",
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    for role, database in (("nightmill", "nightmill"), ("temporal", "temporal"), ("temporal", "temporal_visibility")):
        with psycopg.connect(f"postgresql://{role}@/{database}?host={bare_postgres.folder}") as connection:
            connection.execute("CREATE TABLE mine (id int)")
            found = connection.execute("SELECT usesuper, usecreatedb FROM pg_user WHERE usename = current_user")
            assert found.fetchone() == (False, False)
    ours = open_database(f"postgresql://nightmill@/nightmill?host={bare_postgres.folder}", QUICK)
    schema.upgrade(ours)
    ours.close()
    with psycopg.connect(f"postgresql://postgres@/postgres?host={bare_postgres.folder}") as boss:
        stored = boss.execute("SELECT rolpassword FROM pg_authid WHERE rolname IN ('nightmill', 'temporal')").fetchall()
        assert all(str(password).startswith("SCRAM-SHA-256$") for (password,) in stored)
    for role, database in (("nightmill", "temporal"), ("temporal", "nightmill")):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(f"postgresql://{role}@/{database}?host={bare_postgres.folder}")


def _read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def _script(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(temporal_binary()).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", ROOT / "deploy" / name],
        env={"PATH": path, "HOME": "/nonexistent", "PAUSE": "0.2"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
