-- The deployment's tables, made where there are none; the line before each names it.

-- table accounts
CREATE TABLE public.accounts (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text,
    "timestamp" bigint
);

-- table account_info
CREATE TABLE public.account_info (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id   uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    image        text,
    instruction  text,
    knowledges   jsonb DEFAULT '[]',
    label        text,
    organization text,
    company_name text,
    job_title    text,
    role_type    text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX account_info_account_id ON public.account_info (account_id);

-- table account_workspace_ids
CREATE TABLE public.account_workspace_ids (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id   uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, workspace_id)
);
CREATE INDEX account_workspace_ids_workspace_id ON public.account_workspace_ids (workspace_id);

-- table account_organization_ids
CREATE TABLE public.account_organization_ids (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id      uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account_id, organization_id)
);
CREATE INDEX account_organization_ids_organization_id ON public.account_organization_ids (organization_id);

-- table artist_organization_ids
CREATE TABLE public.artist_organization_ids (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    artist_id       uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (artist_id, organization_id)
);
CREATE INDEX artist_organization_ids_organization_id ON public.artist_organization_ids (organization_id);

-- table account_api_keys
CREATE TABLE public.account_api_keys (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    account    uuid NOT NULL REFERENCES public.accounts (id) ON DELETE CASCADE,
    key_hash   text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used  timestamp,
    expires_at timestamptz
);
CREATE INDEX account_api_keys_account ON public.account_api_keys (account);
