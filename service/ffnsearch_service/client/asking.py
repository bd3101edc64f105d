"""How a caller's arguments become request messages."""

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, TypeVar, cast

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_service.errors import InvalidRequestError
from ffnsearch_service.profiles import profile_message

Message = TypeVar("Message")
PromptLike = str | Sequence[int]
"""A prompt: text, or token ids (a sequence or a NumPy array [T] of integers)."""


class PredictOptions(TypedDict, total=False):
    """Options of a prediction; what is left out takes the server's default.

    profile: name of one of the snapshot's profiles, or a Profile. exclude_self: leave the prompt's own substring out.
    top_n: most tokens listed. min_prob: least probability listed. dense: add whole distributions as arrays.
    include_model: add the model's own distribution and the Hellinger distance. include_frequencies: add the sums.
    include_contributions: add to each listed token of the answer what each block contributes. snapshot: name or alias.
    """

    profile: str | Profile | None
    exclude_self: bool
    top_n: int
    min_prob: float
    dense: bool
    include_model: bool
    include_frequencies: bool
    include_contributions: bool
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
    """A sequence of the prompts given. A text or a sequence of numbers is one prompt; an empty sequence is none."""
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], numbers.Number))
    several: Any = [prompts] if is_one else prompts
    return cast(Sequence[PromptLike], several)


def predict_request(prompts: Sequence[PromptLike], options: PredictOptions) -> pb.PredictRequest:
    """Ask for the answers to prompts. Raises InvalidRequestError for what no message can hold."""
    fields: dict[str, Any] = {name: value for name, value in options.items() if name != "profile"}
    profile = options.get("profile")
    if isinstance(profile, Profile):
        fields["profile"] = profile_message(profile, "")
    else:
        fields["profile_name"] = profile
    request = message(pb.PredictRequest, "options", **fields)
    request.prompts.extend(prompt_message(prompt, f"prompts[{row}]") for row, prompt in enumerate(prompts))
    return request


def neighbors_request(prompt: PromptLike, block: int, options: NeighborsOptions) -> pb.ListNeighborsRequest:
    """Ask for the neighbors of a prompt in one block. Raises InvalidRequestError for what no message can hold."""
    request = message(pb.ListNeighborsRequest, "options", block=block, **options)
    request.prompt.CopyFrom(prompt_message(prompt, "prompt"))
    return request


def classes_request(prompt: PromptLike, block: int, options: ClassesOptions) -> pb.ListClassesRequest:
    """Ask for the classes that explain these neighbors. Raises InvalidRequestError for what no message can hold."""
    request = message(pb.ListClassesRequest, "options", block=block, **options)
    request.prompt.CopyFrom(prompt_message(prompt, "prompt"))
    return request


def info_request(snapshot: str) -> pb.GetInfoRequest:
    """Ask what is served. Raises InvalidRequestError for a name that no message can hold."""
    return message(pb.GetInfoRequest, "options", snapshot=snapshot)


def prompt_message(prompt: PromptLike, field: str) -> pb.Prompt:
    """Write one prompt. Raises InvalidRequestError for lone surrogates, and for what is not token ids."""
    if isinstance(prompt, str):
        return message(pb.Prompt, f"{field}.text", text=prompt)
    if not isinstance(prompt, Iterable):
        raise InvalidRequestError(
            f"{field}: {prompt!r} is neither a text nor a sequence of token ids",
            code="INVALID_ARGUMENT",
            reason="INVALID_VALUE",
            field=field,
        )
    ids = message(pb.TokenIds, f"{field}.tokens", ids=[token for token in prompt])
    return pb.Prompt(tokens=ids)


def message(kind: Callable[..., Message], field: str, **fields: Any) -> Message:
    """Write a message. Raises InvalidRequestError, which names the field, for values that it cannot hold."""
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        if isinstance(error, UnicodeEncodeError):
            told = f" is no UTF-8, from character {error.start} on"
        else:
            told = f": {error}"
        raise InvalidRequestError(field + told, code="INVALID_ARGUMENT", reason="INVALID_VALUE", field=field) from None
