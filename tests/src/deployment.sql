-- The deployment's database as its migrations leave it, and the role that the service uses there: it bypasses
-- row-level security and owns no table. Written from the catalog, not from the host's own `deployment.sql`.

CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW."timestamp" = extract(epoch FROM now());
    RETURN NEW;
END $$;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;

CREATE TABLE accounts (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    name text,
    "timestamp" bigint DEFAULT extract(epoch FROM now())
);
CREATE TRIGGER stamp BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION stamp();

CREATE TABLE account_info (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid DEFAULT gen_random_uuid() REFERENCES accounts ON DELETE CASCADE,
    image text,
    knowledges jsonb DEFAULT '[]',
    label text,
    instruction text,
    organization text,
    job_title text,
    role_type text,
    company_name text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE account_info ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER touch BEFORE UPDATE ON account_info FOR EACH ROW EXECUTE FUNCTION touch();

CREATE TABLE account_workspace_ids (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid REFERENCES accounts ON DELETE CASCADE,
    workspace_id uuid REFERENCES accounts ON DELETE CASCADE,
    updated_at timestamptz DEFAULT now()
);
ALTER TABLE account_workspace_ids ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER touch BEFORE UPDATE ON account_workspace_ids FOR EACH ROW EXECUTE FUNCTION touch();

CREATE TABLE account_organization_ids (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid REFERENCES accounts ON DELETE CASCADE,
    organization_id uuid REFERENCES accounts ON DELETE CASCADE,
    updated_at timestamptz DEFAULT now()
);
ALTER TABLE account_organization_ids ENABLE ROW LEVEL SECURITY;

CREATE TABLE artist_organization_ids (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    artist_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(),
    UNIQUE (artist_id, organization_id)
);
ALTER TABLE artist_organization_ids ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER touch BEFORE UPDATE ON artist_organization_ids FOR EACH ROW EXECUTE FUNCTION touch();

CREATE TABLE account_api_keys (
    id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    name text NOT NULL,
    account uuid REFERENCES accounts ON UPDATE CASCADE ON DELETE CASCADE,
    key_hash text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used timestamp,
    expires_at timestamptz
);
ALTER TABLE account_api_keys ENABLE ROW LEVEL SECURITY;

CREATE ROLE service LOGIN BYPASSRLS;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO service;
GRANT CREATE ON DATABASE postgres TO service;
