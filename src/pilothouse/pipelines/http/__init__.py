"""Routes of pipelines, by noun."""

from fastapi import APIRouter

from pilothouse.pipelines.http import definitions, runs, specs

router = APIRouter()
for part in (specs, definitions, runs):  # "/pipelines/spec/validate" must not match the pipeline "spec"
    router.include_router(part.router)
