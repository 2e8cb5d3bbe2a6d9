// A component of the world `plugin`: the rules of a request are its own.
import { authorize } from 'recoup:workspaces/auth@1.0.0';
import { createWorkspace as store } from 'recoup:workspaces/storage@1.0.0';

const UNTITLED = 'Untitled';
const MAX_CHARACTERS = 255;

// Unicode's White_Space, which is not what `trim` takes.
const SPACE = '[\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+';
const OUTER_SPACE = new RegExp(`^${SPACE}|${SPACE}$`, 'g');
// Control characters, and what changes the direction of text.
const FORBIDDEN = /[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;

export const workspaces = {
  createWorkspace({ name, accountId, organizationId }) {
    const stored = nameOf(name ?? '');
    const account = parse('account_id', accountId);
    const organization = parse('organization_id', organizationId);
    const grant = attempt(() => authorize(account, organization), denied);
    const id = attempt(() => store(grant, stored), failed);
    return { workspace: { id: text(id), name: stored, accountId: text(grant.accountId()), isWorkspace: true } };
  },
};

function refuse(tag, val) {
  throw { tag, val };
}

function nameOf(sent) {
  if ([...sent].length > MAX_CHARACTERS) refuse('invalid-request', 'name is too long: send at most 255 characters');
  const name = sent.replace(OUTER_SPACE, '');
  if (FORBIDDEN.test(name)) {
    refuse('invalid-request', 'name holds a control character or a text-direction override: send it without');
  }
  return name || UNTITLED;
}

function parse(field, sent) {
  if (sent == null) return undefined;
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(sent)) {
    refuse('invalid-request', `${field} is not a UUID: send one like 123e4567-e89b-42d3-a456-426614174000, or leave it out`);
  }
  const digits = sent.replaceAll('-', '');
  return { high: BigInt(`0x${digits.slice(0, 16)}`), low: BigInt(`0x${digits.slice(16)}`) };
}

function text({ high, low }) {
  const digits = high.toString(16).padStart(16, '0') + low.toString(16).padStart(16, '0');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function attempt(call, answer) {
  try {
    return call();
  } catch (error) {
    throw error.payload === undefined ? error : answer(error.payload);
  }
}

function denied(denial) {
  switch (denial) {
    case 'unauthenticated': return { tag: 'unauthenticated', val: 'Send a valid credential' };
    case 'account-forbidden': return { tag: 'forbidden', val: 'You have no access to this account_id: leave it out to use your own account' };
    case 'organization-forbidden': return { tag: 'forbidden', val: 'The account has no access to this organization_id: use one that it belongs to, or leave it out' };
    default: return { tag: 'unavailable', val: 'Access could not be checked: try again later' };
  }
}

function failed(error) {
  switch (error) {
    case 'access-lost': return { tag: 'forbidden', val: 'Your access was withdrawn during the request' };
    case 'invalid-name': return { tag: 'invalid-request', val: "name can't be stored: send another" };
    case 'unknown': return { tag: 'unknown', val: 'It is not known whether the workspace was created' };
    default: return { tag: 'unavailable', val: 'The workspace was not created: try again later' };
  }
}
