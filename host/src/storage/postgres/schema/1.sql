-- The host's own tables, in a schema of their own, without references to the deployment's tables,
-- which are not to notice them.
CREATE SCHEMA IF NOT EXISTS workspaces;

CREATE TABLE workspaces.schema_version (version integer NOT NULL);
INSERT INTO workspaces.schema_version VALUES (0);

-- Claims: which request an idempotency key was used for, and what it created.
CREATE TABLE workspaces.idempotency_keys (
    caller_id    uuid NOT NULL,
    route        text NOT NULL,
    key          text NOT NULL,
    fingerprint  bytea NOT NULL CHECK (length(fingerprint) = 32),
    workspace_id uuid NOT NULL,
    name         text NOT NULL,
    account_id   uuid NOT NULL,
    created_at   bigint NOT NULL, -- milliseconds since the Unix epoch
    PRIMARY KEY (caller_id, route, key)
);
CREATE INDEX idempotency_keys_created_at ON workspaces.idempotency_keys (created_at);

-- Which pepper each key was hashed with, so that another one is noticed.
CREATE TABLE workspaces.key_peppers (
    key_id uuid PRIMARY KEY,
    pepper text NOT NULL
);
