"""Which options have all subcommands that may call a server, and how is their target opened?"""

import functools
import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffnsearch_indexer.cli.options import check
from ffnsearch_service.config import CALL_TIMEOUT_S, TOKEN_VARIABLE
from ffnsearch_service.errors import AddressError, RequestError

if TYPE_CHECKING:
    from ffnsearch_service.client.channel import AccessOptions
    from ffnsearch_service.client.interface import Calls

Target = Annotated[str, typer.Argument(help="A snapshot directory, or HOST:PORT of a server.", show_default=False)]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "snapshot": (
        Annotated[str, typer.Option(help="Of a server: name or alias of the snapshot to ask.", show_default="default")],
        "",
    ),
    "timeout_s": (
        Annotated[
            float | None,
            typer.Option(
                help="Seconds that a call to a server may take.", min=0.001, show_default=f"{CALL_TIMEOUT_S:g}"
            ),
        ],
        None,
    ),
    "tls": (Annotated[bool, typer.Option("--tls", help="Encrypt, and trust public certificate authorities.")], False),
    "ca_file": (
        Annotated[Path | None, typer.Option(help="Encrypt, and trust the authorities in this PEM file.")],
        None,
    ),
    "certificate_file": (
        Annotated[Path | None, typer.Option(help="PEM certificate to show to the server (mutual TLS).")],
        None,
    ),
    "key_file": (Annotated[Path | None, typer.Option(help="PEM key of that certificate.")], None),
    "token_file": (
        Annotated[Path | None, typer.Option(help=f"File with a bearer token. ${TOKEN_VARIABLE} may hold one instead.")],
        None,
    ),
    "insecure_token": (
        Annotated[bool, typer.Option("--insecure-token", help="Send the token unencrypted to another machine.")],
        False,
    ),
}
_NOT_ACCESS = ("snapshot", "timeout_s")


@dataclass(frozen=True)
class ServerOptions:
    """How to call a server. snapshot: name or alias, empty for the default. timeout_s: of a call.

    given: the options that were given, by name.
    """

    snapshot: str
    timeout_s: float
    access: "AccessOptions"
    given: Mapping[str, object]


def with_server_options(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """Give a subcommand the options of a server, `without` some, in place of its parameter `server`, a ServerOptions.

    An option that is left out keeps its default.
    """
    signature = inspect.signature(command)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "server"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
        if name not in without
    ]

    @functools.wraps(command)
    def with_server(**arguments: Any) -> None:
        said = {name: arguments.pop(name, default) for name, (_, default) in _OPTIONS.items()}
        given = {name: value for name, value in said.items() if value}
        access: Any = {name: value for name, value in given.items() if name not in _NOT_ACCESS}
        server = ServerOptions(said["snapshot"], said["timeout_s"] or CALL_TIMEOUT_S, access, given)
        command(**arguments, server=server)

    with_server.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    return with_server


def is_directory(target: str) -> bool:
    """Whether the target is a snapshot directory rather than an address. Raises AddressError where it is neither."""
    if os.path.isdir(target):
        return True
    from ffnsearch_service.client.channel import is_address

    if not is_address(target):
        raise AddressError(
            f"there is no snapshot at {target}: give the directory of one, or HOST:PORT of a server",
            reason="TARGET_NOT_FOUND",
        )
    return False


def open_target(
    target: str,
    server: ServerOptions,
    *,
    skip_verify: bool = False,
    sizes_only: bool = False,
    backend: str = "auto",
    device: str = "auto",
    retry_overloaded: bool = False,
) -> "Calls":
    """Open a snapshot directory in this process, or call a server.

    skip_verify: the option of this name, which is for directories alone. sizes_only: of a directory, look at the sizes
    of its files alone. retry_overloaded: come back when a server is busy. Raises AddressError, CredentialsError,
    SnapshotError, BackendError.
    """
    if is_directory(target):
        refuse_server_options(target, server)
        from ffnsearch_indexer.console import ProgressDisplay
        from ffnsearch_service.client.local import LocalClient

        with ProgressDisplay(passing=True) as display:
            return LocalClient.open(
                Path(target), backend=backend, device=device, check=check(skip_verify or sizes_only), progress=display
            )
    of_snapshot = {
        "--backend": None if backend == "auto" else backend,
        "--device": None if device == "auto" else device,
        "--skip-verify": skip_verify or None,
    }
    refuse_given(of_snapshot, f"is for a snapshot directory, and {target} is a server")
    from ffnsearch_service.client import Client

    return Client(target, timeout_s=server.timeout_s, retry_overloaded=retry_overloaded, **access_of(server))


def access_of(server: ServerOptions) -> "AccessOptions":
    """How the server is reached; without a token file, the token is that of the environment."""
    token = os.environ.get(TOKEN_VARIABLE)
    return server.access if "token_file" in server.access or not token else {**server.access, "token": token}


def refuse_server_options(target: str, server: ServerOptions) -> None:
    """Raise RequestError for an option that has no meaning for a snapshot directory."""
    given = {f"--{name.replace('_', '-')}": value for name, value in server.given.items()}
    refuse_given(given, f"is for calling a server, and {target} is a directory")


def refuse_given(options: Mapping[str, object], why: str) -> None:
    """Raise RequestError for the first option, by its name, that is not None."""
    for name, value in options.items():
        if value is not None:
            raise RequestError(f"{name} {why}: leave it out")
