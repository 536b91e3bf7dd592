"""The table of faults: each is seeded while callers call, and what is said of it, by whom and how soon, is a row.

Owns how a row is judged and how the table looks.
"""

import contextlib
import re
import time

from . import agents, rows, seeds
from .agents import NAMESPACE
from .cluster import Failure, Skip, check, eventually
from .seeds import BACKEND, HOME, LOST
from .watching import Callers, Watch

# By then it must be said, from when it was seeded or, if they are served for a while after that, from the first
# caller that was not.
SAID_SECONDS = 10
# Seconds to wait for it, for the sake of a figure.
WAITS_SECONDS = 20
# Seconds that a fault lasts at least: callers that hang do so for five seconds.
LASTS_SECONDS = 6
# What is only doubtful leaves the exit status at 0.
WRONG = r"(?!\s*doubtful )"
# Seconds after the mend in which all must be well.
WELL_SECONDS = 120


def fault_table(world):
    """Faults of the link and of single Services, while callers call: status, condition, Event and metric name each within 10 s."""
    return table(world, [rows.services()] + [[one] for one in rows.links() if not one.long])


def fault_table_long(world):
    """The same with those that take their time."""
    return table(world, [rows.services()] + [[one] for one in rows.links()])


def table(world, groups):
    if not world.rig_program:
        raise Skip("only the rig (ADIT_RIG) lets a test at the machines")
    if world.chosen_faults:
        groups = [[one for one in group if any(word in one.name for word in world.chosen_faults)] for group in groups]
        groups = [group for group in groups if group]
    with prepared(world) as targets, Watch(world) as watch, contextlib.ExitStack() as stack:
        callers = {
            "edge": stack.enter_context(Callers(world.edge, "support-bot", targets)),
            **{
                node: stack.enter_context(Callers(world.bank, f"caller-{node}", {"home": home(world)}))
                for node in ("bank-1", "bank-2")
            },
        }
        made = []
        try:
            for group in groups:
                made += beside(watch, callers, world, group)
        finally:
            text = rendered(made)
            print(text, flush=True)
            world.keep("fault-table.md", text)
    wrong = [f"{row['name']}: {', '.join(row['missing'])}" for row in made if row["missing"]]
    check(not wrong, "\n".join(wrong))
    return f"{len(made)} faults, each said within {SAID_SECONDS} s"


def home(world):
    return address(world.bank, HOME)


def address(cluster, name):
    return cluster.get("service", "-n", NAMESPACE, name)["spec"]["clusterIP"] + f":{agents.PORT}"


@contextlib.contextmanager
def prepared(world):
    """The Services of the table, served; gives where callers of edge find them."""
    bank, edge = world.bank, world.edge
    names = [one.service for one in rows.services()]
    command = ["python3", "/app/webhook.py"]
    for cluster, backends in ((bank, (BACKEND, LOST)), (edge, (HOME,))):
        for name in backends:
            cluster.create(agents.account(name), agents.deployment(name, 1, command))
    for name in ("bank-1", "bank-2"):
        _, pod = agents.client("support-bot")
        pod["metadata"]["name"], pod["spec"]["nodeName"] = f"caller-{name}", name
        bank.create(agents.account("support-bot"), pod)
    bank.rolled_out(NAMESPACE, f"deployment/{BACKEND}")
    for name in names:
        made = seeds.served_by(name, LOST if name == LOST else BACKEND)
        if name == "table-forbidden":
            del made["spec"]["selector"]
            bank.create(seeds.hand_written(name, seeds.backend_address(world)))
        bank.create(made)
        edge.create(agents.open_service(name))
        world.export(name, "--allow", "support-bot")
    edge.create(seeds.served_by(HOME, HOME))
    world.export(HOME, "--allow", "support-bot", owner=edge, to="bank")
    world.adit("import", f"{NAMESPACE}/{HOME}", "--from", "edge", "--context", bank.context)
    bank.rolled_out(NAMESPACE, f"deployment/{LOST}")
    edge.rolled_out(NAMESPACE, f"deployment/{HOME}")
    for name in names:
        world.imported(name)
    world.imported(HOME, bank)
    for name in ("bank-1", "bank-2"):
        bank.wait(NAMESPACE, f"pod/caller-{name}")
    yield {one.removeprefix("table-"): address(edge, one) for one in names} | {"fraud-bot": address(edge, "fraud-bot")}
    for name in (*names, HOME):
        world.withdraw(name, edge if name == HOME else bank)
    world.adit("import", f"{NAMESPACE}/{HOME}", "--remove", "--context", bank.context)
    for cluster in world.both:
        every = [f"service/{name}" for name in (*names, HOME)]
        cluster.delete("-n", NAMESPACE, *every, "endpointslice/table-forbidden-by-hand", "--wait=false")
        cluster.delete("-n", NAMESPACE, *(f"deployment/{name}" for name in (BACKEND, LOST, HOME)))
        cluster.delete("-n", NAMESPACE, "imports.adit.dev", *(f"{NAMESPACE}.{name}" for name in names))
    bank.delete("-n", NAMESPACE, "pod/caller-bank-1", "pod/caller-bank-2", "--wait=false")


def beside(watch, callers, world, faults):
    """Seeds these faults beside each other; gives their rows."""
    _, ill = well(watch, callers, faults)
    began, begin = {}, {}
    with contextlib.ExitStack() as stack:
        for fault in faults:
            begin[fault.name] = time.time()
            # Where it takes its time it says when it was.
            began[fault.name] = stack.enter_context(fault.seed(world)) or begin[fault.name]
        last = time.time()
        waits = lambda: time.time() < last + LASTS_SECONDS or (
            time.time() < last + WAITS_SECONDS + max(one.later for one in faults)
            and any(missing(said(watch, one, began[one.name], begin[one.name])) for one in faults)
        )
        while waits():
            time.sleep(0.3)
        until = time.time()
        lines = {cluster: len(problems(watch.now(f"status {cluster}"))) for cluster in ("edge", "bank")}
        found = {one.name: said(watch, one, began[one.name], begin[one.name]) for one in faults}
        exits = {one.name: exit_of(watch, one, began[one.name]) for one in faults}
    mended = time.time()
    again, sick = well(watch, callers, faults)
    all_rows = []
    for one in faults:
        made = row(one, found[one.name], exits[one.name], ends(callers, one.caller, began[one.name], until), began[one.name])
        hurt = [end for end in ends(callers, one.spared, began[one.name], until) if end["end"] != "answer"]
        made["missing"] += [f"{one.spared} was to be spared: {end}" for end in hurt[:1]]
        made["missing"] += [
            f"status of {cluster} has {lines[cluster]} lines" for cluster, most in one.most.items() if lines[cluster] > most
        ]
        made["again"] = None if sick else again - mended
        made["missing"] += [f"before: {ill}"] * bool(ill) + [f"afterwards: {sick}"] * bool(sick)
        made["else"] = {
            cluster: instead(watch, one, cluster, began[one.name]) for cluster in one.status if not found[one.name][f"status of {cluster}"]
        }
        all_rows.append(made)
        print(summed(made), flush=True)
    return all_rows


def well(watch, callers, faults):
    """Waits until callers are served, and status finds nothing wrong; gives when that was, and what is wrong where that
    is not within a while."""
    def is_well():
        for name in ("edge", "bank"):
            wrong = problems(watch.now(f"status {name}"))
            check(not wrong, f"{name}: " + "; ".join(wrong))
        for fault in faults:
            late = ends(callers, fault.caller, time.time() - 2, time.time())
            check(not fault.caller or (late and {one["end"] for one in late} == {"answer"}), f"{fault.name}: {late[-3:]}")
        return time.time()

    try:
        return eventually("all is well", is_well, WELL_SECONDS, 0.5), None
    except Failure as failure:
        return time.time(), str(failure)


def instead(watch, fault, cluster, since):
    """Some of what a status said that was not what was asked for, each once however its counts changed."""
    lines = problems(line for _, line in watch.news(f"status {cluster}", since))
    about = [line for line in lines if fault.service in line]
    return list({re.sub(r"[0-9]+", "", line): line for line in about}.values())[:4]


def problems(page):
    """The lines of a status page that say that something is wrong."""
    quiet = re.compile(r"^(cluster |LINKS|EXPORTS|IMPORTS|exit status |$)|\bwell$|waits for link |^\s*doubtful |\b0 well")
    return [" ".join(line.split()) for line in page if not quiet.search(line)]


def ends(callers, caller, since, until):
    if not caller:
        return []
    pod, key = caller.split("/")
    return callers[pod].ends(key, since, until)


def said(watch, fault, since, begin) -> dict:
    """By what was asked for: (seconds, line, eye), or None where it was not seen; nothing for what is not asked for."""
    asked = {
        f"status of {cluster}": (f"^status {cluster}$", rf"^{'' if cluster in fault.doubtful else WRONG}.*({pattern})")
        for cluster, pattern in fault.status.items()
    }
    for kind, eyes in (("condition", "conditions"), ("event", "events"), ("metric", "metrics")):
        if given := getattr(fault, kind):
            asked[kind] = (f"^{eyes} {given[0]}", given[1])
    return {what: watch.first(eye, pattern, since, begin) for what, (eye, pattern) in asked.items()}


def missing(found):
    return [what for what, seen in found.items() if not seen]


def exit_of(watch, fault, since):
    """By cluster of which status is asked, and is to say that something is wrong: seconds until its exit status was 1."""
    wrong = [cluster for cluster in fault.status if cluster not in fault.doubtful]
    return {cluster: watch.soonest(f"status {cluster}", "^exit status 1$", since) for cluster in wrong}


def row(fault, found, exits, calls, began):
    failed = [one for one in calls if one["end"] != "answer"]
    kinds = {}
    for one in failed:
        kinds.setdefault(one["end"], []).append(one["seconds"])
    first = min((one["at"] + one["seconds"] - began for one in failed), default=None)
    # A caller that is served for a while, on purpose, need hear nothing meanwhile.
    due = SAID_SECONDS + fault.later + max(0, min((one["at"] - began for one in failed), default=0))
    late = [f"{what} after {seen[0]} s" for what, seen in found.items() if seen and seen[0] > due]
    late += [f"exit status of {cluster}" for cluster, seconds in exits.items() if seconds is None or seconds > due]
    return {
        "name": fault.name, "status": list(fault.status), "found": found, "exits": exits, "first": first, "note": fault.note,
        "calls": len(calls), "failed": len(failed),
        "kinds": {end: max(all) for end, all in kinds.items()},
        "missing": [f"no {what}" for what in missing(found)] + late,
    }


def summed(row) -> str:
    return f"     {'NO ' if row['missing'] else 'yes'} {row['name']} {'; '.join(row['missing'])}"


def rendered(rows) -> str:
    """The table in Markdown, and under it what was said word for word."""
    head = ["", "fault", "callers", "status", "condition", "Event", "metric", "well again", "yes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    words = []
    for number, one in enumerate(rows, 1):
        found = one["found"]
        clients = ", ".join(f"{end} within {most:.1f} s" for end, most in one["kinds"].items()) or "answered"
        if one["first"] is not None:
            clients = f"first after {one['first']:.1f} s; {one['failed']} of {one['calls']}: {clients}"
        statuses = [f"{cluster} {cell(found[f'status of {cluster}'])}, exit {cell_of(one['exits'].get(cluster))}" for cluster in one["status"]]
        cells = [str(number), one["name"], clients, "; ".join(statuses)]
        cells += [cell(found[kind]) if kind in found else "–" for kind in ("condition", "event", "metric")]
        cells += ["no" if one["again"] is None else f"{one['again']:.0f} s", "yes" if not one["missing"] else "NO: " + ", ".join(one["missing"])]
        lines.append("| " + " | ".join(cells) + " |")
        words.append(f"\n{number}. {one['name']}" + (f" ({one['note']})" if one["note"] else ""))
        words += [f"   * {what}, {seen[0]} s, {seen[2].split()[-1]}: `{' '.join(seen[1].split())}`" for what, seen in found.items() if seen]
        words += [f"   * {cluster} says instead: `{line}`" for cluster, lines in one["else"].items() for line in lines]
    return "\n".join(lines + words) + "\n"


def cell(seen):
    return f"{seen[0]:.1f} s" if seen else "no"


def cell_of(seconds):
    return f"{seconds:.1f} s" if seconds is not None else "0"
