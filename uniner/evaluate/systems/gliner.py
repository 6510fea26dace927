"""GLiNER through its own library (Apache-2.0), which needs an older transformers than this project.

Ray gives its actors an environment of their own (evaluate.system.NAME.pip or .python).
"""

from collections import defaultdict
from typing import Any

from uniner.errors import UserError
from uniner.evaluate.systems import InProcessSystem, ScoredSpan, tagged_answer
from uniner.inference.questions import PassageAnswers, Questions
from uniner.storage.model_folders import local_model


class GlinerTagger(InProcessSystem):
    """A GLiNER model in this process."""

    def __init__(self, model: str, threshold: float, batch_passages: int, on_gpu: bool):
        """`model` is a folder, s3:// address or hub name.

        Raises:
            UserError: where the library is not installed.
        """
        super().__init__()
        try:
            from gliner import GLiNER
        except ImportError as error:
            raise UserError(
                f"gliner cannot be imported ({error}); set evaluate.system.NAME.pip = ['gliner==0.2.29'], or "
                "evaluate.system.NAME.python to the Python of an environment that has it"
            ) from None
        device = "cuda" if on_gpu else "cpu"
        self._model: Any = GLiNER.from_pretrained(local_model(model), map_location=device)
        self._threshold, self._batch_passages = threshold, batch_passages

    def answer(self, questions: Questions) -> list[PassageAnswers]:
        """Tag the passages, those with the same types together."""
        pieces: defaultdict[tuple[str, ...], list[tuple[int, int, int]]] = defaultdict(list)
        for number, (passage, types) in enumerate(questions):
            pieces[tuple(types)] += [(number, start, end) for start, end in self._pieces(passage)]
        spans: list[dict[str, list[ScoredSpan]]] = [{name: [] for name in types} for _, types in questions]
        for types, batch in pieces.items():
            tagged = self._model.inference(
                [questions[number][0][start:end] for number, start, end in batch],
                list(types),
                threshold=self._threshold,
                batch_size=self._batch_passages,
            )
            for (number, offset, _), entities in zip(batch, tagged, strict=True):
                for entity in entities:
                    start, end = offset + entity["start"], offset + entity["end"]
                    spans[number][entity["label"]].append(ScoredSpan(start, end, float(entity["score"])))
        return [
            tagged_answer(passage, by_type) for (passage, _), by_type in zip(questions, spans, strict=True)
        ]

    def _pieces(self, passage: str) -> list[tuple[int, int]]:
        """Cut a passage with more words than the model reads, as the model would drop the rest."""
        words = [(start, end) for _, start, end in self._model.data_processor.words_splitter(passage)]
        longest = self._model.config.max_len
        pieces = [words[first : first + longest] for first in range(0, len(words), longest)]
        return [(piece[0][0], piece[-1][1]) for piece in pieces]
