-- Creates a workspace: all of its rows, or none, in one statement.
--
-- $1 id  $2 name  $3 account  $4 organization  $5 caller  $6 API key, null for another credential
-- $7 administrators  $8 check memberships again  $9 route  $10 key, null without a claim  $11 fingerprint
WITH state AS MATERIALIZED (
    SELECT current_setting('synchronous_commit') <> 'off' AS durable,
        EXISTS (SELECT FROM workspaces.idempotency_keys WHERE caller_id = $5 AND route = $9 AND key = $10) AS earlier,
        $6 IS NULL OR EXISTS (
            SELECT FROM public.account_api_keys
            WHERE id = $6 AND account = $5 AND (expires_at IS NULL OR expires_at > now())
        ) AS credential,
        -- The rules of auth/access.rs, on the rows as they are now.
        NOT $8 OR (
            EXISTS (SELECT FROM public.accounts WHERE id = $3)
            AND (
                $3 = $5
                OR EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $5 AND organization_id = $7)
                OR EXISTS (
                    SELECT FROM public.account_organization_ids mine
                    JOIN public.account_organization_ids theirs USING (organization_id)
                    WHERE mine.account_id = $5 AND theirs.account_id = $3
                )
            )
            AND (
                $4 IS NULL OR $4 = $3
                OR EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $3 AND organization_id = $4)
            )
        ) AS allowed
),
-- Waits for a transaction that claims the same key now, and then returns its row, which this
-- statement could not see otherwise.
claimed AS (
    INSERT INTO workspaces.idempotency_keys AS known
        (caller_id, route, key, fingerprint, workspace_id, name, account_id, created_at)
    SELECT $5, $9, $10, $11, $1, $2, $3, floor(extract(epoch FROM now()) * 1000)::bigint
    FROM state WHERE $10 IS NOT NULL AND durable AND NOT earlier AND credential AND allowed
    ON CONFLICT (caller_id, route, key) DO UPDATE SET route = known.route
    RETURNING fingerprint, workspace_id, name, account_id
),
going AS MATERIALIZED (
    SELECT FROM state WHERE durable AND credential AND allowed
        AND ($10 IS NULL OR EXISTS (SELECT FROM claimed WHERE workspace_id = $1))
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
SELECT durable, earlier, credential, allowed, claimed.*, CASE
        WHEN NOT EXISTS (SELECT FROM going) THEN false
        WHEN EXISTS (SELECT FROM account WHERE id = $1)
            AND EXISTS (SELECT FROM info WHERE info.account_id = $1)
            AND EXISTS (SELECT FROM owner WHERE owner.account_id = $3 AND owner.workspace_id = $1)
            AND ($4 IS NULL OR EXISTS (SELECT FROM link WHERE artist_id = $1 AND organization_id = $4)) THEN true
        ELSE ('a trigger dropped or changed a row of the workspace; durable ' || durable)::boolean
    END AS created
FROM state LEFT JOIN claimed ON true
