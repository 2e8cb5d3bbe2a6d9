"""Prints a line for each case of `workspaces verify --list --json`: its id, the calls of imports, and the answer.

    python conformance.py component.wasm cases.json
"""

import json
import sys
from uuid import UUID

from workspaces import Refused, Workspaces

CALLER = UUID("01900000-0000-7000-8000-00000000ca11")
CREATED = UUID("01900000-0000-7000-8000-00000000ab1e")


class Script:
    """Imports that answer as a case says, and else as a host does on which everything goes well."""

    def begin(self, replies: list) -> None:
        self.replies, self.calls = list(replies), []

    def reply(self, *kinds: str) -> dict:
        for reply in self.replies:
            if any(kind in reply for kind in kinds):
                self.replies.remove(reply)
                return reply
        return {}

    def authorize(self, account, organization):
        reply = self.reply("grant", "denied")
        if "denied" in reply:
            raise Refused(reply["denied"])
        return UUID(reply["grant"]["account_id"]) if "grant" in reply else account or CALLER

    def create(self, account, organization, name):
        reply = self.reply("created", "failed")
        if "failed" in reply:
            raise Refused(reply["failed"])
        return UUID(reply["created"]) if "created" in reply else CREATED


def main(component: str, cases: str) -> None:
    script = Script()
    with open(component, "rb") as file:
        called = lambda call: script.calls.append(call)
        workspaces = Workspaces(file.read(), script.authorize, script.create, called)
    with open(cases, encoding="utf-8") as file:
        for case in json.load(file):
            script.begin(case.get("replies", []))
            answer = workspaces.create_workspace(case.get("request", {}))
            line = {"id": case["id"], "calls": script.calls, "answer": answer}
            print(json.dumps(line, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main(*sys.argv[1:])
