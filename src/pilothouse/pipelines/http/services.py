"""The services of pipelines, as parameters of routes."""

from __future__ import annotations

from typing import Annotated

from pilothouse.edge.services import provided
from pilothouse.pipelines.compiler import SpecCompiler
from pilothouse.pipelines.git.definitions import GitDefinitions
from pilothouse.pipelines.service import Pipelines
from pilothouse.pipelines.specs import Specs

PipelineService = Annotated[Pipelines, provided(Pipelines)]
Compiler = Annotated[SpecCompiler, provided(SpecCompiler)]
SpecService = Annotated[Specs, provided(Specs)]
GitService = Annotated[GitDefinitions, provided(GitDefinitions)]
