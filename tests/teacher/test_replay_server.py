"""The server of recorded replies."""

import json

import pytest

from uniner.errors import UserError
from uniner.teacher.replay_server import ReplayServer, load_recording

GOOD = '[("Ann", "person")]'


def test_recorded_replies_come_over_http(tmp_path, teacher_at, annotate):
    recording = tmp_path / "replies.jsonl"
    recording.write_text(json.dumps({"passage": "Ann", "reply": GOOD}) + "\n")
    with ReplayServer(load_recording(str(recording))) as server:
        rows, _ = annotate(teacher_at(server), ["Ann", "Bob"])
    assert [row.outcome for row in rows] == ["ok", "rejected"]
    assert rows[0].tokens_in > 0


def test_a_broken_recording_is_named(tmp_path):
    recording = tmp_path / "replies.jsonl"
    recording.write_text('{"passage": "Ann", "reply": "x"}\nnonsense\n')
    with pytest.raises(UserError, match=r"replies\.jsonl, line 2: is not an object with passage and reply"):
        load_recording(str(recording))
    with pytest.raises(UserError, match="no such file"):
        load_recording(str(tmp_path / "absent.jsonl"))
