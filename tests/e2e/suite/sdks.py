"""The SDKs: how each is installed, and which commands are its agent and its client.

Owns the cache of virtual environments, node modules and Go binaries. A folder of the cache is named by the
digest of what made it, so that a changed pin makes a new one and a stale one is never used.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Failure, run

HERE = Path(__file__).resolve().parent.parent
CACHE = Path(
    os.environ.get("ADIT_E2E_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adit-e2e"
)
# A cold install over a slow line; a warm one is milliseconds.
INSTALL_SECONDS = 600


class Missing(Exception):
    """Something that has to be on the machine first, and is not."""


@dataclass
class Sdk:
    """An SDK of the table."""

    name: str
    # Its name where it is pinned, and the file that pins it.
    package: str
    pins: str
    install: Callable
    # Cases that this SDK cannot do, and why: listed in the report, neither passed nor skipped.
    cannot: dict[str, str] = field(default_factory=dict)
    # Cases of which it does less than the others.
    notes: dict[str, str] = field(default_factory=dict)
    # The largest answer that its client takes over gRPC, where that cannot be raised.
    grpc_answer_limit: int | None = None
    agent: list[str] = field(default_factory=list)
    client: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its package with the version that is pinned."""
        pinned = re.search(
            re.escape(self.package) + r'[^0-9\n]*v?([0-9][^\s",]*)', (HERE / self.name / self.pins).read_text()
        )
        return f"{self.package} {pinned[1]}"

    def ready(self):
        """Installs what is missing, and fills in the commands."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                self.agent, self.client = self.install(HERE / self.name)
            except Failure as failure:
                raise Missing(str(failure)) from None


def need(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise Missing(f"{program} is not on PATH")
    return found


def cached(kind: str, *inputs: bytes) -> tuple[Path, Path]:
    """The folder for these inputs, emptied unless its mark says that it was finished, and the mark."""
    digest = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]
    folder = CACHE / f"{kind}-{digest}"
    mark = folder / ".finished"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return folder, mark


def install_python(source: Path):
    pins = source / "requirements.txt"
    folder, mark = cached(source.name, sys.version.encode(), pins.read_bytes())
    python = folder / "bin" / "python"
    if not mark.exists():
        run([sys.executable, "-m", "venv", str(folder)], INSTALL_SECONDS)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "-r", str(pins)], INSTALL_SECONDS)
        mark.touch()
    return [str(python), str(source / "agent.py")], [str(python), str(source / "client.py")]


def install_javascript(source: Path):
    node, npm = need("node"), need("npm")
    pins = [source / "package.json", source / "package-lock.json"]
    folder, mark = cached(source.name, run([node, "--version"], 30).encode(), *(pin.read_bytes() for pin in pins))
    if not mark.exists():
        for pin in pins:
            shutil.copy(pin, folder)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], INSTALL_SECONDS, cwd=folder)
        mark.touch()
    # Modules are found above the file that imports them: the programs go below the modules, where another
    # run that has other programs does not meet them.
    programs = [source / "agent.js", source / "client.js"]
    digest = hashlib.sha256(b"".join(program.read_bytes() for program in programs)).hexdigest()[:16]
    (folder / digest).mkdir(exist_ok=True)
    for program in programs:
        if not (folder / digest / program.name).exists():
            shutil.copy(program, folder / digest)
    return [node, str(folder / digest / "agent.js")], [node, str(folder / digest / "client.js")]


def install_go(source: Path):
    go = need("go")
    sources = [source / name for name in ("go.mod", "go.sum", "agent/main.go", "client/main.go")]
    folder, mark = cached(source.name, run([go, "version"], 30).encode(), *(file.read_bytes() for file in sources))
    if not mark.exists():
        build = [go, "build", "-buildvcs=false", "-o", f"{folder}/", "./agent", "./client"]
        run(build, INSTALL_SECONDS, cwd=source)
        mark.touch()
    return [str(folder / "agent")], [str(folder / "client")]


MIB = 1 << 20

SDKS = [
    Sdk("python-1", "a2a-sdk", "requirements.txt", install_python),
    Sdk("python-0.3", "a2a-sdk", "requirements.txt", install_python),
    Sdk(
        "javascript",
        "@a2a-js/sdk",
        "package.json",
        install_javascript,
        grpc_answer_limit=3 * MIB,
        notes={
            "grpc": "64 MiB to the agent, 3 MiB back: the SDK's client takes no channel options, "
            "so grpc-js' limit of 4 MiB on what it receives stands"
        },
    ),
    Sdk(
        "go",
        "github.com/a2aproject/a2a-go",
        "go.mod",
        install_go,
        cannot={"rest": "a2a-go 0.3 has the JSON-RPC and gRPC bindings only"},
    ),
]
