"""The rows of the table: each fault, who calls meanwhile, and what must be said of it, where."""

from dataclasses import dataclass, field
from typing import Callable, ContextManager

from . import seeds


@dataclass(frozen=True)
class Fault:
    """A row. Patterns are asked of what `watching` sees: each must be seen in a line that was not there before."""

    name: str
    seed: Callable[..., ContextManager]
    # Whose callers are looked at, as `callers/key`; empty where none are refused.
    caller: str
    # By cluster: a line that names what is wrong and on which side.
    status: dict[str, str]
    condition: tuple[str, str] | None
    event: tuple[str, str] | None
    metric: tuple[str, str] | None
    # Why something above is not asked for.
    note: str = ""
    service: str = ""
    # True if it is left to the long suite: silence alone is not believed for nine seconds, or the way back takes long.
    long: bool = False
    # Whose callers must not notice it.
    spared: str = ""
    # How long nothing can be known of it, or is wrong yet; the note says why.
    later: float = 0
    # Whose status may say it as doubtful, since nothing is wrong there.
    doubtful: tuple[str, ...] = ()
    # By cluster: how many lines of trouble its status may have, where one cause has many victims.
    most: dict[str, int] = field(default_factory=dict)


def of_service(name, seed, service, status, condition, event, metric, note=""):
    key = service.removeprefix("table-")
    where = {cluster: rf"{service} .*({what})" for cluster, what in status.items()}
    return Fault(
        name, lambda world: seed(world, service), f"edge/{key}", where,
        condition and (condition[0], rf"{service} {condition[1]}"), event and (event[0], rf"{service} {event[1]}"),
        metric and (metric[0], metric[1].replace("SERVICE", f'[^ ]*{service}"[^ ]*')), note, service,
        spared="edge/fraud-bot",
    )


READY_0 = ("edge", "adit_import_ready{SERVICE} 0")


def services():
    """Those of one Service each."""
    def bad(reason):
        return ("edge", f"Ready=False {reason}")

    def told(reason):
        return ("edge", reason)

    return [
        of_service(
            "another's slice fills an imported Service", seeds.foreign_slice, "table-foreign",
            {"edge": r"by-hand \(managed by mesh.example\)"}, bad("ServiceHasOwnEndpoints"), told("ServiceHasOwnEndpoints"), READY_0,
        ),
        of_service(
            "an export is withdrawn", seeds.withdrawn, "table-withdrawn",
            {"edge": "bank has withdrawn its export"}, bad("Withdrawn"), told("Withdrawn"), READY_0,
        ),
        of_service(
            "grants of import and export never meet", seeds.never_meet, "table-never",
            {"edge": "here it is for .*nobody-here.*and bank grants it to .*support-bot"}, bad("NobodyAllowed"), told("NobodyAllowed"), READY_0,
        ),
        of_service(
            "the export does not allow the caller", seeds.denied, "table-denied",
            {"edge": "support-bot( are)? refused.*no grant.*export in bank"}, ("edge", "Refusing=True Denied"), told("CallersRefused"),
            ("edge", 'adit_streams_ended_total{.*code="denied".*SERVICE}'), "bank is as it was told to be, and says so as doubtful",
        ),
        of_service(
            "a process on a node's own network calls", seeds.on_host, "table-host",
            {"edge": "refused.*is an address of a node"}, ("edge", "Refusing=True SourceUnknown"), told("CallersRefused"),
            ("edge", 'adit_streams_ended_total{.*code="source-unknown".*SERVICE}'), "the row's callers are pods, which are answered",
        ),
        of_service(
            "the backends are gone", seeds.scaled_away, seeds.LOST,
            {"edge": "bank.*no ready backend", "bank": "no ready|NoBackend"}, bad("NoBackend"), told("CallersRefused|NoBackend"), READY_0,
        ),
        of_service(
            "nobody listens at the backend's port", seeds.nobody_listens, "table-closed",
            {"edge": "bank.*refuse", "bank": "refuse"}, bad("BackendRefused"), told("CallersRefused|BackendRefused"), READY_0,
        ),
        of_service(
            "the Service names a port that its pods do not have", seeds.no_such_port, "table-port",
            {"edge": "bank.*no ready backend", "bank": "no ready|NoBackend"}, bad("NoBackend"), told("CallersRefused|NoBackend"), READY_0,
        ),
        of_service(
            "the backend's address is one that no node dials", seeds.forbidden, "table-forbidden",
            {"edge": "bank.*(orbidden|may not)", "bank": "orbidden|may not|never dial"}, ("edge", "False.*orbid|True.*orbid"),
            told("CallersRefused|Forbidden"), READY_0,
        ),
        of_service(
            "the exported Service is deleted", seeds.deleted, "table-deleted",
            {"edge": "bank has withdrawn|no Service|not export", "bank": "there is no Service"}, bad("Withdrawn|NoService"),
            told("Withdrawn|NoService"), READY_0,
        ),
    ]


def link(name, seed, status, condition, event, metric, caller="edge/fraud-bot", **more):
    return Fault(name, lambda world: seed(world, None), caller, status, condition, event, metric, **more)


def down(cluster, other, reason="LinkDown"):
    """The words of Link, Event and metric where a cluster does not hear the other one."""
    return (cluster, f"Link {other} Up=False {reason}"), (cluster, f"Link {other} {reason}"), (cluster, f'adit_link_up{{link="{other}"}} 0')


SILENCE = "(UDP|no answer|nothing heard)"
DISTRUST = "(certificate|bundle|trust)"
STRANGER = "(no trust bundle|does not know|not linked|unlinked)"


def links():
    """Those of the link, and of the parts."""
    edge, bank = down("edge", "bank"), down("bank", "edge")
    silent = {"edge": f"bank .*{SILENCE}", "bank": f"edge .*{SILENCE}"}
    distrusted = {"edge": f"bank .*{DISTRUST}", "bank": f"edge .*{DISTRUST}"}
    return [
        link(
            "one importing node of two is cut off", seeds.node_cut_off, {"bank": "edge.*1 of 2 nodes.*bank-2"},
            ("bank", "Link edge NodesDown=True.*bank-2"), ("bank", "Link edge NodesCutOff"), ("bank bank-2", 'adit_link_up{link="edge"} 0'),
            "bank-2/home", spared="bank-1/home",
        ),
        # Within a minute one cause has one Event: those with the same are apart.
        link(
            "the link's UDP is lost both ways", seeds.cut, silent, *edge, long=True, most={"edge": 1, "bank": 1},
            note="a dozen imports wait for it, and are counted in its line",
        ),
        link("UDP from edge to bank is lost", seeds.cut_outward, silent, *down("edge", "bank", "OneWay"), long=True),
        link("edge has a wrong bundle for bank", seeds.wrong_bundle("edge", "bank"), distrusted, *down("edge", "bank", "CertificateRefused")),
        link("bank has a wrong bundle for edge", seeds.wrong_bundle("bank", "edge"), distrusted, *down("edge", "bank", "RefusedByPeer")),
        link(
            "edge has unlinked bank", seeds.unlinked("edge", "bank"), {"edge": "NotLinked|no link to bank", "bank": f"edge .*{STRANGER}"},
            *down("bank", "edge", "RefusedByPeer"),
        ),
        link("UDP from bank to edge is lost", seeds.cut_inward, silent, *edge, long=True),
        link(
            "bank has unlinked edge", seeds.unlinked("bank", "edge"), {"edge": f"bank .*{STRANGER}", "bank": "NotLinked|no link to edge"},
            *down("edge", "bank", "RefusedByPeer"),
        ),
        link(
            "bank's daemons leave for good", seeds.leaving_daemons("bank"), {"bank": "adit-node has no pods|0 of 2 node"},
            None, ("bank", "SuccessfulDelete"), ("bank", "adit_ready 0|up 0"), "", spared="edge/fraud-bot",
            note="they serve for limits.leave, and edge has nothing to say meanwhile", long=True,
        ),
        link(
            "one daemon of bank hangs", seeds.frozen_daemon, {"bank": "1 of 2 nodes do not tell.*bank-2"},
            ("bank", "Link edge NodesDown=True.*bank-2"), ("bank", "Link edge NodesSilent"), ("bank bank-2", "up 0"),
            note="callers may be answered by the other", long=True,
        ),
        link(
            "edge's daemons are gone at once", seeds.no_daemons("edge"), {"edge": "0 of 1 node pods|adit-node has no pods", "bank": f"edge .*({SILENCE}|going away)"},
            bank[0], bank[1], ("edge", "up 0"), long=True,
        ),
        link(
            "edge has no controller any more", seeds.no_controller, {"edge": "0 of 2 controller pods|no controller is active"},
            ("edge", "Deployment adit-controller Available=False"), ("edge", "FailedScheduling"),
            ("edge", r"adit_controller_silence_seconds ([5-9]|\d\d)"), "", spared="edge/fraud-bot",
            note="condition and Event are Kubernetes' own: nobody is there to write ours",
        ),
        link(
            "edge's controllers cannot reach its API server", seeds.no_api_server, {"edge": "0 of 2 controller pods"},
            ("edge", "Pod adit-controller.* Ready=False"), ("edge", "Unhealthy"),
            ("edge controllers", r"adit_controller_api_silence_seconds ([4-9]|\d\d)"), "", spared="edge/fraud-bot",
            note="condition and Event are Kubernetes' own: nobody can write ours", long=True,
        ),
        link(
            "a key of bank's ConfigMap has an error", seeds.bad_configuration, {"bank": "zz-table.yaml"},
            ("bank", "Configured=False BadConfiguration"), ("bank", "BadConfiguration"), ("bank", "adit_config_rejected 1"), "",
            spared="edge/fraud-bot",
        ),
        link(
            "the disk of a node of bank is full", seeds.full_disk, {"bank": "1 of 2 nodes.*bank-2.*cannot be written: No space left"},
            None, None, ("bank bank-2", 'adit_problems{severity="error"} [1-9]'), "", spared="edge/fraud-bot",
            note="nothing fails yet: no link, import or export has a condition for it",
        ),
        link(
            "two machines have the identity of bank-1", seeds.doubled, {"edge": "bank.*identity folder", "bank": "bank-1.*identity folder"},
            None, None, ("edge", 'adit_link_doubled_nodes{link="bank"} 1'), "", doubtful=("edge",), long=True,
            note="bank-1 looks itself before it believes edge; edge has nothing to mend",
        ),
        link(
            "bank's CA ends, and with it its nodes' certificates", seeds.ended_certificates,
            {"edge": f"no authority of bank.adit.internal is valid|bank .*{DISTRUST}", "bank": "certificate-ended"},
            None, ("bank", "Secret adit-ca"), ("bank", "adit_certificate_left_seconds -"), long=True,
            note="whether edge's condition says so depends on who looks first: its bundle may have nobody left to believe",
        ),
        link(
            "bank's daemons are gone at once", seeds.no_daemons("bank"), {"edge": f"bank .*({SILENCE}|going away)", "bank": "0 of 2 node pods|adit-node has no pods"},
            *edge, long=True,
        ),
    ]
