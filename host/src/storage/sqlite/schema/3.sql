-- Workspaces that tenants with a quota have created: in all, and on the last day, which is counted from the Unix epoch
-- in UTC.
CREATE TABLE tenant_usage (
    tenant TEXT PRIMARY KEY NOT NULL,
    total  INTEGER NOT NULL,
    day    INTEGER NOT NULL,
    today  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
