"""How a caller's arguments become request messages."""

import numbers
import reprlib
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as AnyMessage

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.errors import InvalidRequestError
from ffnsearch_service.profiles import profile_message

Message = TypeVar("Message", bound=AnyMessage)
PromptLike = str | Sequence[int] | Queries
"""A prompt: text, token ids (a sequence or a NumPy array [T] of integers), or queries in their place."""

BYTES = (bytes, bytearray, memoryview)
"""What could be taken for a text, or for token ids, and is neither."""

_NOT_HELD = (ValueError, TypeError, OverflowError)
"""What a message raises for a value that it cannot hold."""

_WHAT_IS_HELD = {
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_INT32: "a whole number from -2**31 up to 2**31 - 1",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 up to 2**32 - 1",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_STRING: "a text",
}


class PredictOptions(TypedDict, total=False):
    """Options of a prediction; what is left out takes the server's default.

    profile: name of one of the snapshot's profiles, or a Profile. exclude_self: leave the prompt's own substring out.
    top_n: most tokens listed. min_prob: least probability listed. dense: add whole distributions as arrays.
    include_model: add the model's own distribution and the Hellinger distance. include_frequencies: add the sums.
    include_contributions: add to each listed token of the answer what each block contributes. include_queries: add what
    was searched for. snapshot: name or alias.
    """

    profile: str | Profile | None
    exclude_self: bool
    top_n: int
    min_prob: float
    dense: bool
    include_model: bool
    include_frequencies: bool
    include_contributions: bool
    include_queries: bool
    snapshot: str


class SearchOptions(TypedDict, total=False):
    """Options of a search for neighbors in one block; what is left out takes the server's default.

    threshold: least score, exclusive; without it, the lowest of the block in `profile_name`. exclude_self: leave the
    prompt's own substring out. snapshot: name or alias.
    """

    threshold: float
    profile_name: str
    exclude_self: bool
    snapshot: str


class NeighborsOptions(SearchOptions, total=False):
    """Options of a list of neighbors, beside those of the search.

    page_size: neighbors a call. page_token: where to go on. context_tokens: how much to show around a place.
    places_max: places shown of each neighbor.
    """

    page_size: int
    page_token: str
    context_tokens: int
    places_max: int


class ClassesOptions(SearchOptions, total=False):
    """Options of a list of classes, beside those of the search.

    classes_max: most classes listed. min_share: least share of a class's members that are neighbors, in (0, 1].
    """

    classes_max: int
    min_share: float


def one_or_several(prompts: PromptLike | Sequence[PromptLike]) -> Sequence[PromptLike]:
    """A sequence of the prompts given. A text or a sequence of numbers is one prompt; an empty sequence is none.

    Raises InvalidRequestError for what is neither a prompt nor a sequence.
    """
    if isinstance(prompts, (str, Queries, *BYTES)):
        return cast(Sequence[PromptLike], [prompts])
    try:
        first: Any = prompts[0] if len(prompts) else None
    except (TypeError, LookupError):
        told = "give a text, token ids, Queries, or a list of these; predict_many takes any iterable"
        raise _refused("prompts", f": {reprlib.repr(prompts)} is neither a prompt nor a list: {told}") from None
    several: Any = [prompts] if isinstance(first, numbers.Number) else prompts
    return cast(Sequence[PromptLike], several)


def predict_request(prompts: Sequence[PromptLike], options: PredictOptions) -> pb.PredictRequest:
    """Ask for the answers to prompts. Raises InvalidRequestError for what no message can hold."""
    fields: dict[str, Any] = {name: value for name, value in options.items() if name != "profile"}
    profile = options.get("profile")
    if isinstance(profile, Profile):
        fields["profile"] = profile_message(profile, "")
    elif profile is None or isinstance(profile, str):
        fields["profile_name"] = profile
    else:
        raise _refused("profile", f": {reprlib.repr(profile)} is neither the name of a profile nor a Profile")
    request = message(pb.PredictRequest, **fields)
    request.prompts.extend(prompt_message(prompt, f"prompts[{row}]") for row, prompt in enumerate(prompts))
    return request


def neighbors_request(prompt: PromptLike, block: int, options: NeighborsOptions) -> pb.ListNeighborsRequest:
    """Ask for the neighbors of a prompt in one block. Raises InvalidRequestError for what no message can hold."""
    request = message(pb.ListNeighborsRequest, block=block, **options)
    request.prompt.CopyFrom(prompt_message(prompt, "prompt"))
    return request


def classes_request(prompt: PromptLike, block: int, options: ClassesOptions) -> pb.ListClassesRequest:
    """Ask for the classes that explain these neighbors. Raises InvalidRequestError for what no message can hold."""
    request = message(pb.ListClassesRequest, block=block, **options)
    request.prompt.CopyFrom(prompt_message(prompt, "prompt"))
    return request


def info_request(snapshot: str) -> pb.GetInfoRequest:
    """Ask what is served. Raises InvalidRequestError for a name that no message can hold."""
    return message(pb.GetInfoRequest, snapshot=snapshot)


def prompt_message(prompt: PromptLike, field: str) -> pb.Prompt:
    """Write one prompt. Raises InvalidRequestError for bytes, lone surrogates, and for what is not token ids."""
    if isinstance(prompt, str):
        return message(pb.Prompt, field, text=prompt)
    if isinstance(prompt, Queries):
        vectors = [b"" if vector is None else vector.astype("<f4").tobytes() for vector in prompt.blocks]
        return pb.Prompt(queries=pb.Queries(blocks=vectors))
    if isinstance(prompt, BYTES):
        raise _refused(field, f" is {type(prompt).__name__}, which is no text: .decode() it")
    try:
        ids = list(prompt)
    except TypeError:
        raise _refused(
            field, f": {reprlib.repr(prompt)} is no text, no Queries, and no sequence of token ids"
        ) from None
    try:
        return pb.Prompt(tokens=message(pb.TokenIds, f"{field}.tokens", ids=ids))
    except InvalidRequestError as error:
        if all(isinstance(token, numbers.Integral) for token in ids):
            raise
        raise _refused(error.field, error.message.removeprefix(error.field) + "; vectors go into Queries") from None


def message(kind: type[Message], within: str = "", **fields: Any) -> Message:
    """Write a message. Raises InvalidRequestError, which names the field, for values that it cannot hold.

    within: where the message itself stands, where it is part of another.
    """
    try:
        return kind(**fields)
    except _NOT_HELD:
        raise _field_refused(kind, within, fields) from None


def _field_refused(kind: type[Message], within: str, fields: dict[str, Any]) -> InvalidRequestError:
    """Say which field, or which entry of a list, cannot be held: the message itself does not tell."""
    known = kind.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        path = f"{within}.{name}" if within else name
        if name not in known:
            return _refused(path, ": there is no such option")
        entries = [(f"{path}[{row}]", [entry]) for row, entry in enumerate(value)] if isinstance(value, list) else []
        for place, tried in entries or [(path, value)]:
            try:
                kind(**{name: tried})
            except UnicodeEncodeError as error:
                return _refused(place, f" is no UTF-8, from character {error.start} on")
            except _NOT_HELD:
                shown = reprlib.repr(tried[0] if entries else tried)
                return _refused(place, f": {shown} is not {_WHAT_IS_HELD[known[name].cpp_type]}")
    raise AssertionError("one of the fields is at fault")


def _refused(field: str, told: str) -> InvalidRequestError:
    return InvalidRequestError(field + told, code="INVALID_ARGUMENT", reason="INVALID_VALUE", field=field)
