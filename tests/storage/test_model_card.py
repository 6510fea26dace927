"""The cards of student and encoder: hostile types and names show as text, scores replace earlier ones."""

import re

from uniner.config.schema import Encoder
from uniner.storage.model_card import encoder_card, student_card, with_scores

HOSTILE = "<img src=x onerror=alert(1)>|```x```\n## Scores\ny"
SETTINGS = {
    "base": "some/base_model", "max_tokens": 512, "lora_rank": 0, "epochs": 1, "batch_conversations": 2,
    "learning_rate": 1e-4, "warmup_share": 0.1, "weight_decay": 0.0, "dtype": "float32", "seed": 0,
    "template": "type", "group_types": 1,
}  # fmt: skip
FIGURES = dict.fromkeys(
    (
        "conversations", "validation_conversations", "tokens", "answer_tokens", "split", "set_aside", "steps",
        "first_loss", "last_loss", "exported_step",
    ),
    1,
)  # fmt: skip


def test_hostile_types_and_names_are_text():
    card = student_card("run", SETTINGS, FIGURES, [HOSTILE, "city"], "</s>")
    fence, prompt = re.search(r"^(````+)\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL).groups()
    assert HOSTILE in prompt and fence == "````"  # as code, where it is no markup
    rest = card.replace(prompt, "")
    assert (
        "<img" not in rest
        and "&lt;img src=x onerror=alert(1)&gt;\\|\\`\\`\\`x\\`\\`\\` ## Scores y, city." in rest
    )
    assert rest.count("\n## Scores\n") == 1
    assert "from some/base_model" in card and "(`</s>` is" in card and '`["a mention"]`' in card

    scored = with_scores(card, "strict", {"a|<b>": {"questions": 5, "f1": 0.5}})
    assert prompt in scored and "| a\\|&lt;b&gt; | 5 | 0.500 |" in scored
    again = with_scores(scored, "strict", {"c": {"questions": 5, "f1": 0.5}})
    assert prompt in again and "| c | 5 | 0.500 |" in again and "&lt;b" not in again


def test_an_answer_that_repeats_the_passage_is_shown_with_it():
    settings = {**SETTINGS, "template": "words", "group_types": 50}
    card = student_card("run", settings, FIGURES, ["human being", "city"], "</s>")
    assert "Text: PASSAGE with a mention ASSISTANT:" in card
    assert "`PASSAGE O with O a B-human_being mention I-human_being`" in card


def test_an_encoder_s_card_says_how_it_is_asked_and_gets_its_scores():
    settings = {**Encoder(base="some/base_model").model_dump(), "seed": 0}
    counts = ("passages", "questions", "mentions", "not_in_text", "off_boundary", "too_wide")
    figures = {**FIGURES, **dict.fromkeys(counts, 1234), "threshold": 0.35}
    card = encoder_card("run", settings, figures, [HOSTILE, "city"])
    code = re.search(r"^```python\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL).group(1)
    assert '```x```\\n## Scores\\ny", "city"], threshold=0.35)' in code  # one line, so still in the block
    rest = card.replace(code, "")
    assert "<img" not in rest and rest.count("\n## Scores\n") == 1 and "library_name: gliner" in rest
    assert "| threshold of that F1 | 0.35 |" in rest and "| mentions, each occurrence | 1,234 |" in rest
    assert "| c | 5 | 0.500 |" in with_scores(card, "strict", {"c": {"questions": 5, "f1": 0.5}})

    untimed = {name: value for name, value in figures.items() if name != "threshold"}
    assert "threshold=0.50)" in encoder_card("run", settings, untimed, [])
