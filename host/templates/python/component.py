"""A component of the world `plugin`: the rules of a request are its own."""

import re
import unicodedata
from typing import Callable, NoReturn, Optional, TypeVar
from uuid import UUID

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.workspaces import (
    CreateWorkspaceError_Forbidden as Forbidden,
    CreateWorkspaceError_InvalidRequest as InvalidRequest,
    CreateWorkspaceError_Unauthenticated as Unauthenticated,
    CreateWorkspaceError_Unavailable as Unavailable,
    CreateWorkspaceError_Unknown as Unknown,
    CreateWorkspaceRequest,
    CreateWorkspaceResponse,
    Workspace,
)
from wit_world.imports import auth, storage, types

UNTITLED = "Untitled"
MAX_CHARACTERS = 255
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Unicode's White_Space, which is not what `str.strip` takes.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

DENIED = {
    auth.Denial.UNAUTHENTICATED: Unauthenticated("Send a valid credential"),
    auth.Denial.ACCOUNT_FORBIDDEN: Forbidden(
        "You have no access to this account_id: leave it out to use your own account"
    ),
    auth.Denial.ORGANIZATION_FORBIDDEN: Forbidden(
        "The account has no access to this organization_id: use one that it belongs to, or leave it out"
    ),
    auth.Denial.UNAVAILABLE: Unavailable("Access could not be checked: try again later"),
}
FAILED = {
    storage.Error.GRANT_USED: Unavailable("The workspace was not created: try again later"),
    storage.Error.ACCESS_LOST: Forbidden("Your access was withdrawn during the request"),
    storage.Error.INVALID_NAME: InvalidRequest("name can't be stored: send another"),
    storage.Error.UNAVAILABLE: Unavailable("The workspace was not created: try again later"),
    storage.Error.UNKNOWN: Unknown("It is not known whether the workspace was created"),
}


class Workspaces(exports.Workspaces):
    def create_workspace(self, request: CreateWorkspaceRequest) -> CreateWorkspaceResponse:
        name = name_of(request.name or "")
        account = parse("account_id", request.account_id)
        organization = parse("organization_id", request.organization_id)
        try:
            grant = auth.authorize(account, organization)
        except Err as error:
            raise Err(DENIED[error.value])
        with grant:
            try:
                created = storage.create_workspace(grant, name)
            except Err as error:
                raise Err(FAILED[error.value])
            owner = grant.account_id()
        return CreateWorkspaceResponse(Workspace(text(created), name, text(owner), True))


def name_of(sent: str) -> str:
    """Returns the name to store."""
    if len(sent) > MAX_CHARACTERS:
        raise Err(InvalidRequest("name is too long: send at most 255 characters"))
    name = sent.strip(WHITE_SPACE)
    if FORBIDDEN.search(name):
        raise Err(InvalidRequest("name holds a control character or a text-direction override: send it without"))
    return name or UNTITLED


def parse(field: str, sent: Optional[str]) -> Optional[types.Uuid]:
    """Parses an id of the request, a UUID in the hyphenated form."""
    if sent is None:
        return None
    if not UUID_FORM.fullmatch(sent):
        example = "123e4567-e89b-42d3-a456-426614174000"
        raise Err(InvalidRequest(f"{field} is not a UUID: send one like {example}, or leave it out"))
    value = UUID(sent).int
    return types.Uuid(value >> 64, value & (1 << 64) - 1)


def text(uuid: types.Uuid) -> str:
    """Returns the text of an id."""
    return str(UUID(int=uuid.high << 64 | uuid.low))
