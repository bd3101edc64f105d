"""What does a server do under hostile calls and connections? (a server and numbers -> what was seen, or a failure).

A failure tells seed, number and bytes: `hostile_call(seed, number)` or `attack(server, seed, number)` do it again.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hostile_calls import DEADLINE_S, KEPT, MARK, Call, hostile_call
from hostile_connections import Seen, attack, hold
from hostile_server import CALM_S, Server

from ffnsearch.v1 import admin_pb2, admin_pb2_grpc, ffnsearch_pb2_grpc
from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.answering.engine import Engine

README = Path(__file__).parents[2] / "service" / "README.md"
CALLERS, CONNECTIONS, ATTACKERS, HELD = 32, 4, 8, 40
RESPONSES_MAX = 8
"""Messages that are read from a stream before its caller leaves."""
FAILURES_MAX = 20
UNSENT = "Internal error from Core"
"""What our own side says of a message of a stream whose call the server has ended already."""
_SEEN_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_PROMPTS = ("the people", "And only l", "First Citizen:", [13, 52, 42])


@dataclass
class Tally:
    """What was sent and seen. codes: by kind, of calls. sent: by kind, of connections: frames, calls or streams."""

    codes: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    raw_codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Calls by a client of gRPC."""
        return sum(counter.total() for counter in self.codes.values())

    def require_none(self) -> None:
        """Fail where anything was not as it should be."""
        assert not self.failures, "\n".join([f"{len(self.failures)} failures", *self.failures[:FAILURES_MAX]])


def documented() -> dict[str, set[str]]:
    """Codes and their reasons, as the table of the README has them; codes of gRPC itself have none."""
    section = README.read_text().partition("## Reasons of refusals")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {"OK": set()}
    for codes, reasons in re.findall(r"^\| ([A-Z_, ]+?)(?: \(.*?\))? \| (.*) \|$", section, re.MULTILINE):
        for code in codes.split(", "):
            found.setdefault(code, set()).update(re.findall(r"`([A-Z0-9_]+)`", reasons))
    return found


def hostile_round(server: Server, tally: Tally, seed: int, calls: Sequence[int], attacks: Sequence[int]) -> None:
    """Make calls and attacks of these numbers at the same time, while some connections stay half open."""
    held = hold(server, HELD)
    with ThreadPoolExecutor(ATTACKERS) as attackers:
        seen = [attackers.submit(attack, server, seed, number) for number in attacks]
        asyncio.run(_call_all(server, tally, seed, calls))
        for number, one in zip(attacks, seen, strict=True):
            _count_attack(server, tally, one.result(), f"attack {seed} {number}")
    for connection in held:
        connection.close()


async def _call_all(server: Server, tally: Tally, seed: int, numbers: Iterable[int]) -> None:
    waiting = iter(numbers)
    channels = [server.channel() for _ in range(CONNECTIONS)]

    async def caller(channel: grpc.aio.Channel) -> None:
        for number in waiting:
            call = hostile_call(seed, number)
            try:
                code, error = await asyncio.wait_for(_made(server, channel, call), 2 * DEADLINE_S)
            except Exception as unexpected:
                code, error = "none", unexpected
            _count_call(server, tally, call, code, error, f"call {seed} {number}")

    await asyncio.gather(*(caller(channels[number % CONNECTIONS]) for number in range(CALLERS)))
    for channel in channels:
        await channel.close()


async def _made(server: Server, channel: grpc.aio.Channel, call: Call) -> tuple[str, BaseException | None]:
    """Name of the code with which a call ended, and its error."""
    has_own = any(name == "authorization" for name, _ in call.metadata)
    metadata = call.metadata if has_own else (*server.metadata, *call.metadata)
    options = {
        "timeout": call.deadline_s,
        "metadata": metadata,
        "compression": grpc.Compression.Gzip if call.is_gzip else None,
    }
    if call.is_stream:
        made = channel.stream_stream(call.method)(iter(call.requests), **options)
        work = _first(made)
    else:
        made = channel.unary_unary(call.method)(call.requests[0], **options)
        work = made
    if call.leave_s is not None:
        await asyncio.sleep(call.leave_s)
        made.cancel()
    try:
        await work
        return "OK", None
    except grpc.aio.AioRpcError as error:
        if error.details() == UNSENT:
            return "CANCELLED", None
        return error.code().name, error
    except asyncio.CancelledError:
        return "CANCELLED", None


async def _first(stream: grpc.aio.StreamStreamCall) -> None:
    """Read the first messages of a stream."""
    for _ in range(RESPONSES_MAX):
        if await stream.read() is grpc.aio.EOF:
            return
    stream.cancel()


_DOCUMENTED = documented()


def _count_call(server: Server, tally: Tally, call: Call, code: str, error: BaseException | None, number: str) -> None:
    reason = _reason(error)
    tally.codes.setdefault(call.kind, Counter())[code] += 1
    if reason:
        tally.reasons[reason] += 1
    wrong = _wrong(server, code, reason, str(error.details()) if isinstance(error, grpc.RpcError) else "")
    if isinstance(error, Exception) and not isinstance(error, grpc.RpcError):
        wrong = f"the client failed: {error!r}"
    if wrong:
        tally.failures.append(f"{number}: {wrong}: {code} {reason} {error}\n  {call.told()}")


def _count_attack(server: Server, tally: Tally, seen: Seen, number: str) -> None:
    tally.attacks[seen.kind] += 1
    tally.sent[seen.kind] += seen.sent
    names = [_SEEN_NAMES.get(code, str(code)) for code in seen.codes]
    tally.raw_codes.update(names)
    wrongs = [_wrong(server, name, "", seen.text.decode(errors="replace"), is_raw=True) for name in names or ["OK"]]
    tally.failures.extend(f"{number} ({seen.kind}): {wrong}: {seen.text[:2000]!r}" for wrong in wrongs if wrong)


def _wrong(server: Server, code: str, reason: str, text: str, *, is_raw: bool = False) -> str:
    """What must not be: a code or a reason that no table has, or an answer that tells what it must not."""
    if code not in _DOCUMENTED:
        return "a code that is not documented"
    if code == "INTERNAL" and (reason or not is_raw):
        return "an error of our own"
    if reason and reason not in _DOCUMENTED[code] and code != "FAILED_PRECONDITION":
        return "a reason that is not documented"
    return "the answer tells too much" if told(server, text) else ""


def told(server: Server, text: str) -> str:
    """What a text has that nobody is to be told; "" if nothing."""
    secrets = [str(server.root), "Traceback", "site-packages", '.py"', "/etc/ssl"]
    secrets += [server.secret] if server.secret else []
    return next((secret for secret in secrets if secret in text), "")


def _reason(error: BaseException | None) -> str:
    """ErrorInfo.reason of an error of ours, "" of one that gRPC itself has made."""
    try:
        status = rpc_status.from_call(error) if isinstance(error, grpc.RpcError) else None
    except ValueError:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return ""  # the caller's deadline passed while our error was being read: gRPC gives that code, our details
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
    return info.reason


def valid_answers(snapshot: Path) -> list[pb.PredictResponse]:
    """What the prompts of a valid caller have to be answered, from the snapshot itself."""
    with Engine.open(snapshot) as engine:
        return [_bare(engine.predict(request)) for request in _valid_requests()]


def _valid_requests() -> list[pb.PredictRequest]:
    prompts = [
        pb.Prompt(text=prompt) if isinstance(prompt, str) else pb.Prompt(tokens=pb.TokenIds(ids=prompt))
        for prompt in _PROMPTS
    ]
    everything = {"dense": True, "include_model": True, "include_frequencies": True}
    return [pb.PredictRequest(prompts=[prompt], **everything) for prompt in prompts] + [
        pb.PredictRequest(prompts=prompts, top_n=65)
    ]


def _bare(response: pb.PredictResponse) -> pb.PredictResponse:
    """Without what differs from call to call: times, and with how many others it was answered."""
    response.ClearField("timings")
    response.ClearField("batch_prompts")
    return response


async def ask(server: Server) -> list[pb.PredictResponse]:
    """What a valid caller is answered now."""
    async with server.channel() as channel:
        predict = ffnsearch_pb2_grpc.PredictionServiceStub(channel).Predict
        return [_bare(await predict(r, metadata=server.metadata, timeout=CALM_S)) for r in _valid_requests()]


async def tidy(server: Server) -> None:
    """Take back what administration was allowed to do: builds, aliases, and snapshots other than the first."""
    async with server.channel() as channel:
        admin, operations = admin_pb2_grpc.AdminServiceStub(channel), operations_pb2_grpc.OperationsStub(channel)
        options = {"metadata": server.metadata, "timeout": CALM_S}
        for _ in range(200):
            listed = await operations.ListOperations(operations_pb2.ListOperationsRequest(page_size=1000), **options)
            running = [operation for operation in listed.operations if not operation.done]
            if not running:
                break
            for operation in running:
                await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name), **options)
            await asyncio.sleep(0.1)
        for alias in (await admin.ListAliases(admin_pb2.ListAliasesRequest(page_size=1000), **options)).aliases:
            if alias.name not in KEPT:
                await admin.DeleteAlias(admin_pb2.DeleteAliasRequest(name=alias.name), **options)
        for one in (await admin.ListSnapshots(admin_pb2.ListSnapshotsRequest(page_size=1000), **options)).snapshots:
            if one.name not in KEPT:
                await admin.UnloadSnapshot(admin_pb2.UnloadSnapshotRequest(name=one.name), **options)


def check_log(server: Server) -> Counter[str]:
    """Lines of the log by level. Fails where one is no JSON, has a stack trace, a prompt, a path or a token."""
    levels: Counter[str] = Counter()
    text = server.log_text()
    assert not told(server, text), f"the log tells {told(server, text)!r}"
    assert MARK not in text, f"the log has a prompt: {text[max(0, text.index(MARK) - 300) :][:400]}"
    for line in server.log():
        assert "trace" not in line
        assert not str(line["message"]).startswith("internal error"), line
        levels[str(line["level"])] += 1
    return levels


__all__ = ["Tally", "ask", "check_log", "documented", "hostile_round", "tidy", "valid_answers"]
