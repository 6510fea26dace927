"""The student's card: hostile types and names show as text, scores replace earlier ones."""

import re

from uniner.storage.model_card import student_card, with_scores

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
