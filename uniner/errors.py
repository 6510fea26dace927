"""How a job can end besides success and a bug."""


class UserError(Exception):
    """An error that the user can mend. The message is one line: what failed, where, what to do.

    It ends the job with exit code 2 before Ray starts, and with 1 afterwards.
    """


class Stopped(Exception):
    """A stop on purpose (a signal, the budget). The same command resumes. Exit code 3."""
