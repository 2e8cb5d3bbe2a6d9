// Auth and storage of one's own: a caller, the organizations of its account, and a list of workspaces in memory.

export function memory({ caller, organizations, newId }) {
  const stored = [];
  return {
    stored,
    authorize(account = caller, organization) {
      if (account !== caller) throw 'account-forbidden';
      if (organization !== undefined && !organizations.includes(organization)) throw 'organization-forbidden';
      return account;
    },
    create(grant, name) {
      const id = newId();
      stored.push({ id, name, account_id: grant.account, organization_id: grant.organization });
      return id;
    },
  };
}
