"""Checks of teachers: the key, and one request of one token, which counts for the budget."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import openai

from uniner.config.teachers import BatchTeacher, OpenAITeacher, RecordingTeacher
from uniner.errors import UserError
from uniner.preflight.results import CheckResult, ok, warning
from uniner.runtime.gate import Gate
from uniner.runtime.rate_limits import Meter, RateLimits, local_meter
from uniner.runtime.spending import SpendingFile
from uniner.storage.filesystem import explained
from uniner.storage.lease import hold_lease
from uniner.storage.stage_folder import StageFolder
from uniner.teacher.completion import Teacher, TeacherReply, most_tokens
from uniner.teacher.openai_client import OpenAIClient, OpenAIServer
from uniner.teacher.prompts import PROBE, Prompt
from uniner.teacher.replay_server import load_recording
from uniner.teacher.settings import check_budget, check_teacher, make_server, make_teacher
from uniner.teacher.spent import spent_usd

_LONGEST_WAIT_S = 60.0
_LENGTH = re.compile(r"max_(completion_|output_)?tokens|output limit", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TeacherBudget:
    """A budget, the setting that names it, and the stages that share it. The request counts for the first."""

    usd: float | None
    setting: str
    stages: tuple[StageFolder, ...]


def check_recording(section: RecordingTeacher, name: str = "teacher") -> Iterator[CheckResult]:
    """Check that a recording can be read. Nothing is asked."""
    yield ok(
        name, f"{section.path}: {len(load_recording(section.path)):,} recorded replies; nothing is asked"
    )


def check_server(
    section: OpenAITeacher | BatchTeacher, name: str, budget: TeacherBudget
) -> Iterator[CheckResult]:
    """Check that a server takes the key and has the model, by one request for one token.

    With a budget, the request is sent only if it cannot exceed it, and what it costs is written down.

    Raises:
        UserError: the key is missing, or the server does not answer.
    """
    check_teacher(section, name)
    check_budget(section, budget.usd, budget.setting, name)
    teacher = make_teacher(section, prompt=Prompt("", PROBE), temperature=0, max_reply_tokens=1)
    most_usd = teacher.usd(*most_tokens(teacher.request("")))
    spent = sum(map(spent_usd, budget.stages)) if budget.usd is not None else 0.0
    if budget.usd is not None and spent + most_usd > budget.usd:
        yield warning(
            name,
            f"{section.model} is not asked: a request may cost {_usd(most_usd)}, {spent:.6g} are spent, "
            f"and {budget.setting} is {budget.usd:g}; raise it to go on",
        )
        return
    server = replace(make_server(section, name), retries=0, timeout_s=min(section.timeout_s, _LONGEST_WAIT_S))
    try:
        with _meter(budget) as meter:
            reply = asyncio.run(_ask(teacher, server, meter))
    except UserError as refusal:
        if not _is_about_length(refusal.__cause__):
            raise
        # A model that thinks first needs more. Its server has taken the key and has the model.
        yield ok(name, f"answers that one token is too few ({refusal}), so the key and the model are right")
        return
    usd = teacher.usd(reply.tokens_in, reply.tokens_out)
    price = (
        f"cost {_usd(usd)}" if most_usd else "and no price is set, such as teacher.usd_per_million_in=0.15"
    )
    yield ok(
        name,
        f"{section.model} at {section.base_url or 'OpenAI'} answers; the request took {reply.tokens_in:,} + "
        f"{reply.tokens_out:,} tokens, {price}",
    )


@contextlib.contextmanager
def _meter(budget: TeacherBudget) -> Iterator[Meter]:
    """Yield a meter for the request. With a budget it writes down what is spent, as it does in a stage.

    Without a budget nothing is written: a run that has not begun gets no folder.
    """
    if budget.usd is None:
        yield Meter(RateLimits())
        return
    stage = budget.stages[0]
    with hold_lease(stage), explained(stage.url):
        spending = SpendingFile(stage)
        before = spending.read()
        meter = Meter(
            RateLimits(budget_usd=budget.usd, budget_setting=budget.setting),
            before,
            elsewhere_usd=sum(map(spent_usd, budget.stages)) - before,
            spending=spending,
        )
        try:
            yield meter
        finally:
            meter.finish("preflight has asked")


def _usd(amount: float) -> str:
    return f"{amount:.2g} USD" if amount >= 1e-4 else "less than 0.0001 USD"


def _is_about_length(refusal: BaseException | None) -> bool:
    """Tell whether a server refuses a request for the length of the reply that it allows."""
    if not isinstance(refusal, openai.APIStatusError):
        return False
    return refusal.status_code in (400, 422) and bool(_LENGTH.search(str(refusal)))


async def _ask(teacher: Teacher, server: OpenAIServer, meter: Meter) -> TeacherReply:
    gate = Gate(local_meter(meter))
    client = OpenAIClient(teacher, server, gate)
    try:
        reply, reservation = await client.ask_once(teacher.request(""))
        gate.settle(reservation, usd=teacher.usd(reply.tokens_in, reply.tokens_out))
        return reply
    finally:
        await gate.flush()
        await client.close()
