"""GLiNER through its own library (Apache-2.0), which is no requirement: its transformers is older than ours.

Ray gives the actors an environment of their own (evaluate.system.NAME.pip or .python).
"""

from collections import defaultdict
from typing import Any

from uniner.errors import UserError
from uniner.evaluate.systems import InProcess, located
from uniner.inference.questions import PassageAnswers, Questions
from uniner.storage.model_folders import local_model


class Gliner(InProcess):
    """The model in this process."""

    def __init__(self, model: str, threshold: float, batch_passages: int, on_gpu: bool):
        """`model` is a folder, s3:// address or hub name.

        Raises:
            UserError: where the library is not there.
        """
        super().__init__()
        try:
            from gliner import GLiNER
        except ImportError as error:
            raise UserError(
                f"gliner cannot be imported ({error}); set evaluate.system.NAME.pip = ['gliner==0.2.29'], or "
                "python to that of an environment which has it"
            ) from None
        device = "cuda" if on_gpu else "cpu"
        self._model: Any = GLiNER.from_pretrained(local_model(model), map_location=device)
        self._threshold, self._batch_passages = threshold, batch_passages

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Tag the passages: those with the same types together."""
        pieces: dict[tuple[str, ...], list[tuple[int, int, int]]] = defaultdict(list)
        for place, (passage, types) in enumerate(questions):
            pieces[tuple(types)] += [(place, start, end) for start, end in self._pieces(passage)]
        found: list[dict[str, list[tuple[int, int, float]]]] = [
            {name: [] for name in types} for _, types in questions
        ]
        for types, some in pieces.items():
            told = self._model.inference(
                [questions[place][0][start:end] for place, start, end in some],
                list(types),
                threshold=self._threshold,
                batch_size=self._batch_passages,
            )
            for (place, start, _), entities in zip(some, told, strict=True):
                for one in entities:
                    span = (start + one["start"], start + one["end"], float(one["score"]))
                    found[place][one["label"]].append(span)
        return [located(passage, spans) for (passage, _), spans in zip(questions, found, strict=True)]

    def _pieces(self, passage: str) -> list[tuple[int, int]]:
        """Cut a passage where it has more words than the model reads: it would drop the rest."""
        words = [(start, end) for _, start, end in self._model.data_processor.words_splitter(passage)]
        longest = self._model.config.max_len
        cut = [words[first : first + longest] for first in range(0, len(words), longest)]
        return [(some[0][0], some[-1][1]) for some in cut]
