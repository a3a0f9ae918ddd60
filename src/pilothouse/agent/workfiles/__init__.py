"""What built-in actions do with the files of a workspace, in a child process that runs as the user of the steps.

The workspace is not trusted: links are not followed, only regular files are opened, and everything has a bound. These
modules need nothing but the standard library. ``job.py`` is the program.
"""
