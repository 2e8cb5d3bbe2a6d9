-- Creates a workspace: all of its rows, or none, in one statement.
--
-- The rows about the workspace take its id for their own: it is as unique, and ordered by time, so
-- that the indexes grow at their ends.
--
-- $1 id  $2 name  $3 account  $4 organization  $5 caller  $6 administrators  $7 ask memberships again
-- $8 time  $9 route  $10 key, null without a claim  $11 fingerprint
WITH earlier AS (
    SELECT FROM workspaces.idempotency_keys WHERE caller_id = $5 AND route = $9 AND key = $10
),
-- The rules of auth/access.rs, on the rows as they are now.
allowed AS MATERIALIZED (
    SELECT WHERE NOT $7 OR (
        EXISTS (SELECT FROM public.accounts WHERE id = $3)
        AND (
            $3 = $5
            OR EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $5 AND organization_id = $6)
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
    )
),
-- Waits for a transaction that claims the same key now, and then returns its row, which this
-- statement could not see otherwise.
claimed AS (
    INSERT INTO workspaces.idempotency_keys AS known
        (caller_id, route, key, fingerprint, workspace_id, name, account_id, created_at)
    SELECT $5, $9, $10, $11, $1, $2, $3, $8 FROM allowed WHERE $10 IS NOT NULL AND NOT EXISTS (SELECT FROM earlier)
    ON CONFLICT (caller_id, route, key) DO UPDATE SET route = known.route
    RETURNING fingerprint, workspace_id, name, account_id
),
going AS MATERIALIZED (
    SELECT FROM allowed WHERE $10 IS NULL OR EXISTS (SELECT FROM claimed WHERE workspace_id = $1)
),
account AS (
    INSERT INTO public.accounts (id, name, "timestamp") SELECT $1, $2, $8 FROM going
),
info AS (
    INSERT INTO public.account_info (id, account_id, created_at, updated_at) SELECT $1, $1, now(), now() FROM going
),
owner AS (
    INSERT INTO public.account_workspace_ids (id, account_id, workspace_id, updated_at)
    SELECT $1, $3, $1, now() FROM going
),
link AS (
    INSERT INTO public.artist_organization_ids (id, artist_id, organization_id, created_at, updated_at)
    SELECT $1, $1, $4, now(), now() FROM going WHERE $4 IS NOT NULL
)
SELECT EXISTS (SELECT FROM earlier) AS earlier, EXISTS (SELECT FROM allowed) AS allowed, claimed.*
FROM (VALUES (true)) AS one LEFT JOIN claimed ON true
