// Creates a workspace: node node.js '{"name": "Studio"}'
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';

import { memory } from './memory.js';
import { workspaces } from './workspaces.js';

export const modules = async (path) =>
  WebAssembly.compile(await readFile(new URL(`./generated/${path}`, import.meta.url)));

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const own = memory({ caller: randomUUID(), organizations: [], newId: randomUUID });
  const { name, account_id: accountId, organization_id: organizationId } = JSON.parse(process.argv[2] ?? '{}');
  const { workspace, error } = await workspaces({ modules, ...own })({ name, accountId, organizationId });
  console.log(JSON.stringify(workspace ?? error));
  process.exitCode = workspace ? 0 : 1;
}
