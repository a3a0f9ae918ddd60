INSERT INTO runs (id, kind, name, project, pipeline_id, status, reason, spec, variables, trigger, triggered_by,
  checkout, branch, commit_sha, rerun_of, cancel_reason, created_at, started_at, finished_at)
VALUES ('019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'pipeline', 'build', 'project-1', '', 'running', '', :spec, '{}',
  'manual', 'me', NULL, '', '', '', '', 1, 1, 0);

INSERT INTO jobs (id, run_id, "index", name, status, reason, round, lost, workspace, agent_id, fresh, not_before,
  deadline, kept_from, started_at, finished_at)
VALUES ('job-j', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 0, 'j', 'running', '', 1, 0, 'job-j', 'old', false, 0, 0,
  '', 1, 0);

INSERT INTO jobs (id, run_id, "index", name, status, reason, round, lost, workspace, agent_id, fresh, not_before,
  deadline, kept_from, started_at, finished_at)
VALUES ('job-k', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 1, 'k', 'pending', '', 1, 0, 'job-k', '', true, 0, 0,
  '', 0, 0);

INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,
  current, stopping, kept_from, not_before, started_at, finished_at)
VALUES ('step-a', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'job-j', 0, 'a', 'succeeded', '', '{"tag":"v1"}', 0, 0, 0,
  1, '', '', '', 0, 1, 2);

INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,
  current, stopping, kept_from, not_before, started_at, finished_at)
VALUES ('step-b', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'job-j', 1, 'b', 'queued', '', '{}', 0, 0, 0, 1,
  'attempt-b', '', '', 0, 0, 0);

INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,
  current, stopping, kept_from, not_before, started_at, finished_at)
VALUES ('step-c', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'job-j', 2, 'c', 'pending', '', '{}', 0, 0, 0, 0, '', '',
  '', 0, 0, 0);

INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,
  current, stopping, kept_from, not_before, started_at, finished_at)
VALUES ('step-d', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'job-k', 0, 'd', 'pending', '', '{}', 0, 0, 0, 0, '', '',
  '', 0, 0, 0);

INSERT INTO attempts (id, run_id, step_id, number, status, selector, agent_id, exit_code, error, reason, lines,
  percent, queued_at, started_at, finished_at)
VALUES ('attempt-a', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'step-a', 1, 'succeeded', '', 'old', 0, '', '', 0, 0, 1, 1,
  2);

INSERT INTO attempts (id, run_id, step_id, number, status, selector, agent_id, exit_code, error, reason, lines,
  percent, queued_at, started_at, finished_at)
VALUES ('attempt-b', '019a7b1e-6c0a-7c3e-9a51-0c4b8f1f2a10', 'step-b', 1, 'queued', '', '', 0, '', '', 0, 0, 2, 0, 0);
