"""The Compose file and the Kubernetes manifest of `examples/` say what fastpos understands.

There is no Docker and no Kubernetes here: the files are loaded, and what they say to fastpos is
given to its own parser of arguments and its own reader of accounts.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastpos.cli.accounts import read_accounts
from fastpos.cli.main import _parser, _serve
from tests.support.programs import ROOT

yaml = pytest.importorskip("yaml")

EXAMPLES = ROOT / "examples"
COMPOSE = EXAMPLES / "compose"
PAGE = (ROOT / "docs" / "workers.md").read_text()
DRAIN = 10.0  # seconds: SIGTERM is done within these, as the README says
URL = "redis://a-host:6379/0"


class Worker(NamedTuple):
    """What a file says of the containers that run `fastpos serve`."""

    words: list[str]
    environment: set[str]
    grace: float
    files: set[str]
    """Where it has files, as paths in the container."""
    accounts: str
    """The text of its file of accounts."""


def composed() -> Worker:
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    service = compose["services"]["worker"]
    assert set(service["secrets"]) == set(compose["secrets"])
    ours, there, _ = service["volumes"][0].split(":")
    secrets = {f"/run/secrets/{name}" for name in service["secrets"]}
    grace = float(service["stop_grace_period"].removesuffix("s"))
    text = (COMPOSE / ours).read_text()
    return Worker(service["command"], set(service["environment"]), grace, {there, *secrets}, text)


def in_kubernetes() -> Worker:
    objects = {each["kind"]: each for each in manifests()}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounts) == {each["name"] for each in pod["volumes"]}
    accounts = objects["ConfigMap"]["data"]
    comment = re.search(r"secretName: .* # keys (.*)", manifest_text())
    assert comment is not None
    files = {f"{mounts['accounts']}/{name}" for name in accounts}
    files |= {f"{mounts['secrets']}/{name}" for name in comment[1].split(", ")}
    names = {each["name"] for each in container["env"]}
    grace = pod["terminationGracePeriodSeconds"]
    return Worker(container["args"], names, grace, files, accounts["accounts.toml"])


def manifest_text() -> str:
    return (EXAMPLES / "kubernetes" / "fastpos.yaml").read_text()


def manifests() -> list[Any]:
    return list(yaml.safe_load_all(manifest_text()))


WORKERS = {"compose": composed, "kubernetes": in_kubernetes}


@pytest.fixture(params=sorted(WORKERS))
def worker(request: pytest.FixtureRequest) -> Worker:
    return WORKERS[request.param]()


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch, environment: set[str]) -> Any:
    """What fastpos makes of arguments; raises SystemExit where it does not understand them."""
    for name in environment:
        monkeypatch.setenv(name, URL)
    return _parser().parse_args(words)


def test_its_arguments_are_understood(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTPOS_REDIS_URL", raising=False)
    options = parsed(worker.words, monkeypatch, worker.environment)
    assert options.run is _serve
    assert options.redis == URL  # which only the environment names
    assert options.file in worker.files
    assert options.redis_max_length == 10_000


def test_its_accounts_are_right_and_their_secrets_are_there(worker: Worker, tmp_path: Path) -> None:
    named = set(re.findall(r'file = "([^"]+)"', worker.accounts))
    assert named
    assert named <= worker.files
    text = worker.accounts
    for path in named:
        secret = tmp_path / Path(path).name
        secret.write_text("a-secret-of-nobody")
        text = text.replace(path, str(secret))
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    assert set(read_accounts(str(file))) == {"alice", "bob"}


def test_it_is_given_the_time_to_hand_over(worker: Worker) -> None:
    assert (
        f"within {DRAIN:.0f} seconds" in (ROOT / "docs" / "reference" / "accounts.md").read_text()
    )
    assert worker.grace >= 1.5 * DRAIN


def test_kubernetes_ends_one_at_a_time_when_the_next_has_its_part() -> None:
    objects = {each["kind"]: each for each in manifests()}
    deployment, budget = objects["Deployment"]["spec"], objects["PodDisruptionBudget"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert budget["selector"]["matchLabels"] == labels
    assert budget["maxUnavailable"] == 1
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (container,) = deployment["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert f"0.0.0.0:{port['containerPort']}" == container["args"][-1]
    probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert probes == {
        "livenessProbe": {"path": "/healthz", "port": port["name"]},
        "readinessProbe": {"path": "/readyz", "port": port["name"]},
    }


def test_composes_workers_wait_for_a_redis_that_evicts_nothing() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    redis, workers = services["redis"], services["worker"]
    assert workers["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert workers["deploy"]["replicas"] == 2
    assert redis["healthcheck"]["test"][:2] == ["CMD", "redis-cli"]
    words = shlex.split(redis["command"])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert workers["environment"]["FASTPOS_REDIS_URL"] == "redis://redis:6379/0"


def test_the_image_runs_fastpos_itself() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["fastpos"\]$', text, re.M)  # no shell, which takes no SIGTERM
    extras = re.search(r"\.whl\)\[([\w,]+)\]", text)
    assert extras is not None
    project = (ROOT / "pyproject.toml").read_text()
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.M)
    build = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["worker"]["build"]
    context = (COMPOSE / build["context"]).resolve()
    assert (context / build["dockerfile"]).samefile(COMPOSE / "Dockerfile")
    given = (COMPOSE / "Dockerfile.dockerignore").read_text()
    assert all((context / name).exists() for name in re.findall(r"^!(.*)$", given, re.M))


def test_the_pages_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    commands = [line for block in blocks for line in block.splitlines() if "fastpos " in line]
    commands += re.findall(r"`(fastpos (?:serve|status|tail) [^`]+)`", PAGE)
    understood = 0
    for command in commands:
        words = shlex.split(command, comments=True)
        if "fastpos" in words and "install" not in words:
            after = words[words.index("fastpos") + 1 :]
            parsed(after, monkeypatch, {"FASTPOS_REDIS_URL"})
            understood += 1
    assert understood >= 3


def test_the_page_names_the_files() -> None:
    linked = set(re.findall(r"\]\((\.\./examples/[^)]+)\)", PAGE))
    assert linked >= {f"../examples/{name}" for name in ("compose", "kubernetes/fastpos.yaml")}
    assert all((ROOT / "docs" / link).exists() for link in linked)
