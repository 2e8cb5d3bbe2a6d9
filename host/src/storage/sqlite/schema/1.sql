-- The deployment's tables, as SQLite has them: ids are 16-byte blobs, times are milliseconds since
-- the Unix epoch. `hex(id)` shows an id.

CREATE TABLE accounts (
    id        BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    name      TEXT,
    timestamp INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE account_info (
    id           BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    account_id   BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    image        TEXT,
    instruction  TEXT,
    knowledges   TEXT NOT NULL DEFAULT '[]',
    label        TEXT,
    organization TEXT,
    company_name TEXT,
    job_title    TEXT,
    role_type    TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX account_info_account_id ON account_info (account_id);

-- The owner's link: its row is what makes an account a workspace.
CREATE TABLE account_workspace_ids (
    id           BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    account_id   BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    workspace_id BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    updated_at   INTEGER NOT NULL,
    UNIQUE (account_id, workspace_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_workspace_ids_workspace_id ON account_workspace_ids (workspace_id);

-- Membership of an organization.
CREATE TABLE account_organization_ids (
    id              BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    account_id      BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    organization_id BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    updated_at      INTEGER NOT NULL,
    UNIQUE (account_id, organization_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_organization_ids_organization_id ON account_organization_ids (organization_id);

-- Which organizations show an artist or, here, a workspace.
CREATE TABLE artist_organization_ids (
    id              BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    artist_id       BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    organization_id BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (artist_id, organization_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX artist_organization_ids_organization_id ON artist_organization_ids (organization_id);

CREATE TABLE account_api_keys (
    id         BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    account    BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key_hash   TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    last_used  INTEGER,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX account_api_keys_account ON account_api_keys (account);
