"""No message shows the credentials of an address."""

import logging
import pickle

import pytest

from uniner.errors import UserError, printable
from uniner.progress import set_up_logging
from uniner.storage.filesystem import explained
from uniner.storage.folder import Folder
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.openai_client import OpenAIServer, explain


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@host/a/b.txt", "https://***@host/a/b.txt"),
        ("https://secret@host:8000/v1", "https://***@host:8000/v1"),
        ("https://user:se@cret@host/a", "https://***@host/a"),
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("s3://key:sec/re+t@bucket/a", "s3://***@bucket/a"),
        ("both https://a:secret@b and s3://c:secret@d/e", "both https://***@b and s3://***@d/e"),
        ("https://***@host/a", "https://***@host/a"),
        ("https://host:8000/model@v1", "https://host:8000/model@v1"),
        ("s3://bucket/a@b:c@d", "s3://bucket/a@b:c@d"),
        ("http://[::1]:8000/a@b", "http://[::1]:8000/a@b"),
        ("mail ann@host and C:/a@b", "mail ann@host and C:/a@b"),
    ],
)
def test_credentials_of_an_address_are_not_printed(address, shown):
    assert printable(address) == shown


def test_no_error_line_shows_credentials():
    with pytest.raises(UserError) as missing, explained("https://user:secret@host/a"):
        raise FileNotFoundError
    assert str(missing.value) == "https://***@host/a: no such file or folder"
    assert str(pickle.loads(pickle.dumps(missing.value))) == str(missing.value)


def test_no_message_of_a_stage_shows_credentials():
    folder = StageFolder("memory://user:secret@run/annotate")
    with pytest.raises(UserError, match="not complete") as incomplete:
        folder.require_manifest()
    assert str(incomplete.value).startswith("memory://***@run/annotate: ")
    assert repr(Folder("s3://key:secret@bucket/a")) == "Folder('s3://***@bucket/a')"


def test_no_log_line_shows_credentials(capsys):
    set_up_logging()
    logging.getLogger("uniner.test").info("output in %s", "s3://key:secret@bucket/run")
    assert "output in s3://***@bucket/run" in capsys.readouterr().err


def test_no_message_about_a_teacher_shows_credentials():
    error = ValueError("no answer from http://user:secret@host/v1/chat")
    line = explain(error, "m", OpenAIServer(), "http://user:secret@host/v1/")
    assert line == "teacher m at http://***@host/v1/: no answer from http://***@host/v1/chat"


def test_secrets_in_a_query_are_not_printed():
    shown = printable("http://h/x.jsonl?page=2&api_key=s3cr3t&X-Amz-Signature=abc: no such file")
    assert shown == "http://h/x.jsonl?page=2&api_key=***&X-Amz-Signature=*** no such file"
