"""A bounded pool of child processes for work that a caller's input makes expensive (design.md, invariant 10).

``pool.Pool`` runs jobs, ``errors`` lists their failures, ``limits.Limits`` what each may use. This module
imports nothing, since every child process imports it.
"""
