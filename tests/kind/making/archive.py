"""An archive of images as `docker save` writes it, of files on this machine. Several images may share a layer."""

import hashlib
import io
import json
import tarfile
from pathlib import Path


class Layer:
    """Files of an image, as a tar file in `folder`."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.tar"
        self.tar = tarfile.open(self.path, "w", format=tarfile.PAX_FORMAT)

    def file(self, source: Path, name: str, mode=0o755):
        info = tarfile.TarInfo(name)
        info.size, info.mode = source.stat().st_size, mode
        with source.open("rb") as content:
            self.tar.addfile(info, content)

    def link(self, name: str, to: str):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, to, 0o777
        self.tar.addfile(info)

    def done(self):
        self.tar.close()
        with self.path.open("rb") as content:
            self.digest = hashlib.file_digest(content, "sha256").hexdigest()
        return self


def write(target: Path, images: list[tuple[list[str], list[str], list[Layer]]]):
    """Images as (names, entry point, layers)."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        manifest, there = [], set()
        for names, entrypoint, layers in images:
            path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            config = json.dumps({
                "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
                "config": {"Entrypoint": entrypoint, "Env": [path]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            }).encode()
            identity = hashlib.sha256(config).hexdigest()
            add(tar, f"{identity}.json", config)
            for layer in layers:
                if layer.digest not in there:
                    tar.add(layer.path, f"{layer.digest}.tar")
                    there.add(layer.digest)
            files = [f"{layer.digest}.tar" for layer in layers]
            manifest.append({"Config": f"{identity}.json", "RepoTags": names, "Layers": files})
        add(tar, "manifest.json", json.dumps(manifest).encode())


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
