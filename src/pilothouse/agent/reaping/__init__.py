"""How all that a step has started is ended, wherever it went.

The agent has one process beside it, the guard (`guarding`), which starts steps and outlives the agent. For each
step it forks a supervisor (`supervisor`), a child subreaper: whatever the step starts, by double fork, `setsid`
or with another environment, stays a descendant of the supervisor or becomes its child. Where the machine lets
it, the step also has a control group of its own (`cgroup2`, `cgroup1`), which is killed as a whole.

Guard and supervisors run with `-I -S`: standard library only, one thread, nothing of ours but this package.
Linux only.
"""
