"""Processes that end when the suite does, and leave their output behind for whoever looks for a fault.

Owns starting, stopping and the log files of every child. Knows nothing of agents or nodes.
"""

import ctypes
import json
import os
import queue
import signal
import subprocess
import threading
import time
from http.client import HTTPException
from pathlib import Path

# Of a failing process, this many lines say why; more hides it.
TAIL_LINES = 30


class Failure(Exception):
    """A test that failed, with what a reader needs to see."""


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, or a word on its absence."""
    if not path.exists() or not path.stat().st_size:
        return "(nothing)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def die_with_parent():
    """Makes the kernel end this child when the driver is gone, however it went (Linux: prctl 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Service:
    """A long-running child: an agent (ends with its standard input) or a node (ends on SIGTERM)."""

    def __init__(self, name: str, command: list[str], log: Path, **options):
        self.name, self.log = name, log
        with log.open("wb") as output:
            # Called on the main thread alone: the kernel ties die_with_parent to the thread that forked.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stderr=output,
                preexec_fn=die_with_parent,
                start_new_session=True,
                **({"stdout": output} | options),
            )

    def first_line(self, seconds: float) -> dict:
        """The JSON line with which an agent says where it listens (needs `stdout=subprocess.PIPE`)."""
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(self.process.stdout.readline()), daemon=True).start()
        try:
            return json.loads(lines.get(timeout=seconds))
        except (queue.Empty, json.JSONDecodeError):
            raise Failure(f"{self.name} did not start:\n{tail(self.log)}") from None

    def check(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode}:\n{tail(self.log)}")

    def stop(self):
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill(self.process)
            self.process.wait()


def run(command: list[str], seconds: float, **options) -> str:
    """Standard output of a child that ends by itself, or a Failure with all that it said."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True, **options,
        )
    except OSError as error:
        raise Failure(f"{command[0]} cannot be run: {error}") from None
    with running_lock:
        running.add(child)
    why = ""
    try:
        output, errors = child.communicate(timeout=0 if giving_up.is_set() else seconds)
    except BaseException as stopped:
        kill(child)
        output, errors = child.communicate()
        if not isinstance(stopped, subprocess.TimeoutExpired):
            raise
        why = f"took longer than {seconds:.0f} s"
    finally:
        with running_lock:
            running.discard(child)
    if why or child.returncode != 0:
        raise Failure(f"{command[0]} {why or f'ended with {child.returncode}'}:\n{output}{last(errors)}")
    return output


running: set[subprocess.Popen] = set()
running_lock = threading.Lock()
giving_up = threading.Event()


def give_up():
    """Ends every child of `run`, those to come too: the threads that wait for them come to their end."""
    giving_up.set()
    with running_lock:
        for child in running:
            kill(child)


def kill(child: subprocess.Popen):
    """Ends a child and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def last(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def eventually(what: str, seconds: float, attempt):
    """Polls `attempt` until it gives something true; its last exception is the reason when it never does."""
    deadline, reason = time.monotonic() + seconds, "it said no"
    while time.monotonic() < deadline:
        try:
            if result := attempt():
                return result
        except (OSError, HTTPException) as error:
            reason = repr(error)
        time.sleep(0.05)
    raise Failure(f"{what}: not within {seconds:.0f} s, {reason}")
