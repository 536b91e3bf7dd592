"""kind, and what of a node is built here: from Go modules, by name and version."""

import os
from pathlib import Path

from .shell import Failure, sh

KIND = "v0.33.0"
KUBERNETES = "v1.34.3"
HERE = Path(__file__).resolve().parent.parent
# One compiler at a time: the machine has other work.
QUIET = ["nice", "go"]


def kind(cache: Path) -> Path:
    """kind's own program, as it was released."""
    program = cache / "bin" / "kind"
    if not program.exists():
        go("install", f"sigs.k8s.io/kind@{KIND}", GOBIN=str(program.parent))
    return program


def kind_source() -> Path:
    """The module of kind, unpacked: it has the files of a node's image."""
    return Path(go("mod", "download", "-json", f"sigs.k8s.io/kind@{KIND}").split('"Dir": "')[1].split('"')[0])


def kubeadm(cache: Path) -> Path:
    """What makes a cluster of a node."""
    program = cache / "bin" / f"kubeadm-{KUBERNETES}"
    if not program.exists():
        major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
        version = "k8s.io/component-base/version.git"
        flags = f"-s -w -X {version}Version={KUBERNETES} -X {version}Major={major} -X {version}Minor={minor}"
        build(program, "k8s.io/kubernetes/cmd/kubeadm", flags)
    return program


def helper(cache: Path) -> Path:
    """The small programs of the image."""
    program = cache / "bin" / "node"
    build(program, "./node", "-s -w")
    return program


def build(program, package, flags):
    go("build", "-p", "1", "-trimpath", "-ldflags", flags, "-o", str(program), package)


def go(*args, **environment):
    return sh(*QUIET, *args, cwd=HERE / "programs", env=os.environ | {"CGO_ENABLED": "0"} | environment)


def unpacked(rig: Path, name: str, target: Path):
    """One of the programs that the rig has packed."""
    packed = rig / "bin" / f"{name}.zst"
    if not packed.exists():
        raise Failure(f"{packed} is not there: ADIT_RIG names the folder that has Kubernetes' programs")
    target.parent.mkdir(parents=True, exist_ok=True)
    sh("zstd", "-dqf", packed, "-o", target)
    target.chmod(0o755)


def kubectl(cache: Path, rig: Path):
    """A `kubectl` for this machine, where it has none."""
    unpacked(rig, "kube", cache / "kube")
    program = cache / "bin" / "kubectl"
    program.write_text(f'#!/bin/sh\nexec {cache / "kube"} ctl "$@"\n')
    program.chmod(0o755)
