-- The host's own tables.

-- Claims: which request an idempotency key was used for, and what it created. Without references to
-- accounts: an answer is given again as it was, whatever has become of the workspace.
CREATE TABLE idempotency_keys (
    caller_id    BLOB NOT NULL CHECK (length(caller_id) = 16),
    route        TEXT NOT NULL,
    key          TEXT NOT NULL,
    fingerprint  BLOB NOT NULL CHECK (length(fingerprint) = 32),
    workspace_id BLOB NOT NULL CHECK (length(workspace_id) = 16),
    name         TEXT NOT NULL,
    account_id   BLOB NOT NULL CHECK (length(account_id) = 16),
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (caller_id, route, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- Which pepper each key was hashed with, so that another one is noticed.
CREATE TABLE key_peppers (
    key_id BLOB PRIMARY KEY NOT NULL REFERENCES account_api_keys (id) ON DELETE CASCADE,
    pepper TEXT NOT NULL
) STRICT, WITHOUT ROWID;
