"""The ways a job ends other than done or by a defect of ours."""


class UserError(Exception):
    """Something the user can put right; the message is one line: what, where, what to do.

    Raised before Ray starts it ends the job with exit code 2, later with 1.
    """


class Stopped(Exception):
    """The job was stopped on purpose (a signal, a limit); the same command goes on. Exit code 3."""
