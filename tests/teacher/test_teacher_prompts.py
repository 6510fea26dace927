"""What the teacher is asked: the paper's words, a file of one's own, a JSON schema."""

import pytest

from uniner import cli
from uniner.errors import UserError
from uniner.teacher.prompts import Prompt, load, passage_in, published


def test_the_prompts_are_the_papers():
    system, user = published("type").messages("Ann lives.")
    assert system == {"role": "system", "content": "You are a helpful information extraction system."}
    assert user["content"] == (
        "Given a passage, your task is to extract all entities and identify their entity types. The output "
        'should be in a list of tuples of the following format: [("entity 1", "type of entity 1"), ... ].'
        "\n\nPassage: Ann lives."
    )
    assert passage_in(user["content"]) == "Ann lives."
    assert published("definition").messages("Ann lives.")[1]["content"] == (
        "Given a paragraph, your task is to extract all entities and concepts, and define their type using a "
        'short sentence. The output should be in the following format: [("entity", "definition of entity '
        'type in a short sentence"), ... ]\n\nPassage: Ann lives.'
    )


def test_a_json_reply_is_asked_for_in_words_too():
    asked = published("type", "json_schema").messages("Ann lives.")[1]["content"]
    assert 'JSON of the following format: {"entities": [{"entity": "entity 1", "type"' in asked
    assert "tuples" not in asked


@pytest.mark.parametrize(
    ("text", "system", "user"),
    [
        ("Find names.\n\n{passage}\n", "", "Find names.\n\n{passage}"),
        ("System: Be brief.\n\nIn {passage}: who?", "Be brief.", "In {passage}: who?"),
        ("\ufeffsystem: Kurz.\r\nWer?\r\n{passage}", "Kurz.", "Wer?\n{passage}"),
    ],
)
def test_a_prompt_of_ones_own_comes_from_a_file(tmp_path, text, system, user):
    path = tmp_path / "prompt.txt"
    path.write_bytes(text.encode())
    prompt = load(str(path))
    assert prompt == Prompt(system, user)
    asked = prompt.messages("{passage} is {braces}")
    assert asked[-1]["content"] == user.replace("{passage}", "{passage} is {braces}", 1)
    assert [message["role"] for message in asked] == (["system", "user"] if system else ["user"])


def test_a_wrong_prompt_file_is_named(tmp_path):
    for content, message in [
        (b"Find names.", r"prompt\.txt: has no \{passage\}"),
        (b"System: in {passage}\nFind names.", r"has no \{passage\} \(after the system line\)"),
        (b"\xff{passage}", "is no UTF-8 text"),
    ]:
        (tmp_path / "prompt.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            load(str(tmp_path / "prompt.txt"))
    with pytest.raises(UserError, match=r"absent\.txt: no such file"):
        load(str(tmp_path / "absent.txt"))


def test_other_words_are_another_stage_and_are_checked_before_ray_starts(tmp_path, base, capsys):
    from uniner.annotate import stage
    from uniner.config.loader import load as load_config
    from uniner.storage.stage_folder import StageFolder

    config = tmp_path / "config.toml"
    config.write_text(
        f'[run]\nroot = "{tmp_path}/runs"\nname = "a"\n[student]\nbase = "{base}"\n[ingest]\nshards = ["x"]\n'
    )
    prompt, words = tmp_path / "prompt.txt", [str(config), "annotate.base_url=http://127.0.0.1:9/v1"]
    own = [*words, f"annotate.prompt={prompt}"]
    assert cli.run(["annotate"], own) == 2
    assert "prompt.txt: no such file" in capsys.readouterr().err
    prompt.write_text("Who is in {passage}?")
    StageFolder(f"{tmp_path}/runs/a/annotate").begin(stage._plan(load_config(own)))
    stage.check(load_config(own))
    prompt.write_text("Who was in {passage}?")
    for changed in (own, words):
        assert cli.run(["annotate"], changed) == 2
        assert "config.prompt was" in capsys.readouterr().err
