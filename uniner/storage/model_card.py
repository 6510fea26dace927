"""The model cards of student and encoder, for people and the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from uniner import __version__
from uniner.display import code_fence, markdown_code, markdown_text
from uniner.templates import READ, SYSTEM, make_template

_SCORES = "## Scores\n"
_SHOWN_TYPES = 30
_TAGS = ["named-entity-recognition", "distillation", "universal-ner"]


def student_card(
    run: str, settings: Mapping[str, Any], figures: Mapping[str, float], types: Sequence[str], eos: str
) -> str:
    """Return the card of a student.

    settings: by their names in the config's sections student and train, and the seed. figures: train's
    manifest's. types: the most frequent types. eos: the end token's text.
    """
    example = {name: [] if place else ["a mention"] for place, name in enumerate(types[:2] or ["TYPE"])}
    template = make_template(settings["template"], settings["group_types"])
    # An answer that repeats the passage is shown with the passage that it repeats.
    passage = "PASSAGE" if template.empty_answer("") is None else "PASSAGE with a mention"
    question, answer = template.render(passage, example)[0]
    prompt = f"{SYSTEM} USER: Text: {passage} ASSISTANT: {READ}{eos}USER: {question} ASSISTANT:"
    about = ModelCardData(base_model=settings["base"], pipeline_tag="text-generation", tags=_TAGS)
    values = {"eos": eos, "prompt": prompt, "fence": code_fence(prompt), "answer": answer}
    return _filled("student_card.md", about, run, settings, figures, types, **values, code=markdown_code)


def encoder_card(
    run: str, settings: Mapping[str, Any], figures: Mapping[str, float], types: Sequence[str]
) -> str:
    """Return the card of an encoder.

    settings: by their names in the config's section encoder, and the seed. figures: train-encoder's
    manifest's. types: the most frequent types.
    """
    about = ModelCardData(
        base_model=settings["base"],
        library_name="gliner",
        pipeline_tag="token-classification",
        tags=[*_TAGS, "gliner"],
    )
    # As JSON in a block of code, a type cannot end the block: it has no line breaks.
    example = json.dumps(list(types[:3] or ["person"]), ensure_ascii=False)
    values = {"example": example, "threshold": f"{figures.get('threshold', 0.5):.2f}"}
    return _filled("encoder_card.md", about, run, settings, figures, types, **values)


def _filled(
    template: str,
    about: ModelCardData,
    run: str,
    settings: Mapping[str, Any],
    figures: Mapping[str, float],
    types: Sequence[str],
    **values: Any,
) -> str:
    card = ModelCard.from_template(
        about,
        template_str=resources.files("uniner.storage").joinpath(template).read_text(encoding="utf-8"),
        run=run,
        version=__version__,
        settings=settings,
        figures=figures,
        types=[markdown_text(name) for name in types[:_SHOWN_TYPES]],
        text=markdown_text,
        **values,
    )
    return f"{card}\n"


def with_scores(text: str, protocol: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return a card with these scores, each data set's f1 and questions, in place of earlier ones."""
    card = ModelCard(text)
    rows = [
        f"| {markdown_text(name)} | {score['questions']:,} | {score['f1']:.3f} |"
        for name, score in scores.items()
    ]
    table = "\n".join(["| data set | questions | F1 |", "|---|---:|---:|", *rows])
    card.text = f"{card.text.rsplit(_SCORES, 1)[0]}{_SCORES}\n{protocol}\n\n{table}\n"
    return str(card)
