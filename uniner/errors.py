"""How a job can end besides success and a bug, and addresses without their secrets in messages."""

import re

# A user's name and secret before a host: no slash in them, or a colon that no port follows, as the secrets of
# object stores have slashes.
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^\s/?#\"'<>]{1,1000}@|[^\s/?#@:\[]{1,200}:(?!\d+(?:[/\s?#]|$))[^\s@\"'<>]{1,1000}@)"
)


_QUERY_SECRETS = re.compile(
    r"(?<=[?&])((?:api[_-]?key|access[_-]?token|token|sig|signature|secret|password|x-amz-[a-z-]+)=)[^&\s\"'<>]+",
    re.IGNORECASE,
)


def printable(url: str) -> str:
    """Return an address, or a text with addresses, with `***` in place of credentials."""
    return _QUERY_SECRETS.sub(r"\1***", _CREDENTIALS.sub("***@", url))


class UserError(Exception):
    """An error that the user can mend. The message is one line: what failed, where, what to do.

    It ends the job with exit code 2 before Ray starts, and with 1 afterwards. Credentials in addresses are
    left out of the message.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class MissingLibraryError(UserError):
    """A library that a setting needs is not installed here. The machines that do the work may have it."""


class Stopped(Exception):
    """A stop on purpose (a signal, the budget). The same command resumes. Exit code 3."""
