"""Settings that admins change while the server runs (`/api/v1/settings`); kept in the database."""
