"""The image of kind's nodes, made of Debian's packages, kind's own files for it, and Kubernetes' programs.

Follows the recipe of kind's base image and of `kind build node-image`, which both fetch what no registry gives here.
README.md beside this folder says what stands in for what.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import archive, programs
from .programs import HERE, KUBERNETES
from .shell import Failure, sh, step, wait_for, works

IMAGE = f"localhost/adit-kind/node:{KUBERNETES}"
# The last Debian whose systemd starts on control groups of version 1, which machines like ours have.
SUITE = "bookworm"
PACKAGES = (
    "systemd conntrack iptables nftables iproute2 ethtool util-linux mount kmod libseccomp2 pigz e2fsprogs bash "
    "ca-certificates curl jq procps containerd runc containernetworking-plugins"
).split()
# Services of a machine that a container has no use for, as kind's recipe has them.
UNWANTED = [
    "lib/systemd/system/multi-user.target.wants/*", "etc/systemd/system/*.wants/*", "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*", "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*", "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*",
]
PARTS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd"]
# What kube-proxy's container has of Debian beside kube-proxy.
TABLES = ["usr/sbin/xtables-nft-multi", "usr/sbin/xtables-legacy-multi", "usr/sbin/nft", "usr/sbin/conntrack"]
NAMES = [f"{family}{what}" for family in ("iptables", "ip6tables") for what in ("", "-save", "-restore")]
METADATA = """FROM {files}
ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
LABEL stamp={stamp}
"""


def make(cache: Path, rig: Path):
    """The engine has the image from now on."""
    mark = stamp(rig)
    if works("docker", "image", "inspect", IMAGE):
        if sh("docker", "image", "inspect", "-f", '{{ index .Config.Labels "stamp" }}', IMAGE).strip() == mark:
            return IMAGE
    root, work = cache / "root", cache / "images"
    loose(root)
    for folder in (root, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with step("kubeadm and the small programs"):
        kubeadm, helper = programs.kubeadm(cache), programs.helper(cache)
    with step("a node's root file system"):
        base(cache, root)
        own_files(root, programs.kind_source())
        own_programs(root, rig, kubeadm, helper)
    with step("the images of a node"):
        images(root, work, rig, kubeadm, helper)
        load(root, work)
    with step("image of a node"):
        pack = subprocess.Popen(["tar", "-C", root, "--numeric-owner", "-c", "."], stdout=subprocess.PIPE)
        files = sh("docker", "import", "-", stdin=pack.stdout).strip()
        if pack.wait():
            raise Failure("tar: cannot read the root file system")
        classic = os.environ | {"DOCKER_BUILDKIT": "0"}
        works("docker", "rmi", IMAGE)
        sh("docker", "build", "-q", "-t", IMAGE, "-", input=METADATA.format(files=files, stamp=mark), env=classic)
        shutil.rmtree(root)
        shutil.rmtree(work)


def stamp(rig: Path) -> str:
    """What the image is made of: it is made anew when that changes."""
    digest = hashlib.sha256()
    files = [path for path in HERE.rglob("*") if path.is_file() and path.suffix in (".go", ".mod", ".sum", ".yaml")]
    for path in sorted([*files, Path(__file__), *(rig / "bin").glob("*.zst")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def base(cache: Path, root: Path):
    """Debian, and what a node has of it; kept for the next image."""
    kept = cache / f"{SUITE}-{hashlib.sha256(repr((PACKAGES, UNWANTED)).encode()).hexdigest()[:16]}.tar"
    if not kept.exists():
        debian(root)
        sh("tar", "-C", root, "--numeric-owner", "-cf", f"{kept}.new", ".")
        Path(f"{kept}.new").rename(kept)
    else:
        sh("tar", "-C", root, "--numeric-owner", "-xpf", kept)


def debian(root: Path):
    sh("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root)
    for pattern in UNWANTED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with (root / "etc/systemd/journald.conf").open("a") as file:
        file.write("ReadKMsg=no\n")
    (root / "sbin/init").unlink(missing_ok=True)
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")


def own_files(root: Path, source: Path):
    """kind's files, at the places at which kind wants them."""
    files = source / "images/base/files"
    for path in files.rglob("*"):
        target = root / path.relative_to(files)
        if path.is_dir():
            target.mkdir(exist_ok=True)
            continue
        shutil.copyfile(path, target)
        runs = path.parent.name == "bin"
        target.chmod(0o755 if runs else 0o644)
    (root / "etc/kubernetes/manifests").mkdir(parents=True)
    (root / "kind/version").write_text(KUBERNETES)
    (root / "kind/manifests").mkdir()
    for name in ("default-cni.yaml", "default-storage.yaml"):
        shutil.copyfile(HERE / name, root / "kind/manifests" / name)
    # Where root may not lower the score by which the kernel chooses victims, pods do without.
    config = root / "etc/containerd/config.toml"
    config.write_text(config.read_text().replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true"))
    # Debian has them elsewhere.
    (root / "usr/local/bin/containerd").symlink_to("/usr/bin/containerd")
    (root / "opt/cni").mkdir(parents=True)
    (root / "opt/cni/bin").symlink_to("/usr/lib/cni")
    hooks = '.hooks.createContainer[0].path = "/kind/bin/mount-product-files.sh" | del(.process.rlimits)'
    inside(root, "sh", "-c", f"ctr oci spec | jq '{hooks}' >/etc/containerd/cri-base.json")
    inside(root, "systemctl", "enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service")
    inside(root, "systemctl", "mask", "systemd-binfmt.service")


def inside(root, *argv):
    return sh("chroot", root, *argv)


def own_programs(root: Path, rig: Path, kubeadm: Path, helper: Path):
    """Kubernetes' programs that are no containers."""
    programs.unpacked(rig, "kube", root / "usr/local/lib/kube")
    shutil.copy(kubeadm, root / "usr/bin/kubeadm")
    for name in ("kubelet", "kubectl"):
        shutil.copy(helper, root / "usr/bin" / name)


def images(root: Path, work: Path, rig: Path, kubeadm: Path, helper: Path):
    """The archive of the images that kubeadm and we ask for."""
    programs.unpacked(rig, "coredns", work / "coredns")
    asked = sh(kubeadm, "config", "images", "list", "--kubernetes-version", KUBERNETES).split()
    config = (root / "etc/containerd/config.toml").read_text()
    asked.append(config.split('sandbox_image = "')[1].split('"')[0])

    def named(*parts):
        return [name for name in asked if name.rsplit("/", 1)[1].split(":")[0] in parts]

    kube = archive.Layer(work, "kube")
    kube.file(root / "usr/local/lib/kube", "usr/local/lib/kube")
    kube.file(helper, "usr/local/bin/node")
    for name in PARTS:
        kube.link(f"usr/local/bin/{name}", "node")
    small = archive.Layer(work, "small")
    small.file(helper, "node")
    small.link("pause", "node")
    small.link("kindnet", "node")
    small.link("coredns", "node")
    dns = archive.Layer(work, "dns")
    dns.file(work / "coredns", "usr/local/lib/coredns")
    kube, small, dns, proxy = kube.done(), small.done(), dns.done(), tables(root, work)
    archive.write(work / "images.tar", [
        (named("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"), None, [kube]),
        (named("kube-proxy"), None, [kube, proxy]),
        (named("coredns"), ["/coredns"], [small, dns]),
        (named("pause"), ["/pause"], [small]),
        (["localhost/adit-kind/kindnet:1"], ["/kindnet"], [small]),
    ])


def tables(root: Path, work: Path):
    """What kube-proxy needs to write rules, with the libraries of it."""
    layer = archive.Layer(work, "tables")
    extensions = [str(path.relative_to(root)) for path in root.glob("usr/lib/*/xtables/*.so")]
    words = inside(root, "ldd", *(f"/{name}" for name in [*TABLES, *extensions])).split()
    libraries = {word.lstrip("/") for word in words if word.startswith("/") and not word.endswith(":")}
    for name in ("lib", "lib64", "sbin", "bin"):
        layer.link(name, f"usr/{name}")
    for name in [*TABLES, *extensions]:
        layer.file((root / name).resolve(), name)
    for name in sorted(libraries):
        layer.file((root / name).resolve(), name if name.startswith("usr/") else f"usr/{name}")
    for name in NAMES:
        layer.link(f"usr/local/sbin/{name}", "../bin/node")
    return layer.done()


def load(root: Path, work: Path):
    """Into what will be the node's store of images, by a containerd of this machine that runs as long as it takes."""
    (work / "config.toml").write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    socket = work / "containerd.sock"
    argv = ["containerd", "--config", work / "config.toml", "--root", root / "var/lib/containerd"]
    argv += ["--state", work / "state", "--address", socket]
    containerd = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("containerd", lambda: works("ctr", "--address", socket, "version"))
        ctr = ["ctr", "--address", socket, "--namespace", "k8s.io", "images"]
        sh(*ctr, "import", "--no-unpack", "--all-platforms", work / "images.tar")
    finally:
        containerd.send_signal(signal.SIGTERM)
        containerd.wait()
    # Only what was loaded is of use: the rest is this machine's.
    for path in (root / "var/lib/containerd").iterdir():
        if path.name not in ("io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def loose(root: Path):
    """Unmounts what an interrupted making may have left."""
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        where = line.split()[1]
        if where.startswith(f"{root}/"):
            sh("umount", where)
