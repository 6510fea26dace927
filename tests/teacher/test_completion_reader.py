"""Chat completions in the shapes of the servers that people have.

The bodies are our own, in the shapes that the servers' documentation and users' reports show.
"""

import json
from dataclasses import astuple

import pytest

from uniner.teacher.completion import TokenCounts
from uniner.teacher.completion_reader import InvalidCompletionError, failure_of, read_completion

MOST = TokenCounts(2000, 1024)
REPLY = '[("Ann", "person"), ("Bonn", "city")]'
THOUGHTS = "Ann is a person. Bonn is a city."


def body(message, finish="stop", usage=(50, 20), choice=None, **top):
    counts = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True)) if usage else None
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": finish,
        **(choice or {}),
    }
    return {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
            "usage": counts, **top}  # fmt: skip


HARMONY = (
    f"<|channel|>analysis<|message|>{THOUGHTS}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{REPLY}<|return|>"
)
FILTERS = {
    "hate": {"filtered": False, "severity": "safe"},
    "violence": {"filtered": False, "severity": "safe"},
}
SERVERS = {
    "OpenAI": body(
        {"content": REPLY, "refusal": None, "annotations": []},
        choice={"logprobs": None},
        service_tier="default",
        system_fingerprint=None,
        usage=(50, 20),
    ),
    "OpenAI, a reasoning model": {
        **body({"content": REPLY, "refusal": None}),
        "usage": {
            "prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70,
            "completion_tokens_details": {"reasoning_tokens": 12, "accepted_prediction_tokens": 0},
        },
    },
    "Azure": body(
        {"content": REPLY, "refusal": None},
        choice={"content_filter_results": FILTERS},
        prompt_filter_results=[{"prompt_index": 0, "content_filter_results": FILTERS}],
    ),
    "vLLM": body(
        {"content": REPLY, "reasoning": THOUGHTS, "tool_calls": [], "function_call": None},
        choice={"stop_reason": None, "token_ids": None},
        prompt_logprobs=None,
        kv_transfer_params=None,
    ),
    "vLLM, earlier": body({"content": f"\n\n{REPLY}", "reasoning_content": THOUGHTS, "tool_calls": []}),
    "vLLM, gpt-oss in raw channels": body({"content": HARMONY}),
    "gpt-oss without special tokens": body({"content": f"analysis{THOUGHTS}assistantfinal{REPLY}"}),
    "gpt-oss with a constraint": body({"content": HARMONY.replace("final<|", "final <|constrain|>json<|")}),
    "Ollama": body({"content": REPLY, "reasoning": THOUGHTS}, system_fingerprint="fp_ollama"),
    "Mistral": body(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}], "closed": True},
                {"type": "text", "text": REPLY},
            ],
            "tool_calls": None,
            "prefix": False,
        }
    ),
    "parts of other kinds of thoughts": body(
        {
            "content": [
                {"type": "reasoning_text", "text": THOUGHTS},
                {"type": "summary_text", "text": THOUGHTS},
                {"type": "text", "text": THOUGHTS, "thought": True},
                {"type": "output_text", "text": REPLY},
            ]
        }
    ),
    "Mistral, text in two parts": body(
        {"content": [{"type": "text", "text": REPLY[:9]}, {"type": "text", "text": REPLY[9:]}]}
    ),
    "OpenRouter": body(
        {
            "content": REPLY,
            "refusal": None,
            "reasoning": THOUGHTS,
            "reasoning_details": [{"type": "reasoning.text", "text": THOUGHTS, "index": 0}],
        },
        choice={"native_finish_reason": "STOP", "logprobs": None},
        provider="Some",
        error=None,
    ),
    "llama.cpp": body({"content": REPLY}, timings={"predicted_ms": 12.5}, usage=(50, 20)),
    "TGI": body({"content": REPLY}, finish="eos_token"),
    "Together": body({"content": REPLY, "tool_calls": []}, finish="eos", prompt=[]),
    "a part that is a string": body({"content": [REPLY]}),
    "one part": body({"content": {"type": "output_text", "text": REPLY}}),
}  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_the_reply_is_read_without_thoughts(server):
    completion = read_completion(json.dumps(SERVERS[server]).encode())
    assert (completion.text.strip(), completion.failure, completion.refusal) == (REPLY, "", "")
    assert completion.reply(MOST, 3).attempts == 3
    assert completion.tokens(MOST) == (50, 20)


@pytest.mark.parametrize(
    ("finish", "read"),
    [
        *[(name, "length") for name in ("length", "MAX_TOKENS", "max_tokens", "model_length")],
        *[(name, "content_filter") for name in ("content_filter", "SAFETY", "RECITATION", "sensitive")],
        *[(name, name.lower()) for name in ("stop", "STOP", "end_turn", "eos_token", "tool_calls")],
        (None, ""),
        (7, ""),
    ],
)
def test_finish_reasons_have_one_name(finish, read):
    completion = read_completion(json.dumps(body({"content": REPLY}, finish)).encode())
    assert (completion.finish_reason, completion.failure) == (read, "")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"error": {"message": "Provider\nreturned error", "code": 502}}, "Provider returned error"),
        (body({"content": ""}, "error", choice={"error": {"code": 502, "message": "lost"}}), "lost"),
        (body({"content": REPLY}, "stop", choice={"error": {"code": 502, "message": "lost"}}), "lost"),
        (body({"content": REPLY[:9]}, "error", usage=None), "finish_reason error"),
        *[
            (body({"content": REPLY[:9]}, finish), "finish_reason error")
            for finish in ("abort", "cancelled", "network_error", "insufficient_system_resource")
        ],
        (body({"content": REPLY}, error={"message": "overloaded"}), "overloaded"),
        (body({"content": None}), "no content"),
        (body({"content": " \n"}), "no content"),
        (body({}, None), r"no content \(finish_reason missing\)"),
        (body({"content": []}), "no content"),
        (body({"content": None, "reasoning_content": THOUGHTS}), "no content"),
        (body({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), "no content"),
        (body({"content": HARMONY.split("<|end|>")[0]}), "no content"),
        ({"object": "error", "message": "the model is gone", "code": 500}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": [{"finish_reason": "stop"}]}, "not a chat completion"),
        ([], "not a chat completion"),
    ],
)
def test_an_error_or_an_empty_reply_is_a_failed_try(sent, reason):
    with pytest.raises(InvalidCompletionError, match=reason) as caught:
        read_completion(json.dumps(sent).encode()).reply(MOST, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "finish", "read"),
    [
        ({"content": None, "refusal": "I will not"}, "stop", ("", "stop", "I will not")),
        ({"content": [{"type": "refusal", "refusal": "I will not"}]}, "stop", ("", "stop", "I will not")),
        ({"content": ""}, "refusal", ("", "stop", "refused")),
        ({"content": ""}, "content_filter", ("", "content_filter", "")),
        ({"content": None, "reasoning": THOUGHTS}, "length", ("", "length", "")),
        ({"content": HARMONY.split("<|end|>")[0]}, "length", ("", "length", "")),
    ],
)
def test_a_reply_without_text_that_says_why_is_a_reply(message, finish, read):
    completion = read_completion(json.dumps(body(message, finish)).encode())
    assert (completion.text, completion.finish_reason, completion.refusal, completion.failure) == (*read, "")


def test_a_failed_try_tells_what_it_cost_where_the_usage_makes_sense():
    for usage, tokens in (((50, 0), (50, 0)), (None, None)):
        with pytest.raises(InvalidCompletionError) as caught:
            read_completion(json.dumps(body({"content": ""}, usage=usage)).encode()).reply(MOST, 1)
        assert caught.value.tokens == tokens


def test_text_that_only_looks_like_channels_stays():
    for text in ("analysis of Ann", f"Ann wrote: {HARMONY}" + "x" * 99, "the final channel"):
        late = f"{'x' * 99}{text}"
        assert read_completion(json.dumps(body({"content": late})).encode()).text == late


def test_channels_are_read_in_linear_time():
    read_completion(json.dumps(body({"content": "<|channel|>final" * 20_000})).encode())
    read_completion(json.dumps(body({"content": "analysis" + "assistantfin" * 20_000})).encode())


def test_what_an_earlier_version_kept_is_judged_alike():
    assert failure_of("", "error", "") and failure_of("", "stop", "") and failure_of("[]", "abort", "")
    assert not failure_of("[]", "", "") and not failure_of("", "MAX_TOKENS", "")


def test_a_completion_is_a_value():
    first, second = (read_completion(json.dumps(SERVERS["OpenAI"]).encode()) for _ in range(2))
    assert astuple(first) == astuple(second)
