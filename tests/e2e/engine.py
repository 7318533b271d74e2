"""Finds a Docker that works, and runs compose with it: Compose v2 or docker-compose 1.29."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT.parent / "shared" / "docker" / "engine"
"""A script that gives some machines an engine; used when it is there and no other engine works."""
EXIT_MISSING = 3
_CAPTURED: dict[str, Any] = {"capture_output": True, "text": True}


class MissingPrerequisite(Exception):  # noqa: N818 - the name says it
    """Something that must be installed is not; the text says what."""


@dataclass(frozen=True)
class Compose:
    """Compose for this project's fleet.

    Attributes:
        command: How compose is called.
        project: The project's name, so that nothing else on the engine is touched.
        environment: Its environment.
    """

    command: tuple[str, ...]
    project: str
    environment: dict[str, str] = field(repr=False)

    def run(self, *arguments: str, check: bool = True, timeout_s: float = 600.0) -> str:
        """Run a compose command; its standard output."""
        return self._run((*self.command, "-p", self.project, *arguments), check, timeout_s)

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run a docker command; its standard output."""
        return self._run(("docker", *arguments), check, timeout_s)

    def logs(self, container: str, last: int = 50) -> str:
        """The last lines that a container wrote, to either stream."""
        command = ("docker", "logs", "--tail", str(last), container)
        return _both_streams(subprocess.run(command, env=self.environment, **_CAPTURED, timeout=60, check=False))

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, running or not."""
        label = f"label=com.docker.compose.project={self.project}"
        service_label = f"label=com.docker.compose.service={service}"
        shown = self.docker("ps", "-aq", "--no-trunc", "--filter", label, "--filter", service_label)
        return sorted(shown.split())

    def _run(self, command: tuple[str, ...], check: bool, timeout_s: float) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.environment, **_CAPTURED, timeout=timeout_s, check=False)
        if check and done.returncode:
            shown = "\n".join(_both_streams(done).splitlines()[-40:])
            msg = f"`{' '.join(command[:6])} …` ended with {done.returncode}:\n{shown}"
            raise RuntimeError(msg)
        return done.stdout


def find_compose(project: str) -> Compose:
    """A compose whose engine answers.

    Raises:
        MissingPrerequisite: There is none; the text says what to install.
    """
    environment = dict(os.environ)
    if not _answers(environment):
        environment |= _provided_engine()
    if not _answers(environment):
        msg = (
            "no Docker engine answers: install Docker (docs.docker.com/engine/install) and start it, or set DOCKER_HOST"
        )
        raise MissingPrerequisite(msg)
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and not _quietly((*command, "version"), environment):
            return Compose(command, project, environment)
    msg = "Docker works, but there is no compose: install the Compose plugin (v2) or docker-compose 1.29"
    raise MissingPrerequisite(msg)


def _both_streams(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def _answers(environment: dict[str, str]) -> bool:
    return shutil.which("docker") is not None and not _quietly(("docker", "info"), environment)


def _quietly(command: tuple[str, ...], environment: dict[str, str]) -> int:
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


def _provided_engine() -> dict[str, str]:
    """The engine beside the project, brought up, and what its shell needs. Builds there use the host's network."""
    if not ENGINE.exists():
        return {}
    sys.stderr.write("no Docker engine answers; bringing up the one beside the project (two minutes the first time)\n")
    subprocess.run([str(ENGINE), "up"], check=True, timeout=900, stdout=sys.stderr)
    shown = subprocess.run([str(ENGINE), "env"], check=True, timeout=60, capture_output=True, text=True).stdout
    exports = dict(line.removeprefix("export ").split("=", 1) for line in shown.splitlines() if line)
    return {**exports, "BUILD_NETWORK": "host"}
