-- Creates a workspace where no membership has to be checked again and no key is claimed: the rows of
-- create.sql, without the questions that take time even where they ask nothing.
--
-- $1 id  $2 name  $3 account  $4 organization  $5 caller  $6 API key, null for another credential
WITH state AS MATERIALIZED (
    SELECT current_setting('synchronous_commit') <> 'off' AS durable,
        $6 IS NULL OR EXISTS (
            SELECT FROM public.account_api_keys
            WHERE id = $6 AND account = $5 AND (expires_at IS NULL OR expires_at > now())
        ) AS credential
),
going AS MATERIALIZED (
    SELECT FROM state WHERE durable AND credential
),
account AS (
    INSERT INTO public.accounts (id, name) SELECT $1, $2 FROM going RETURNING id
),
info AS (
    INSERT INTO public.account_info (account_id) SELECT $1 FROM going RETURNING account_id
),
owner AS (
    INSERT INTO public.account_workspace_ids (account_id, workspace_id) SELECT $3, $1 FROM going
    RETURNING account_id, workspace_id
),
link AS (
    INSERT INTO public.artist_organization_ids (artist_id, organization_id)
    SELECT $1, $4 FROM going WHERE $4 IS NOT NULL RETURNING artist_id, organization_id
)
-- A trigger may have dropped or changed a row: an invalid cast then rolls all of them back.
SELECT durable, credential, true AS allowed, CASE
        WHEN NOT EXISTS (SELECT FROM going) THEN false
        WHEN EXISTS (SELECT FROM account WHERE id = $1)
            AND EXISTS (SELECT FROM info WHERE account_id = $1)
            AND EXISTS (SELECT FROM owner WHERE account_id = $3 AND workspace_id = $1)
            AND ($4 IS NULL OR EXISTS (SELECT FROM link WHERE artist_id = $1 AND organization_id = $4)) THEN true
        ELSE ('a trigger dropped or changed a row of the workspace; durable ' || durable)::boolean
    END AS created
FROM state
