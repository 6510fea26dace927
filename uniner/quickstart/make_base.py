"""Make the nano base model that ships in `base/`: python -m uniner.quickstart.make_base [FOLDER [TOKENS]].

A Llama of 1 M parameters, trained from random weights, learns to answer in the format: sentences of the base
domains with made-up names, questions for types in the text and for absent types. In the first phase it also
repeats the text and all tokens carry loss: it learns language, and copying, which it otherwise learns late.
Then the answers alone carry loss. It sees no name and no frame of the quickstart's corpus and only six of its
types. The tokenizer knows the words of both corpora, as a real model's knows English.

Most texts are asked all questions at once, each hidden from the others, as in tagging; a question then costs
ten tokens. The rest are conversations, as in training. The base that ships took 20 M tokens, 34 minutes on
one core; 99 % of its answers' tokens are then right on the base domains.
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
from uniner.quickstart.corpus import MadeUpDocument, Naming, documents, types_of
from uniner.quickstart.domains import DOMAINS
from uniner.quickstart.names import BASE_SHAPES, name
from uniner.templates import READ, SYSTEM, Renderer, render_conversation

VOCABULARY = 2560
# The words around each passage and type are a token each, which halves the tokens to compute.
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
ANY_TOKENS_SHARE = 0.5  # share of names made of any tokens
ABSENT_PER_PRESENT = 2
PEAK_RATE, LOWEST_SHARE, WARMUP_STEPS = 2.0e-3, 0.03, 200


@dataclass(frozen=True)
class TokenSequence:
    """A text and its questions as token ids; all lists have length n.

    group: later tokens of all groups see tokens of group 0; of other groups only tokens of the same group.
    """

    ids: list[int]
    positions: list[int]
    group: list[int]
    loss: list[bool]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts of both corpora.

    A blank is a token of its own: a name then has the same ids in a sentence and after an answer's quotation
    mark, so that a nano model can copy it. With the usual tokens of blank and word it copied all but the
    first token (28 % of the answers were right after 16 M tokens).
    """
    corpora = (documents(BASE_DOMAINS, 4_000, 1, "base"), documents(DOMAINS, 4_000, 1, "train"))
    texts = (
        " ".join([document.text, *(mention.type for mention in document.mentions)])
        for corpus in corpora
        for document in corpus
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
    """Return the naming function: half the usual names, half words of random tokens.

    So the model learns to copy every token. Tokens that no base domain has (the quickstart's words) also get
    distinct embeddings: with tied embeddings they would otherwise drift to one place (cosine 0.997).
    """
    tokens = sorted(token for token in tokenizer.get_vocab() if token.isascii() and token.isalnum())

    def naming(type: str, random: Random, split: str) -> str:
        if type in BASE_SHAPES or random.random() >= ANY_TOKENS_SHARE:
            return name(type, random, split)
        words = ("".join(random.choices(tokens, k=random.randint(1, 2))) for _ in range(random.randint(1, 3)))
        return " ".join(word[0].upper() + word[1:] if random.random() < 0.5 else word for word in words)

    return naming


def ask(document: MadeUpDocument, random: Random) -> dict[str, list[str]]:
    """Return present and absent types with their mentions, shuffled."""
    answers: dict[str, list[str]] = {}
    for mention in document.mentions:
        answers.setdefault(mention.type, []).append(mention.text)
    absent = [name for name in TYPES if name not in answers]
    answers.update({name: [] for name in random.sample(absent, 1 + ABSENT_PER_PRESENT * len(answers))})
    asked = [(name, list(dict.fromkeys(mentions))) for name, mentions in answers.items()]
    random.shuffle(asked)
    return dict(asked)


def language(document: MadeUpDocument, renderer: Renderer, random: Random) -> TokenSequence:
    """Ask one question, then to repeat the text, then the other questions; all tokens carry loss."""
    conversation = render_conversation(document.text, ask(document, random))
    repeat = ({"from": "human", "value": "Repeat the text."}, {"from": "gpt", "value": document.text})
    head, questions = renderer.blocks((*conversation[:4], *repeat, *conversation[4:]))
    ids = list(sum(questions, head).ids)
    return TokenSequence(ids, list(range(len(ids))), [0] * len(ids), [False] + [True] * (len(ids) - 1))


def task(document: MadeUpDocument, renderer: Renderer, random: Random) -> TokenSequence:
    """Ask all questions, hidden from each other or as a conversation; the answers carry loss."""
    head, questions = renderer.blocks(render_conversation(document.text, ask(document, random)))
    hidden = random.random() >= CONVERSATION_SHARE
    sequence = TokenSequence(list(head.ids), list(range(len(head))), [0] * len(head), list(head.loss))
    start = len(head)
    for number, question in enumerate(questions, 1):
        sequence.ids.extend(question.ids)
        sequence.loss.extend(question.loss)
        sequence.positions.extend(range(start, start + len(question)))
        sequence.group.extend([number if hidden else 0] * len(question))
        start += 0 if hidden else len(question)
    return sequence


def batches(
    renderer: Renderer, naming: Naming
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield ids, positions, the attention mask and the loss mask, without end.

    Shapes (rows, n), (rows, n), (rows, 1, n, n), (rows, n). A batch has texts of similar length.
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


def collate(sequences: list[TokenSequence]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad sequences to the rows of a batch."""
    width = -(-max(len(sequence.ids) for sequence in sequences) // ROUND_TO) * ROUND_TO

    def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])

    group = padded([sequence.group for sequence in sequences], -1)
    same = (group[:, None, :] == 0) | (group[:, None, :] == group[:, :, None])
    mask = torch.ones(width, width, dtype=torch.bool).tril() & same
    ids = padded([sequence.ids for sequence in sequences], 0)
    positions = padded([sequence.positions for sequence in sequences], 0)
    loss = padded([[*map(int, sequence.loss)] for sequence in sequences], 0).bool()
    return ids, positions, mask[:, None], loss


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the rest: fewer tokens to the same loss."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.model.layers.parameters() if weight.ndim != 2]
    others += [model.model.embed_tokens.weight, model.model.norm.weight]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(done: float, step: int) -> float:
    """Return the learning rate: a short rise, then a cosine decay.

    done: the share of all tokens.
    """
    decay = 0.5 * (1 + math.cos(min(1.0, done) * math.pi))
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (LOWEST_SHARE + (1 - LOWEST_SHARE) * decay)


def main() -> None:
    """Train and save."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "base"
    all_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else TOKENS
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer, model = make_tokenizer(), make_model()
    both_optimizers = optimizers(model)
    compiled = torch.compile(model.model, dynamic=True)
    started, tokens = time.monotonic(), 0
    for step, (ids, positions, mask, loss_mask) in enumerate(
        batches(Renderer(tokenizer), make_naming(tokenizer))
    ):
        tokens += ids.numel()  # padding included: it is computed too
        for optimizer in both_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(tokens / all_tokens, step)
        chosen = loss_mask[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = compiled(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
            logits = model.lm_head(hidden.last_hidden_state[:, :-1][chosen]).float()
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both_optimizers:
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
