"""The results: a line as each case ends, then the table, the reasons, and one line of counts.

Owns all that the suite prints, and its exit code.
"""

import os


class Report:
    def __init__(self):
        self.rows: list[tuple[str, str, float, str]] = []

    def add(self, name, result, seconds, what):
        self.rows.append((name, result, seconds, what))
        if result == "SKIP":
            print(f"SKIP {name}: {what}", flush=True)
        else:
            print(f"{result:4} {name} ({seconds:.1f} s)\n{indented(what)}", flush=True)

    def end(self) -> int:
        counts = {result: sum(row[1] == result for row in self.rows) for result in ("ok", "FAIL", "SKIP")}
        width = max((len(row[0]) for row in self.rows), default=0)
        print()
        for name, result, seconds, what in self.rows:
            print(f"{name:{width}}  {result:4}  {seconds:6.1f} s  {(what.splitlines() or [''])[0]}")
        print(f"\n{counts['ok']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped", flush=True)
        skipped_in_ci = counts["SKIP"] and os.environ.get("CI") == "true"
        return 1 if counts["FAIL"] or skipped_in_ci or not self.rows else 0


def indented(text: str) -> str:
    return "\n".join("     " + line for line in text.splitlines())
