// A host of the component for Node.js and browsers.
import './text-decoder.js';
import { instantiate } from './generated/component.js';

/**
 * Returns a function that has the component create a workspace. Each request gets an instance of its own.
 *
 * `modules(path)` returns a core module of the component. Of the host's own auth and storage, `authorize(account,
 * organization)` returns the account that the caller may create for, and throws a denial; `create(grant, name)` returns the
 * id of what it has stored, and throws an error. Denials and errors are the cases of the contract, in text; ids are UUIDs
 * in text, and undefined where the request has none.
 *
 * The function returns `{ workspace }`, or `{ error: { tag, val } }` with what the component says to the client. Of what
 * else it throws, the client is told nothing.
 */
export function workspaces({ modules, authorize, create, called = () => {} }) {
  return async (request) => {
    const grants = new Set();

    class Grant {
      constructor(account, organization) {
        Object.assign(this, { account, organization });
        grants.add(this);
      }

      accountId() {
        called('account-id');
        return parse(this.account);
      }

      organizationId() {
        called('organization-id');
        return parse(this.organization);
      }

      [Symbol.dispose ?? Symbol.for('dispose')]() {
        called('drop-grant');
      }
    }

    const component = await instantiate(modules, {
      'recoup:workspaces/auth': {
        Grant,
        authorize(account, organization) {
          const asked = { account_id: text(account), organization_id: text(organization) };
          called({ authorize: asked });
          return new Grant(authorize(asked.account_id, asked.organization_id), asked.organization_id);
        },
      },
      'recoup:workspaces/storage': {
        createWorkspace(grant, name) {
          called({ 'create-workspace': { name } });
          // It is good for one call.
          if (!grants.delete(grant)) throw 'grant-used';
          return parse(create(grant, name));
        },
      },
    });
    try {
      return component.workspaces.createWorkspace(request);
    } catch (error) {
      if (error?.payload === undefined) throw error;
      return { error: error.payload };
    }
  };
}

/** Returns the two numbers of a UUID. */
function parse(text) {
  if (text === undefined) return undefined;
  const digits = text.replaceAll('-', '');
  return { high: BigInt(`0x${digits.slice(0, 16)}`), low: BigInt(`0x${digits.slice(16)}`) };
}

/** Returns the text of a UUID's two numbers. */
function text(uuid) {
  if (uuid === undefined) return undefined;
  const digits = [uuid.high, uuid.low].map((half) => half.toString(16).padStart(16, '0')).join('');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
