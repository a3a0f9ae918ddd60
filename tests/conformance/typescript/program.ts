// A client as another team would write it, with types that are generated from the document of the server.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type TriggerPipeline = components["schemas"]["TriggerPipeline"];
type Run = components["schemas"]["Run"];

const [baseUrl, password] = [process.env.PILOT_SERVER, process.env.PASSWORD];
if (!baseUrl || !password) throw new Error("PILOT_SERVER and PASSWORD must be set");
const client = createClient<paths>({ baseUrl });

function required<T>(data: T | undefined, error: unknown): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const login = await client.POST("/api/v1/auth/login", { body: { username: "admin", password } });
const token: string = required(login.data, login.error).token;
client.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `Bearer ${token}`);
    return request;
  },
});

const project = await client.POST("/api/v1/projects", { body: { name: "typescript" } });
const projectId: string = required(project.data, project.error).detail.projectId;

const pipeline = await client.POST("/api/v1/pipelines", { body: { name: "from-typescript", projectId } });
const pipeline_id: string = required(pipeline.data, pipeline.error).detail.pipelineId;

const step = { name: "compile", uses: "shell", args: { command: "true" } };
const saved = await client.POST("/api/v1/pipelines/{pipeline_id}/spec/save", {
  params: { path: { pipeline_id } },
  body: { spec: { jobs: [{ name: "build", steps: [step] }] } },
});
required(saved.data, saved.error);

// With its type named, the compiler also refuses keys that do not exist, which openapi-fetch does not.
const body: TriggerPipeline = { variables: { tag: "1.5" } };
const triggered = await client.POST("/api/v1/pipelines/{pipeline_id}/trigger", {
  params: { path: { pipeline_id } },
  body,
});
const run_id: string = required(triggered.data, triggered.error).detail.runId;

const listed = await client.GET("/api/v1/workflow-runs", { params: { query: { pipeline: pipeline_id, limit: 5 } } });
const { runs, pagination } = required(listed.data, listed.error);

const read = await client.GET("/api/v1/workflow-runs/{run_id}", { params: { path: { run_id } } });
const run: Run = required(read.data, read.error);

const unknown = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a";
const missing = await client.GET("/api/v1/workflow-runs/{run_id}", { params: { path: { run_id: unknown } } });
if (missing.error === undefined) throw new Error("a run that nobody started");

const result = {
  total: pagination.total,
  listed: runs.map((each) => each.id === run_id),
  jobs: run.jobs.map((job) => [job.name, job.steps.map((each) => each.name)]),
  variables: run.variables,
  error: [missing.response.status, missing.error.code],
};
console.log(JSON.stringify(result));
