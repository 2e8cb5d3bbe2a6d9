// The same operation in Node, with the libraries that most would take: what benchmarks compare the host with.
// It uses a database that the program `workspaces` has made, checks the same API keys and writes the same rows.
import { createHmac, randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import Fastify from "fastify";
import { z } from "zod";

const { DATABASE, IN_MEMORY, PEPPER } = process.env;

// A UUIDv7 (RFC 9562, section 5.7).
function uuid() {
  const id = randomFillSync(Buffer.alloc(16));
  id.writeUIntBE(Date.now(), 0, 6);
  id[6] = 0x70 | (id[6] & 0x0f);
  id[8] = 0x80 | (id[8] & 0x3f);
  return id;
}

function text(id) {
  const hex = id.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

async function sqlite(file) {
  const { default: Database } = await import("better-sqlite3");
  let database;
  if (IN_MEMORY) {
    const image = readFileSync(file);
    // A database in memory has no write-ahead log (https://sqlite.org/fileformat.html, section 1.3.3).
    image[18] = image[19] = 1;
    database = new Database(image);
  } else {
    database = new Database(file);
    database.pragma("journal_mode = WAL");
    database.pragma("synchronous = FULL");
  }
  const find = database.prepare("SELECT account, expires_at FROM account_api_keys WHERE key_hash = ?");
  const inserts = [
    database.prepare("INSERT INTO accounts (id, name, timestamp) VALUES (?, ?, ?)"),
    database.prepare("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?, ?, ?, ?)"),
    database.prepare("INSERT INTO account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES (?, ?, ?, ?)"),
  ];
  const create = database.transaction((id, name, account) => {
    const now = Date.now();
    inserts[0].run(id, name, now);
    inserts[1].run(uuid(), id, now, now);
    inserts[2].run(uuid(), account, id, now);
  });
  return {
    async holder(hash) {
      const key = find.get(hash);
      return key && (key.expires_at === null || key.expires_at > Date.now()) ? key.account : undefined;
    },
    async create(id, name, account) {
      create(id, name, account);
    },
  };
}

async function postgres(connectionString) {
  const { default: pg } = await import("pg");
  const pool = new pg.Pool({ connectionString, max: 8 });
  return {
    async holder(hash) {
      const { rows } = await pool.query({
        name: "find",
        text: "SELECT account FROM account_api_keys WHERE key_hash = $1 AND (expires_at IS NULL OR expires_at > now())",
        values: [hash],
      });
      return rows.length ? Buffer.from(rows[0].account.replaceAll("-", ""), "hex") : undefined;
    },
    async create(id, name, account) {
      await pool.query({
        name: "create",
        text: `WITH account AS (INSERT INTO accounts (id, name) VALUES ($1, $2)),
          info AS (INSERT INTO account_info (id, account_id) VALUES ($3, $1))
          INSERT INTO account_workspace_ids (id, account_id, workspace_id) VALUES ($4, $5, $1)`,
        values: [text(id), name, text(uuid()), text(uuid()), text(account)],
      });
    },
  };
}

const storage = await (DATABASE.startsWith("postgres") ? postgres : sqlite)(DATABASE);
const Body = z.object({
  name: z.string().max(255).nullish(),
  account_id: z.uuid().nullish(),
  organization_id: z.uuid().nullish(),
});

// A line in the log for each request, as the host has.
const server = Fastify({ logger: { level: "info", stream: process.stderr } });
server.post("/api/workspaces", async (request, reply) => {
  const hash = createHmac("sha256", PEPPER).update(request.headers["x-api-key"] ?? "").digest("hex");
  const account = await storage.holder(hash);
  if (!account) return reply.code(401).send({ error: 401, message: "The credential is not valid" });
  const body = Body.safeParse(request.body);
  if (!body.success) return reply.code(400).send({ error: 400, message: body.error.message });
  const id = uuid();
  const name = body.data.name?.trim() || "Untitled";
  await storage.create(id, name, account);
  const workspace = { id: text(id), name, account_id: text(account), isWorkspace: true };
  return reply.code(201).send({ workspace });
});
await server.listen({ host: "127.0.0.1", port: 0 });
console.log(`listening on http://127.0.0.1:${server.server.address().port}`);
