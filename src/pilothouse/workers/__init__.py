"""A bounded pool of child processes for work that a caller's input makes expensive (design.md, invariant 10).

``pool.Pool`` runs jobs, ``errors`` lists their failures, ``limits.Limits`` what each may use. Nothing is imported
here: every child process imports this package, and must not pay for asyncio.
"""
