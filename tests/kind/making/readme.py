"""The commands of the README's chapter on two clusters, run as they stand there."""

import os
import re
import subprocess
from pathlib import Path

from .shell import Failure, step

ROOT = Path(__file__).resolve().parents[3]
CHAPTER = "## Connect two clusters\n"
# A reader's command that compiles: left out where what it makes is given.
COMPILING = {"daemonset/image/build"}


def blocks() -> list[list[str]]:
    """The commands of each block of the chapter, without what is said of them on their line."""
    text = (ROOT / "README.md").read_text()
    if CHAPTER not in text:
        raise Failure(f"README.md has no {CHAPTER.strip()!r}")
    chapter = text.split(CHAPTER)[1].split("\n## ")[0]
    found = [block.strip().splitlines() for block in re.findall(r"^```\n(.*?)^```$", chapter, re.M | re.S)]
    return [[re.sub(r" +#.*", "", line) for line in lines] for lines in found]


def walk(adit: Path | None, call):
    """Runs them all from the repository, and calls before the last, which looks at what there is. With `adit`, a static
    build of it, nothing is compiled."""
    compiled, chapter = [], blocks()
    for number, lines in enumerate(chapter, 1):
        if number == len(chapter):
            call()
        if adit:
            compiled = [line for line in lines if line in COMPILING] or compiled
            lines = [line for line in lines if line not in COMPILING]
        with step(f"README, block {number}: {lines[-1].split(' --')[0]}"):
            play(adit, lines)
    if compiled:
        print(f"not run, as ADIT_BIN is given: {'; '.join(compiled)}")


def play(adit, lines):
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    # What the first block has said holds in the others, too.
    path = f"{adit.parent if adit else ROOT / 'target'}:{environment['PATH']}"
    if adit:
        lines = [line for line in lines if not line.startswith("PATH=")]
    for line in lines:
        print(f"$ {line}", flush=True)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=ROOT, env=environment | {"PATH": path})
        if done.returncode:
            raise Failure(f"README.md: {line}: exit {done.returncode}")
