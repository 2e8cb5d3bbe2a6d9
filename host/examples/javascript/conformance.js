// The cases of `workspaces verify --list --json`, with imports that answer as each case says.
import { workspaces } from './workspaces.js';

const CALLER = '01900000-0000-7000-8000-00000000ca11';
const CREATED = '01900000-0000-7000-8000-00000000ab1e';

/** Returns a line for each case: its id, the calls of imports, and the answer. */
export async function conformance(cases, modules) {
  const lines = [];
  for (const { id, request = {}, replies = [] } of cases) {
    const [calls, left] = [[], [...replies]];
    // The first reply of these kinds, or else what a host does on which everything goes well.
    const reply = (kinds, otherwise) => {
      const at = left.findIndex((reply) => kinds.some((kind) => kind in reply));
      return at < 0 ? otherwise : left.splice(at, 1)[0];
    };
    const create = workspaces({
      modules,
      called: (call) => calls.push(call),
      authorize(account = CALLER) {
        const { grant, denied } = reply(['grant', 'denied'], { grant: { account_id: account } });
        if (denied) throw denied;
        return grant.account_id;
      },
      create() {
        const { created, failed } = reply(['created', 'failed'], { created: CREATED });
        if (failed) throw failed;
        return created;
      },
    });
    const { name, account_id: accountId, organization_id: organizationId } = request;
    const { workspace, error } = await create({ name, accountId, organizationId });
    lines.push(JSON.stringify({ id, calls, answer: workspace ? created(workspace) : refused(error) }));
  }
  return lines;
}

const created = ({ id, name, accountId, isWorkspace }) =>
  ({ created: { id, name, account_id: accountId, is_workspace: isWorkspace } });
const refused = ({ tag, val }) => ({ refused: { case: tag, message: val } });
