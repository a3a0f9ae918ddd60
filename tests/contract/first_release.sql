INSERT INTO journal_head (id, epoch, next) VALUES (1, '0a1b2c3d', 3);

INSERT INTO entries VALUES (1, 'run/one', '', 'run.created', 5, 'project/p', :data);

INSERT INTO entries VALUES (2, 'run/one', '', 'run.started', 6, 'project/p', :data);

INSERT INTO stream_watermarks VALUES ('run/none', 1);

INSERT INTO agents (agent_id, id, name, platform, region, labels, metadata, slots, max_sessions, os, arch, version, ip,
  token_hash, online, draining, connection_id, last_heartbeat, offline_since, created_at, updated_at)
VALUES ('old', 'id', 'old', 'process', '', '{"os":"arm64"}', '{}', 3, 0, '', '', '', '', 'h', true, false, 'c', 1, 0, 1, 1);

INSERT INTO leases VALUES ('try-1', 'old', 'step', 'started', 1, 2);

INSERT INTO runs (id, kind, name, project, pipeline_id, status, reason, spec, variables, trigger, triggered_by,
  checkout, branch, commit_sha, rerun_of, cancel_reason, created_at, started_at, finished_at)
VALUES ('one', 'pipeline', 'build', 'p', '', 'running', '', :spec, '{}', 'manual', 'me', NULL, '', '', '', '', 1, 1, 0);

INSERT INTO jobs (id, run_id, "index", name, status, reason, round, lost, workspace, agent_id, fresh, not_before,
  deadline, kept_from, started_at, finished_at)
VALUES ('job', 'one', 0, 'j', 'running', '', 1, 0, 'job', 'old', false, 0, 0, '', 1, 0);

INSERT INTO steps (id, run_id, job_id, "index", name, status, reason, outputs, failures, lost, unstarted, attempts,
  current, stopping, kept_from, not_before, started_at, finished_at)
VALUES ('step', 'one', 'job', 0, 's', 'running', '', '{}', 0, 0, 0, 1, 'try-1', '', '', 0, 1, 0);

INSERT INTO attempts (id, run_id, step_id, number, status, selector, agent_id, exit_code, error, reason, lines,
  percent, queued_at, started_at, finished_at)
VALUES ('try-1', 'one', 'step', 1, 'running', '', 'old', 0, '', '', 7, 5, 1, 1, 0);
