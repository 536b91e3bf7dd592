"""The results: a line as each cell is known, then the table, the reasons, and one line of counts.

Owns all that the suite prints, and its exit code.
"""

import json
import os
import sys
import threading


class Report:
    """Cells of the table SDK × case. Threads share one."""

    def __init__(self, as_json: bool, sdks: list, cases: list):
        self.as_json, self.cases = as_json, cases
        self.sdks = {sdk.name: sdk for sdk in sdks}
        self.lock = threading.Lock()
        self.cells: dict[tuple[str, str], dict] = {}
        self.faults: list[str] = []

    def passed(self, sdk, case, seconds, digest):
        self.cell(sdk, case, "ok", seconds=round(seconds, 1), sha256=digest, note=sdk.notes.get(case.name))
        self.say(f"ok      {sdk.name:11} {case.name:12} {seconds:6.1f} s  transcript {digest[:16]}")

    def failed(self, sdk, case, why):
        self.cell(sdk, case, "FAIL", why=why)
        self.say(f"FAIL    {sdk.name:11} {case.name}\n{indented(why)}")

    def cannot(self, sdk, case, why):
        self.cell(sdk, case, "cannot", why=why)

    def skipped(self, sdk, why):
        for case in self.cases:
            self.cell(sdk, case, "SKIP", why=why)
        print(f"SKIP {sdk.name}: {why}", file=sys.stderr)

    def broken(self, why):
        """Something that concerns no one cell: nothing after it can be trusted to have run."""
        with self.lock:
            self.faults.append(why)
        self.say(f"FAIL\n{indented(why)}")

    def cell(self, sdk, case, result, **details):
        with self.lock:
            self.cells[sdk.name, case.name] = {"result": result} | details

    def say(self, line):
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def end(self) -> int:
        """Prints the whole, and gives the exit code."""
        counts = {result: sum(cell["result"] == result for cell in self.cells.values()) for result in ("ok", "FAIL", "SKIP")}
        counts["FAIL"] += len(self.faults)
        if self.as_json:
            cells = [{"sdk": sdk, "case": case} | cell for (sdk, case), cell in self.cells.items()]
            print(json.dumps({"counts": counts, "faults": self.faults, "cells": cells}, indent=2))
        else:
            self.table()
        self.say(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
        skipped_in_ci = counts["SKIP"] and os.environ.get("CI") == "true"
        return 1 if counts["FAIL"] or skipped_in_ci or not self.cells else 0

    def table(self):
        titles = [case.title for case in self.cases]
        width = max(map(len, titles))
        footnotes: list[str] = []
        print("\n" + " " * width, *(f"{name:>12}" for name in self.sdks))
        for case, title in zip(self.cases, titles):
            words = []
            for name in self.sdks:
                cell = self.cells.get((name, case.name), {"result": "not run"})
                word = cell["result"]
                if reason := cell.get("note") or (word == "cannot" and cell["why"]):
                    footnotes.append(f"({len(footnotes) + 1}) {name}, {case.name}: {reason}")
                    word += f" ({len(footnotes)})"
                words.append(f"{word:>12}")
            print(f"{title:{width}}", *words)
        print("", *(f"{name}: {sdk.title}" for name, sdk in self.sdks.items()), *footnotes, "", sep="\n")


def indented(text: str) -> str:
    return "\n".join("        " + line for line in text.splitlines())
