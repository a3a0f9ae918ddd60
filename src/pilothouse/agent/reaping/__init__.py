"""Ends all processes that a step has started.

The guard (`guard_process`) is a process that starts steps and outlives the agent. For each step it forks a supervisor
(`supervisor`), a child subreaper: every process of the step, even after a double fork, `setsid` or with another
environment, stays a descendant of the supervisor or becomes its child. If available, the step also has its own
control group (`cgroup2`, `cgroup1`), which is killed as a whole.

Guard and supervisors run with `-I -S`: one thread, the standard library and this package only. Linux only.
"""
