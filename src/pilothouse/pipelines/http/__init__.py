"""Routes of pipelines, by noun."""

from pilothouse.pipelines.http import definitions, runs, specs

# In this order: "/pipelines/spec/validate" must not match the pipeline "spec".
ROUTERS = (specs.router, definitions.router, runs.router)

__all__ = ["ROUTERS"]
