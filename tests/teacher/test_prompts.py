"""The prompts: the paper's, a file of the user's, a JSON schema."""

import pytest

from uniner.errors import UserError
from uniner.teacher.prompts import Prompt, load_prompt, passage_in, published_prompt


def test_the_prompts_are_the_papers():
    system, user = published_prompt("type").messages("Ann lives.")
    assert system == {"role": "system", "content": "You are a helpful information extraction system."}
    assert user["content"] == (
        "Given a passage, your task is to extract all entities and identify their entity types. The output "
        'should be in a list of tuples of the following format: [("entity 1", "type of entity 1"), ... ].'
        "\n\nPassage: Ann lives."
    )
    assert passage_in(user["content"]) == "Ann lives."
    assert published_prompt("definition").messages("Ann lives.")[1]["content"] == (
        "Given a paragraph, your task is to extract all entities and concepts, and define their type using a "
        'short sentence. The output should be in the following format: [("entity", "definition of entity '
        'type in a short sentence"), ... ]\n\nPassage: Ann lives.'
    )


def test_the_prompt_asks_for_json_in_words_too():
    asked = published_prompt("type", "json_schema").messages("Ann lives.")[1]["content"]
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
def test_a_prompt_file_is_read(tmp_path, text, system, user):
    path = tmp_path / "prompt.txt"
    path.write_bytes(text.encode())
    prompt = load_prompt(str(path))
    assert prompt == Prompt(system, user)
    asked = prompt.messages("{passage} is {braces}")
    assert asked[-1]["content"] == user.replace("{passage}", "{passage} is {braces}", 1)
    assert [message["role"] for message in asked] == (["system", "user"] if system else ["user"])


def test_a_wrong_prompt_file_is_named(tmp_path):
    for content, message in [
        (b"Find names.", r"prompt\.txt: has no \{passage\}"),
        (b"System: in {passage}\nFind names.", r"has no \{passage\} \(after the system line\)"),
        (b"\xff{passage}", "is not UTF-8 text"),
    ]:
        (tmp_path / "prompt.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_prompt(str(tmp_path / "prompt.txt"))
    with pytest.raises(UserError, match=r"absent\.txt: no such file"):
        load_prompt(str(tmp_path / "absent.txt"))
