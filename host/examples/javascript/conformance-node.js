// Prints the lines of the cases in a file: node conformance-node.js cases.json
import { readFile } from 'node:fs/promises';

import { conformance } from './conformance.js';
import { modules } from './node.js';

const lines = await conformance(JSON.parse(await readFile(process.argv[2], 'utf8')), modules);
console.log(lines.join('\n'));
