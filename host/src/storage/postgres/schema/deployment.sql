-- The deployment's tables, made where they are missing, in the shape that they have there; the line before
-- each names it. What comes before the first is run where any is missing.
--
-- No constraint holds memberships or owners to one row each, and row-level security has no policies: a role
-- that neither owns the tables nor has BYPASSRLS sees no rows.
CREATE OR REPLACE FUNCTION public.workspaces_set_timestamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW."timestamp" := extract(epoch FROM now());
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION public.workspaces_set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- table accounts
CREATE TABLE public.accounts (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text,
    "timestamp" bigint DEFAULT extract(epoch FROM now()) -- seconds since the Unix epoch
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON public.accounts
    FOR EACH ROW EXECUTE FUNCTION public.workspaces_set_timestamp();

-- table account_info
CREATE TABLE public.account_info (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id   uuid DEFAULT gen_random_uuid() REFERENCES public.accounts (id) ON DELETE CASCADE,
    image        text,
    knowledges   jsonb DEFAULT '[]',
    label        text,
    instruction  text,
    organization text,
    job_title    text,
    role_type    text,
    company_name text,
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX account_info_account_id ON public.account_info (account_id);
ALTER TABLE public.account_info ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.account_info
    FOR EACH ROW EXECUTE FUNCTION public.workspaces_set_updated_at();

-- table account_workspace_ids
CREATE TABLE public.account_workspace_ids (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id   uuid REFERENCES public.accounts (id) ON DELETE CASCADE,
    workspace_id uuid REFERENCES public.accounts (id) ON DELETE CASCADE,
    updated_at   timestamptz DEFAULT now()
);
CREATE INDEX account_workspace_ids_account_id ON public.account_workspace_ids (account_id);
CREATE INDEX account_workspace_ids_workspace_id ON public.account_workspace_ids (workspace_id);
ALTER TABLE public.account_workspace_ids ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.account_workspace_ids
    FOR EACH ROW EXECUTE FUNCTION public.workspaces_set_updated_at();

-- table account_organization_ids
CREATE TABLE public.account_organization_ids (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id      uuid REFERENCES public.accounts (id) ON DELETE CASCADE,
    organization_id uuid REFERENCES public.accounts (id) ON DELETE CASCADE,
    updated_at      timestamptz DEFAULT now()
);
CREATE INDEX account_organization_ids_account_id ON public.account_organization_ids (account_id, organization_id);
CREATE INDEX account_organization_ids_organization_id ON public.account_organization_ids (organization_id);
ALTER TABLE public.account_organization_ids ENABLE ROW LEVEL SECURITY;

-- table artist_organization_ids
CREATE TABLE public.artist_organization_ids (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    artist_id       uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    created_at      timestamptz DEFAULT now(),
    updated_at      timestamptz DEFAULT now(),
    UNIQUE (artist_id, organization_id)
);
CREATE INDEX artist_organization_ids_organization_id ON public.artist_organization_ids (organization_id);
ALTER TABLE public.artist_organization_ids ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.artist_organization_ids
    FOR EACH ROW EXECUTE FUNCTION public.workspaces_set_updated_at();

-- table account_api_keys
CREATE TABLE public.account_api_keys (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    account    uuid REFERENCES public.accounts (id) ON UPDATE CASCADE ON DELETE CASCADE,
    key_hash   text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used  timestamp,
    expires_at timestamptz
);
CREATE INDEX account_api_keys_account ON public.account_api_keys (account);
CREATE INDEX account_api_keys_key_hash ON public.account_api_keys (key_hash);
ALTER TABLE public.account_api_keys ENABLE ROW LEVEL SECURITY;
