-- Workspaces that each tenant with a quota has created.
CREATE TABLE workspaces.quota_usage (
    tenant text PRIMARY KEY,
    total  bigint NOT NULL, -- in all, those deleted since included
    day    date NOT NULL,   -- in UTC
    today  bigint NOT NULL  -- on that day
);
