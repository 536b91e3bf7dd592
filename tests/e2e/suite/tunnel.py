"""The tunnel: two clusters, `edge` and `bank`, of one node each, on loopback, with real certificates.

Owns their configuration. Clients live on `edge`, agents on `bank`; the webhook is exported the other way.
"""

import http.client
import json
import random
import socket
from pathlib import Path

from .processes import Failure, Service, eventually, run, tail

NAMESPACE = "trustusbank-bank-agents"
PKI_SECONDS = 30
READY_SECONDS = 30
STATUS_SECONDS = 10


class Tunnel:
    """Two nodes. `listen` gives addresses before they run, `start` runs them."""

    def __init__(self, adit: str, folder: Path):
        self.adit, self.folder = adit, folder
        # A loopback network of this run's own: what is free on it stays free.
        self.network = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}"
        self.services: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        self.nodes: dict[str, Service] = {}
        self.metrics: dict[str, str] = {}

    def free_address(self, host: int, kind=socket.SOCK_STREAM) -> str:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((f"{self.network}.{host}", 0))
            return f"{self.network}.{host}:{probe.getsockname()[1]}"

    def listen(self, *ports: str) -> dict[str, str]:
        """Addresses at which the importing side will listen for a service's ports."""
        return {port: self.free_address(10) for port in ports}

    def carry(self, exporter: str, service: str, listen: dict[str, str], backends: dict[str, str]):
        """Adds a service: who has it, where the other side listens for it, where it really is."""
        self.services.append((exporter, service, listen, backends))

    def start(self):
        self.make_certificates()
        quic = {cluster: self.free_address(host, socket.SOCK_DGRAM) for host, cluster in ((1, "edge"), (2, "bank"))}
        for cluster, other in (("edge", "bank"), ("bank", "edge")):
            file = self.folder / f"{cluster}.yaml"
            # JSON is YAML.
            file.write_text(json.dumps(self.configuration(cluster, other, quic), indent=2))
            log = self.folder / f"{cluster}.log"
            self.nodes[cluster] = Service(
                f"node of {cluster}", [self.adit, "node", "--config", str(file)], log, cwd=self.folder
            )
        for cluster in self.nodes:
            eventually(f"node of {cluster} is ready", READY_SECONDS, lambda: self.is_ready(cluster))
        for _, service, listen, _ in self.services:
            if "http" in listen:
                eventually(f"import of {service} answers", READY_SECONDS, lambda: answer(listen["http"], "/"))

    def make_certificates(self):
        for cluster in ("edge", "bank"):
            authority, identity = self.folder / f"{cluster}-ca", self.folder / f"{cluster}-node"
            pki = [self.adit, "pki"]
            run([*pki, "init", "--trust-domain", trust_domain(cluster), "--dir", str(authority)], PKI_SECONDS)
            run([*pki, "issue", "--ca", str(authority), "--node", f"{cluster}-1", "--out", str(identity)], PKI_SECONDS)
            run([*pki, "bundle", "--ca", str(authority), "--out", str(self.folder / f"{cluster}.pem")], PKI_SECONDS)

    def configuration(self, cluster: str, other: str, quic: dict[str, str]) -> dict:
        self.metrics[cluster] = self.free_address(3)
        return {
            "cluster": cluster,
            "trustDomain": trust_domain(cluster),
            "node": {
                "name": f"{cluster}-1",
                "listen": quic[cluster],
                "advertise": [quic[cluster]],
                "identity": str(self.folder / f"{cluster}-node"),
            },
            "links": [{
                "cluster": other,
                "trustDomain": trust_domain(other),
                "trustBundle": str(self.folder / f"{other}.pem"),
                "addresses": [quic[other]],
            }],
            "imports": [
                {
                    "service": f"{NAMESPACE}/{service}",
                    "from": other,
                    "ports": [{"name": name, "port": port(name), "listen": address} for name, address in listen.items()],
                }
                for exporter, service, listen, _ in self.services if exporter == other
            ],
            "exports": [
                {
                    "service": f"{NAMESPACE}/{service}",
                    "ports": [
                        {"name": name, "port": port(name), "backends": [address]} for name, address in backends.items()
                    ],
                    "allow": [{"cluster": other, "namespace": NAMESPACE, "serviceAccount": "*"}],
                }
                for exporter, service, _, backends in self.services if exporter == cluster
            ],
            # Clients, agents and the driver connect from where the kernel puts them.
            "workloads": [{
                "address": "127.0.0.1",
                "namespace": NAMESPACE,
                "serviceAccount": "support-bot" if cluster == "edge" else "fraud-bot",
            }],
            "admin": {"socket": str(self.folder / f"{cluster}.sock")},
            "metrics": {"listen": self.metrics[cluster]},
            "log": {"level": "info", "format": "text"},
        }

    def is_ready(self, cluster: str) -> bool:
        self.nodes[cluster].check()
        return answer(self.metrics[cluster], "/readyz") == 200

    def logs(self) -> str:
        return "\n".join(f"--- {node.name}:\n{tail(node.log)}\n{self.status(name)}" for name, node in self.nodes.items())

    def status(self, cluster: str) -> str:
        """The output of `adit status` for a node, or the reason that there is none."""
        try:
            return run([self.adit, "status", "--admin", str(self.folder / f"{cluster}.sock")], STATUS_SECONDS)
        except Failure as failure:
            return str(failure)

    def stop(self):
        for node in self.nodes.values():
            node.stop()


def answer(address: str, path: str) -> int:
    """The HTTP status that somebody gives there."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def trust_domain(cluster: str) -> str:
    return f"{cluster}.trustusbank.example"


def port(name: str) -> int:
    return {"http": 8080, "grpc": 8081, "amqp": 5672}[name]
