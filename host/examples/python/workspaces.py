"""A host of the component for Python.

    pip install --requirement requirements.txt
    python workspaces.py component.wasm '{"name": "Studio"}'
"""

import json
import sys
from typing import Callable, Optional
from uuid import UUID, uuid4

from wasmtime import Config, Engine, Store, component as wasm

GRANT = 1
"""Number of the resource type `grant`."""

FUEL = 10_000_000
"""Instructions of one request, a thousand times what the default component takes."""


class Refused(Exception):
    """A denial of auth or an error of storage: a case of the contract, in text."""


class Workspaces:
    """Creates workspaces by a component. Each request gets an instance of its own.

    `authorize(account, organization)` returns the account that the caller may create for; `create(account, organization,
    name)` returns the id of what it has stored. Both raise `Refused`. `called` gets each call of an import.
    """

    def __init__(
        self,
        wasm_bytes: bytes,
        authorize: Callable[[Optional[UUID], Optional[UUID]], UUID],
        create: Callable[[UUID, Optional[UUID], str], UUID],
        called: Callable[[object], None] = lambda call: None,
    ):
        config = Config()
        config.consume_fuel = True
        self.engine = Engine(config)
        self.component = wasm.Component(self.engine, wasm_bytes)
        self.authorize, self.create, self.called = authorize, create, called

    def create_workspace(self, request: dict) -> dict:
        """Returns `{"created": …}`, or `{"refused": …}` with what the component says to the client.

        Of what it raises, the client is told nothing: a trap, or more instructions than `FUEL`.
        """
        store = Store(self.engine)
        store.set_fuel(FUEL)
        store.set_limits(memory_size=16 << 20)
        instance = self._linker(store).instantiate(store, self.component)
        interface = instance.get_export_index(store, "recoup:workspaces/workspaces@1.0.0")
        index = instance.get_export_index(store, "create-workspace", interface)
        fields = {name: request.get(name.replace("-", "_")) for name in ("name", "account-id", "organization-id")}
        function = instance.get_func(store, index)
        answer = function(store, record(fields))
        function.post_return(store)
        if isinstance(answer, wasm.Variant):
            return {"refused": {"case": answer.tag, "message": answer.payload}}
        workspace = vars(answer.workspace)
        return {"created": {name.replace("-", "_"): workspace[name] for name in ("id", "name", "account-id", "is-workspace")}}

    def _linker(self, store: Store) -> wasm.Linker:
        grants: list[tuple[UUID, Optional[UUID]]] = []
        used = set()

        def authorize(context, account, organization):
            asked = [uuid and UUID(int=uuid.high << 64 | uuid.low) for uuid in (account, organization)]
            names = zip(("account_id", "organization_id"), asked)
            self.called({"authorize": {name: str(uuid) for name, uuid in names if uuid is not None}})
            try:
                grants.append((self.authorize(*asked), asked[1]))
            except Refused as denial:
                return str(denial)
            return wasm.ResourceHost.own(len(grants) - 1, GRANT).to_any(context)

        def rep(context, grant) -> int:
            with grant:
                return grant.to_host(context).rep

        def account_id(context, grant):
            number = rep(context, grant)
            self.called("account-id")
            return numbers(grants[number][0])

        def organization_id(context, grant):
            number = rep(context, grant)
            self.called("organization-id")
            organization = grants[number][1]
            return organization and numbers(organization)

        def create(context, grant, name):
            number = rep(context, grant)
            self.called({"create-workspace": {"name": name}})
            if number in used:
                return "grant-used"
            # It is good for one call.
            used.add(number)
            try:
                return numbers(self.create(*grants[number], name))
            except Refused as error:
                return str(error)

        linker = wasm.Linker(self.engine)
        with linker.root() as root:
            with root.add_instance("recoup:workspaces/types@1.0.0"):
                pass
            with root.add_instance("recoup:workspaces/auth@1.0.0") as auth:
                auth.add_resource("grant", wasm.ResourceType.host(GRANT), lambda context, rep: self.called("drop-grant"))
                auth.add_func("authorize", authorize)
                auth.add_func("[method]grant.account-id", account_id)
                auth.add_func("[method]grant.organization-id", organization_id)
            with root.add_instance("recoup:workspaces/storage@1.0.0") as storage:
                storage.add_func("create-workspace", create)
        return linker


def record(fields: dict) -> wasm.Record:
    """Returns a record of the contract."""
    made = wasm.Record()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def numbers(uuid: UUID) -> wasm.Record:
    """Returns the two numbers of a UUID."""
    return record({"high": uuid.int >> 64, "low": uuid.int & (1 << 64) - 1})


def main(path: str, request: str = "{}") -> int:
    """Creates a workspace, with auth and storage of its own in memory."""
    caller, stored = uuid4(), []

    def authorize(account: Optional[UUID], organization: Optional[UUID]) -> UUID:
        if account not in (None, caller):
            raise Refused("account-forbidden")
        if organization is not None:
            raise Refused("organization-forbidden")
        return caller

    def create(account: UUID, organization: Optional[UUID], name: str) -> UUID:
        stored.append((uuid4(), account, organization, name))
        return stored[-1][0]

    with open(path, "rb") as file:
        answer = Workspaces(file.read(), authorize, create).create_workspace(json.loads(request))
    print(json.dumps(answer, ensure_ascii=False))
    return 0 if "created" in answer else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
