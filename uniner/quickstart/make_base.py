"""Make the nano base model that ships in `base/`: python -m uniner.quickstart.make_base [FOLDER [TOKENS]].

A Llama of 1 M parameters learns from nothing to answer in the format: sentences of the base domains with
made-up names, asked for types that are in the text and types that are not. First it is also asked to repeat
the text and everything carries loss (language, and copying, which it else learns late); then the answers
alone do (the task). It sees no name and no frame of the quickstart's corpus and only six of its types; the
tokenizer alone knows the words of both worlds, as a real model's knows English.

Most texts are asked all questions at once, each blind to the others: as in tagging, at a price of ten tokens
a question. The rest is asked as in training, one question after the other. The base that ships took 20 M
tokens, 34 minutes on one core; 99 % of the answers' tokens in its own world are then right.
"""

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uniner.quickstart.base_domains import BASE_DOMAINS
from uniner.quickstart.corpus import Document, Naming, documents, types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.names import BASE_SHAPES, name
from uniner.templates import READ, SYSTEM, Renderer, render_conversation

VOCABULARY = 2560
# The words around every passage and type, a token each: half of what would else be computed.
PHRASES = (
    f"{SYSTEM} USER: Text: ",
    f" ASSISTANT: {READ}",
    "USER: What describes ",
    " in the text? ASSISTANT:",
)
TYPES = types_of(BASE_DOMAINS)
TOKENS, LANGUAGE_TOKENS = 20_000_000, 2_000_000
DOCUMENTS_PER_STEP, POOL, MOST_TOKENS, ROUND_TO = 12, 1_500, 640, 64
CONVERSATION_SHARE = 0.25
ANY_TOKENS_SHARE = 0.5  # of the names
ABSENT_PER_PRESENT = 2
PEAK_RATE, LOWEST_SHARE, WARMUP_STEPS = 2.0e-3, 0.03, 200


@dataclass(frozen=True)
class Sequence:
    """A text and its questions as token ids, all of length n.

    group: 0 is what all later tokens see, any other number what only later tokens of that number see.
    """

    ids: list[int]
    positions: list[int]
    group: list[int]
    loss: list[bool]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts of both worlds.

    Blanks are tokens of their own: a name then has the same ids in a sentence and behind an answer's
    quotation mark, so that a nano model can copy it. With the usual blank-and-word tokens it copied all but
    the first token (28 % of the answers right after 16 M tokens).
    """
    worlds = (documents(BASE_DOMAINS, 4_000, 1, "base"), documents(DOMAINS, 4_000, 1, "train"))
    texts = (
        " ".join([document.text, *(mention.type for mention in document.mentions)])
        for world in worlds
        for document in world
    )
    tokenizer = Tokenizer(models.BPE())
    blanks = pre_tokenizers.Split(" ", behavior="isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([blanks, words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")


def make_model() -> LlamaForCausalLM:
    """Return the untrained model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY + len(PHRASES),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def make_naming(tokenizer: PreTrainedTokenizerFast) -> Naming:
    """Return what makes the names: half as ever, half of any tokens.

    So the model learns to copy every token, and tokens that no base domain has (the words of the
    quickstart) come to differ: with tied embeddings they would else drift to one place (cosine 0.997).
    """
    tokens = sorted(token for token in tokenizer.get_vocab() if token.isascii() and token.isalnum())

    def naming(type: str, random: Random, split: str) -> str:
        if type in BASE_SHAPES or random.random() >= ANY_TOKENS_SHARE:
            return name(type, random, split)
        words = ("".join(random.choices(tokens, k=random.randint(1, 2))) for _ in range(random.randint(1, 3)))
        return " ".join(word[0].upper() + word[1:] if random.random() < 0.5 else word for word in words)

    return naming


def ask(document: Document, random: Random) -> dict[str, list[str]]:
    """Return the types that a document has and more that it has not, shuffled, each with its mentions."""
    answers: dict[str, list[str]] = {}
    for mention in document.mentions:
        answers.setdefault(mention.type, []).append(mention.text)
    absent = [name for name in TYPES if name not in answers]
    answers.update({name: [] for name in random.sample(absent, 1 + ABSENT_PER_PRESENT * len(answers))})
    asked = [(name, list(dict.fromkeys(mentions))) for name, mentions in answers.items()]
    random.shuffle(asked)
    return dict(asked)


def language(document: Document, renderer: Renderer, random: Random) -> Sequence:
    """Ask one question, then to repeat the document, then the others; all tokens carry loss."""
    conversation = render_conversation(document.text, ask(document, random))
    repeat = ({"from": "human", "value": "Repeat the text."}, {"from": "gpt", "value": document.text})
    head, questions = renderer.blocks((*conversation[:4], *repeat, *conversation[4:]))
    ids = list(sum(questions, head).ids)
    return Sequence(ids, list(range(len(ids))), [0] * len(ids), [False] + [True] * (len(ids) - 1))


def task(document: Document, renderer: Renderer, random: Random) -> Sequence:
    """Ask all questions, either each blind to the others or as a conversation; the answers carry loss."""
    head, questions = renderer.blocks(render_conversation(document.text, ask(document, random)))
    blind = random.random() >= CONVERSATION_SHARE
    sequence = Sequence(list(head.ids), list(range(len(head))), [0] * len(head), list(head.loss))
    start = len(head)
    for number, question in enumerate(questions, 1):
        sequence.ids.extend(question.ids)
        sequence.loss.extend(question.loss)
        sequence.positions.extend(range(start, start + len(question)))
        sequence.group.extend([number if blind else 0] * len(question))
        start += 0 if blind else len(question)
    return sequence


def batches(
    renderer: Renderer, naming: Naming
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield ids, positions, which tokens see which, and which carry loss, for ever.

    Shapes (rows, n), (rows, n), (rows, 1, n, n), (rows, n). Texts of like length make a batch.
    """
    random = Random(2)
    tokens = 0
    for seed in range(2, 10**6):
        make = task if tokens >= LANGUAGE_TOKENS else language
        pool = documents(BASE_DOMAINS, POOL, seed, "base", (1, 4), naming)
        sequences = [make(document, renderer, random) for document in pool]
        sequences = [sequence for sequence in sequences if len(sequence.ids) <= MOST_TOKENS]
        sequences.sort(key=lambda sequence: len(sequence.ids))
        starts = list(range(0, len(sequences), DOCUMENTS_PER_STEP))
        random.shuffle(starts)
        for start in starts:
            chosen = sequences[start : start + DOCUMENTS_PER_STEP]
            tokens += sum(len(sequence.ids) for sequence in chosen)
            yield collate(chosen)


def collate(
    sequences: list[Sequence],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay sequences out as the rows of a batch."""
    width = -(-max(len(sequence.ids) for sequence in sequences) // ROUND_TO) * ROUND_TO

    def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])

    group = padded([sequence.group for sequence in sequences], -1)
    same = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    sees = torch.ones(width, width, dtype=torch.bool).tril() & same
    ids = padded([sequence.ids for sequence in sequences], 0)
    positions = padded([sequence.positions for sequence in sequences], 0)
    loss = padded([[*map(int, sequence.loss)] for sequence in sequences], 0).bool()
    return ids, positions, sees[:, None], loss


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the rest: fewer tokens for the same loss."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.model.layers.parameters() if weight.ndim != 2]
    others += [model.model.embed_tokens.weight, model.model.norm.weight]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(done: float, step: int) -> float:
    """Return the learning rate: a short rise, then a cosine down; done is the share of all tokens."""
    down = 0.5 * (1 + math.cos(min(1.0, done) * math.pi))
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (LOWEST_SHARE + (1 - LOWEST_SHARE) * down)


def main() -> None:
    """Train and save."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "base"
    all_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else TOKENS
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer, model = make_tokenizer(), make_model()
    both = optimizers(model)
    compiled = torch.compile(model.model, dynamic=True)
    started, tokens = time.monotonic(), 0
    for step, (ids, positions, sees, carries) in enumerate(
        batches(Renderer(tokenizer), make_naming(tokenizer))
    ):
        tokens += ids.numel()  # with the padding: it is computed too
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] = rate(tokens / all_tokens, step)
        chosen = carries[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = compiled(input_ids=ids, position_ids=positions, attention_mask=sees, use_cache=False)
            logits = model.lm_head(hidden.last_hidden_state[:, :-1][chosen]).float()
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            right = (logits.argmax(-1) == ids[:, 1:][chosen]).float().mean().item()
            speed = tokens / (time.monotonic() - started)
            print(
                f"step {step}: {tokens:,} tokens, {speed:,.0f}/s, loss {loss:.3f}, right {right:.3f}",
                flush=True,
            )
        if step % 1000 == 999 or tokens >= all_tokens:
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        if tokens >= all_tokens:
            return


if __name__ == "__main__":
    main()
