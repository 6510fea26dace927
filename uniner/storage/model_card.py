"""For people: the student's model card."""

from collections.abc import Mapping
from importlib import resources

from jinja2 import Environment

from uniner import __version__
from uniner.config.schema import Student, Train
from uniner.templates import READ, SYSTEM, make_template

_SCORES = "## Scores\n"


def render(
    run: str,
    seed: int,
    student: Student,
    train: Train,
    figures: dict[str, float],
    types: list[str],
    eos: str,
) -> str:
    """Return the card; figures are the manifest's, eos is the end token's text."""
    how = make_template(student.template, student.group_types)
    asked = {name: ["a mention"] if place == 0 else [] for place, name in enumerate(types[:2] or ["TYPE"])}
    question, answer = how.render(asked)[0]
    text = resources.files("uniner.storage").joinpath("student_card.md").read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(text)
        .render(
            run=run,
            seed=seed,
            version=__version__,
            base=student.base,
            template=student.template,
            max_tokens=student.max_tokens,
            train=train,
            figures=figures,
            types=types,
            eos=eos,
            prompt=f"{SYSTEM} USER: Text: PASSAGE ASSISTANT: {READ}{eos}USER: {question} ASSISTANT:",
            answer=answer,
        )
    )


def with_scores(text: str, protocol: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return a card with scores, each data set's f1 and questions, in place of those that stood there."""
    head = text.split(_SCORES, 1)[0]
    rows = [f"| {name} | {found['questions']:,} | {found['f1']:.3f} |" for name, found in scores.items()]
    table = "\n".join(["| data set | questions | F1 |", "|---|---:|---:|", *rows])
    return f"{head}{_SCORES}\n{protocol}\n\n{table}\n"
