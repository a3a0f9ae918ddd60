"""Principals, roles, actions and refusals. Pure; imports nothing of ours."""
