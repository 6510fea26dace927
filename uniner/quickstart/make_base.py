"""Make the nano base model that ships in `base/`: python -m uniner.quickstart.make_base [FOLDER [TOKENS]].

A Llama of 1 M parameters learns from nothing to answer in the format: sentences of the base domains with
made-up names, asked for types that are in the text and types that are not. First it is also asked to
repeat the text and everything carries loss (language, and copying, which it else learns late); then the
answers alone do (the task). It sees no name and no frame of the quickstart's corpus and only six of its
types. A folder that holds a base already is trained a further round, on the task alone.

The base that ships took three rounds, together about 50 minutes on one core: the first of 11 M tokens, when
the tokenizer had no PHRASES yet, the second of 6 M with them, the third of 3 M with the last three domains.
"""

import copy
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uniner.quickstart.base_domains import BASE_DOMAINS
from uniner.quickstart.corpus import Document, documents, types_of
from uniner.templates import READ, SYSTEM, Rendered, Renderer, turns

VOCABULARY = 1024
LANGUAGE_TOKENS, TOKENS, FURTHER_TOKENS = 2_000_000, 11_000_000, 6_000_000
ROWS, ROW_TOKENS = 4, 512
PEAK_RATE, LOWEST_RATE, WARMUP_STEPS = 2.0e-3, 1e-4, 200
SINGLE_SHARE = 0.5  # of the conversations have one question, as in tagging
TYPES = types_of(BASE_DOMAINS)
# The words around every passage and type, a token each: half of what would else be computed.
PHRASES = (
    f"{SYSTEM} USER: Text: ",
    f" ASSISTANT: {READ}",
    "USER: What describes ",
    " in the text? ASSISTANT:",
)


def conversation(document: Document, random: Random) -> tuple[dict[str, str], ...]:
    """Ask a document for all types it has and as many that it has not, shuffled."""
    answers: dict[str, list[str]] = {}
    for mention in document.mentions:
        answers.setdefault(mention.type, []).append(mention.text)
    absent = [name for name in TYPES if name not in answers]
    answers.update({name: [] for name in random.sample(absent, max(2, len(answers)))})
    asked = [(name, list(dict.fromkeys(mentions))) for name, mentions in answers.items()]
    random.shuffle(asked)
    return turns(document.text, asked[:1] if random.random() < SINGLE_SHARE else asked)


def repetition(document: Document, random: Random) -> tuple[dict[str, str], ...]:
    """Ask to repeat a document, then as `conversation` does."""
    repeat = ({"from": "human", "value": "Repeat the text."}, {"from": "gpt", "value": document.text})
    asked = conversation(document, random)
    return (*asked[:2], *repeat, *asked[2:])


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on conversations of the base domains.

    Blanks are tokens of their own: a name then has the same ids in a sentence and behind an answer's
    quotation mark, so that a nano model can copy it. With the usual blank-and-word tokens it copied all but
    the first token (28 % of the answers right after 16 M tokens).
    """
    random = Random(0)
    texts = [
        " ".join(turn["value"] for turn in conversation(document, random))
        for document in documents(BASE_DOMAINS, 4_000, seed=1, split="base")
    ]
    tokenizer = Tokenizer(models.BPE())
    blanks = pre_tokenizers.Split(" ", behavior="isolated")
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([blanks, words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")


def with_phrases(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Add the phrases as tokens."""
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    return tokenizer


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


def batches(renderer: Renderer, language_tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ids and whether they carry loss as answers, both (ROWS, ROW_TOKENS), for ever.

    A row begins with a conversation and is filled with further ones; what does not fit is left out, so that
    no computation goes into padding.
    """
    random = Random(2)
    row = Rendered((), ())
    rows: list[Rendered] = []
    tokens = 0
    for seed in range(2, 10**6):
        for document in documents(BASE_DOMAINS, 3_000, seed=seed, split="base", sentences=(1, 5)):
            make = conversation if tokens >= language_tokens else repetition
            head, questions = renderer.blocks(make(document, random))
            row = sum(questions, row + head)
            if len(row) < ROW_TOKENS:
                continue
            rows.append(row)
            row = Rendered((), ())
            if len(rows) == ROWS:
                ids = torch.tensor([row.ids[:ROW_TOKENS] for row in rows])
                yield ids, torch.tensor([row.loss[:ROW_TOKENS] for row in rows])
                tokens += ids.numel()
                rows = []


def rate(done: float, step: int) -> float:
    """Return the learning rate: a short rise, then a cosine down; done is the share of all tokens."""
    down = 0.5 * (1 + math.cos(min(1.0, done) * math.pi))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (LOWEST_RATE + (PEAK_RATE - LOWEST_RATE) * down)


def main() -> None:
    """Train and save."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "base"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    further = (folder / "config.json").exists()
    if further:
        tokenizer = with_phrases(AutoTokenizer.from_pretrained(folder))
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.resize_token_embeddings(VOCABULARY + len(PHRASES))
    else:
        tokenizer, model = with_phrases(make_tokenizer()), make_model()
    language_tokens, all_tokens = (0, FURTHER_TOKENS) if further else (LANGUAGE_TOKENS, TOKENS)
    all_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else all_tokens
    renderer = Renderer(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    compiled = torch.compile(model)
    started = time.monotonic()
    for step, (ids, is_answer) in enumerate(batches(renderer, language_tokens)):
        tokens = step * ids.numel()
        targets = ids[:, 1:].flatten()
        carries = is_answer[:, 1:].flatten() if tokens >= language_tokens else torch.ones_like(targets).bool()
        for group in optimizer.param_groups:
            group["lr"] = rate(tokens / all_tokens, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = compiled(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * carries).sum() / carries.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            right = (logits.argmax(-1) == targets)[is_answer[:, 1:].flatten()].float().mean().item()
            speed = tokens / (time.monotonic() - started)
            print(
                f"step {step}: {tokens:,} tokens, {speed:,.0f}/s, loss {loss:.3f}, right {right:.3f}",
                flush=True,
            )
        if step % 500 == 499 or tokens >= all_tokens:
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        if tokens >= all_tokens:
            return


if __name__ == "__main__":
    main()
