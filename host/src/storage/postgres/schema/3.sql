-- Accounts of the subjects of identity providers, by the `iss` and `sub` of their tokens.
CREATE TABLE workspaces.token_subjects (
    issuer     text NOT NULL,
    subject    text NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
