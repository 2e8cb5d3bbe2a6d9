-- Accounts of the subjects of identity providers, by the `iss` and `sub` of their tokens.
CREATE TABLE token_subjects (
    issuer     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    account_id BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX token_subjects_account_id ON token_subjects (account_id);
