-- Creates a workspace where no rule has to be asked again and no key is claimed: the rows of create.sql,
-- without its questions, which take their time also where they ask nothing.
--
-- $1 id  $2 name  $3 account  $4 organization  $5 time
WITH account AS (
    INSERT INTO public.accounts (id, name, "timestamp") VALUES ($1, $2, $5)
),
info AS (
    INSERT INTO public.account_info (id, account_id, created_at, updated_at) VALUES ($1, $1, now(), now())
),
link AS (
    INSERT INTO public.artist_organization_ids (id, artist_id, organization_id, created_at, updated_at)
    SELECT $1, $1, $4, now(), now() WHERE $4 IS NOT NULL
)
INSERT INTO public.account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES ($1, $3, $1, now())
RETURNING true AS allowed
