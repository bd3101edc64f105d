"""The commands `ffnsearch admin ADDRESS ...`: what an administrator does to a running server."""

from typing import TYPE_CHECKING, Annotated

import typer

from ffnsearch_indexer.cli.options import EXIT_INTERRUPTED, AsJson
from ffnsearch_service.cli.servers import ServerOptions, access_of, with_server_options
from ffnsearch_service.config import CALIBRATION_PROMPTS_DEFAULT, LOAD_TIMEOUT_S, WINDOW_TOKENS_DEFAULT
from ffnsearch_service.errors import RequestError, ServiceError
from ffnsearch_service.show.terminal import harmless

if TYPE_CHECKING:
    from ffnsearch_service.client.admin import AdminClient
    from ffnsearch_service.client.admin_results import BuildOperation

EXAMPLES = (
    "127.0.0.1:50051 list",
    "127.0.0.1:50051 build next --corpus plays --load",
    "127.0.0.1:50051 alias default next --gate parity:0.2",
    "127.0.0.1:50051 unload previous",
    "--ca-file ca.pem --token-file admin.token search.example:443 list",
)

Etag = Annotated[str, typer.Option(help="Refuse if the etag is no longer this one; `list` shows it.", metavar="ETAG")]
Name = Annotated[str, typer.Argument(help="Name of a snapshot.", show_default=False)]
Gate = Annotated[
    str,
    typer.Option(
        help="Refuse a snapshot whose recorded mean Hellinger distance is larger, for example parity:0.2; "
        "protocols: parity, leave-one-out, held-out.",
        metavar="PROTOCOL:MAX",
    ),
]
OperationName = Annotated[str, typer.Argument(help="Name of an operation.", metavar="OPERATION", show_default=False)]


def make_admin_app() -> typer.Typer:
    """The subcommands of `ffnsearch admin`."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog="\n".join(("\b", "Examples:", *(f"  ffnsearch admin {example}" for example in EXAMPLES))),
    )
    app.callback()(with_server_options(admin, without=("snapshot",)))
    for command in (load, unload, alias, build, operations, cancel):
        app.command()(command)
    app.command("list")(list_all)
    return app


def admin(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="HOST:PORT of a server.", show_default=False)],
    server: ServerOptions,
) -> None:
    """Give a running server other snapshots: load, unload, move aliases, build. Its options go before the address."""
    from ffnsearch_service.client.admin import AdminClient

    context.obj = context.with_resource(AdminClient(address, timeout_s=server.timeout_s, **access_of(server)))


def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List the snapshots and the aliases that point to them."""
    from ffnsearch_service.show import admin as show_admin
    from ffnsearch_service.show.as_json import print_json

    client: AdminClient = context.obj
    snapshots, aliases = tuple(client.snapshots()), tuple(client.aliases())
    if as_json:
        print_json({"snapshots": snapshots, "aliases": aliases})
    else:
        show_admin.print_snapshots(snapshots, aliases)


def load(
    context: typer.Context,
    name: Name,
    folder: Annotated[
        str, typer.Option(help="Its folder below the one that the operator allows.", show_default="its name")
    ] = "",
    timeout_s: Annotated[float, typer.Option(help="Seconds that the load may take.", min=0.001)] = LOAD_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Open a snapshot beside those that are open."""
    from ffnsearch_service.show.as_json import print_json

    client: AdminClient = context.obj
    loaded = client.load(name, folder, timeout_s=timeout_s)
    if as_json:
        print_json(loaded)
    else:
        id_ = harmless(loaded.info["id"][:12])
        print(f"loaded {name}: snapshot {id_}, {loaded.info['substrings']:,} substrings")


def unload(context: typer.Context, name: Name, etag: Etag = "") -> None:
    """Close a snapshot, once the requests that it is answering have ended."""
    client: AdminClient = context.obj
    client.unload(name, etag=etag)
    print(f"unloaded {name}")


def alias(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the alias.", show_default=False)],
    snapshot: Annotated[str, typer.Argument(help="The snapshot that it is to point to.", show_default=False)] = "",
    create: Annotated[bool, typer.Option("--create", help="Make the alias where there is none.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the alias.")] = False,
    gate: Gate = "",
    etag: Etag = "",
    as_json: AsJson = False,
) -> None:
    """Let an alias point to another snapshot, in one step, or delete it."""
    from ffnsearch_service.show.as_json import print_json

    client: AdminClient = context.obj
    if bool(snapshot) == delete:
        raise RequestError("name the snapshot that the alias is to point to, or give --delete: one of the two")
    if delete:
        client.delete_alias(name, etag=etag)
        _print_deleted(name, as_json)
        return
    moved = client.move_alias(name, snapshot, etag=etag, allow_missing=create, gate=_gate(gate))
    if as_json:
        print_json(moved)
    else:
        print(harmless(f"{moved.name} points to {moved.snapshot_name}"))


def build(
    context: typer.Context,
    name: Name,
    corpus: Annotated[
        str,
        typer.Option(help="A text or a folder of texts below the one that the operator allows.", show_default=False),
    ],
    model: Annotated[
        str, typer.Option(help="A model below the folder that the operator allows.", show_default="the reference model")
    ] = "",
    window_tokens: Annotated[
        int | None,
        typer.Option(help="Length of a substring, in tokens.", min=1, show_default=str(WINDOW_TOKENS_DEFAULT)),
    ] = None,
    split: Annotated[str, typer.Option(help="Index `all` of the text, or `train`, its first nine tenths.")] = "all",
    calibration_prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts for a calibration; fewer than 50 for none.",
            min=0,
            show_default=str(CALIBRATION_PROMPTS_DEFAULT),
        ),
    ] = None,
    evaluation_prompts: Annotated[
        int, typer.Option(help="Prompts to measure its default profile with in the end; 0 for none.", min=0)
    ] = 0,
    load: Annotated[bool, typer.Option("--load", help="Open the snapshot when it is built.")] = False,
    alias: Annotated[str, typer.Option(help="Then let this alias point to it; takes --load.")] = "",
    gate: Gate = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build a snapshot on the server, or go on with one; Ctrl-C stops following it, `cancel` stops it."""
    client: AdminClient = context.obj
    begun = client.build(
        name,
        corpus,
        model=model,
        window_tokens=window_tokens or 0,
        split=split,
        calibration_prompts=calibration_prompts,
        evaluation_prompts=evaluation_prompts,
        load=load,
        alias=alias,
        gate=_gate(gate),
    )
    _print_build(_follow(client, begun) if wait else begun, as_json)


def operations(
    context: typer.Context,
    delete: Annotated[str, typer.Option(help="Forget one that has ended, and what it left.", metavar="OPERATION")] = "",
    as_json: AsJson = False,
) -> None:
    """List the builds, oldest first."""
    from ffnsearch_service.show import admin as show_admin
    from ffnsearch_service.show.as_json import print_json

    client: AdminClient = context.obj
    if delete:
        client.delete_operation(delete)
        _print_deleted(delete, as_json)
        return
    found = tuple(client.operations())
    (print_json if as_json else show_admin.print_operations)(found)


def cancel(context: typer.Context, name: OperationName) -> None:
    """Stop a build; what is done is kept, and the same build goes on from there."""
    client: AdminClient = context.obj
    client.cancel(name)
    print(f"cancelled {name}")


def _follow(client: "AdminClient", begun: "BuildOperation") -> "BuildOperation":
    from ffnsearch_indexer.console import ProgressDisplay

    shown = begun

    def show(now: "BuildOperation") -> None:
        nonlocal shown
        if now.stage != shown.stage:  # it may have ended between two looks
            display(harmless(shown.stage), max(1, shown.units_total), max(1, shown.units_total))
        display(harmless(now.stage), now.units_done, max(1, now.units_total))
        shown = now

    try:
        with ProgressDisplay() as display:
            return client.wait(begun.name, on_progress=show)
    except KeyboardInterrupt:
        typer.echo(
            f"{begun.name} goes on: the same command follows it again, `operations` lists it, "
            f"`cancel {begun.name}` stops it",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _print_build(operation: "BuildOperation", as_json: bool) -> None:
    from ffnsearch_service.show.as_json import print_json

    if error := operation.error:
        raise ServiceError(error.message, code=error.code, reason=error.reason, metadata=error.metadata)
    if as_json:
        print_json(operation)
    elif operation.result:
        print(harmless(f"built {operation.result.name}: {operation.result.substrings:,} substrings"))
    else:
        print(harmless(f"{operation.name} builds {operation.snapshot_name}"))


def _print_deleted(name: str, as_json: bool) -> None:
    from ffnsearch_service.show.as_json import print_json

    if as_json:
        print_json({"deleted": name})
    else:
        print(f"deleted {name}")


def _gate(text: str) -> tuple[str, float] | None:
    if not text:
        return None
    protocol, _, bound = text.partition(":")
    try:
        return protocol.replace("-", "_"), float(bound)
    except ValueError:
        raise RequestError(f"--gate {text}: write PROTOCOL:MAX, for example parity:0.2") from None
