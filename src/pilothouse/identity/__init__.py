"""Users, passwords, tokens, projects and the audit trail."""
