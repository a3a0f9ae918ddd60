"""Principals, roles, actions and refusals. Pure; imports no other package of this project."""
