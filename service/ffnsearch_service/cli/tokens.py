"""The subcommands `ffnsearch token`: make, list and revoke the tokens of a file."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffnsearch_indexer.cli import epilog
from ffnsearch_indexer.cli.options import AsJson

if TYPE_CHECKING:
    from ffnsearch_service.security.tokens import Token

TokensFile = Annotated[Path, typer.Argument(help="The file that the server is given.", metavar="TOKENS_FILE")]


def register_tokens(app: typer.Typer) -> None:
    """Add `token` and its subcommands to an app."""
    group = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Make, list and revoke tokens for callers.")
    group.command(
        "create",
        epilog=epilog(
            [
                "token create --scope read --name website tokens.toml",
                "token create --scope admin --name nightly --days 90 tokens.toml | install -m 600 /dev/stdin a.token",
            ]
        ),
    )(create_token)
    group.command("list", epilog=epilog(["token list tokens.toml", "token list tokens.toml --json"]))(list_tokens)
    group.command("revoke", epilog=epilog(["token revoke website tokens.toml"]))(revoke_token)
    app.add_typer(group, name="token")


def create_token(
    tokens_file: TokensFile,
    name: Annotated[
        str, typer.Option(help="Whose it is: shown in the log, and used to revoke it.", show_default=False)
    ],
    scope: Annotated[
        list[str], typer.Option(help="What it allows: read, or admin; repeated for both.", show_default=False)
    ],
    days: Annotated[
        int | None, typer.Option(help="Days until it expires.", min=1, max=36500, show_default="never")
    ] = None,
) -> None:
    """Make a token and print it, once: the file gets its hash alone. A running server takes it at once."""
    from ffnsearch_service.security import token_edits, tokens

    secret = tokens.new_secret()
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    token_edits.add_token(tokens_file, tokens.new_token(name, scope, secret, expires))
    print(secret)
    print(f"token {name!r} is in {tokens_file}; this is the only time that it is shown", file=sys.stderr)


def list_tokens(tokens_file: TokensFile, as_json: AsJson = False) -> None:
    """List the tokens of a file: names, scopes and times. The tokens themselves are stored nowhere."""
    from ffnsearch_service.security.tokens import load_tokens
    from ffnsearch_service.show.tables import Table, print_table

    tokens = load_tokens(tokens_file)
    if as_json:
        from ffnsearch_service.show.as_json import print_json

        print_json([_shown(token) for token in tokens])
    else:
        rows = [
            (shown["name"], " ".join(shown["scopes"]), shown["created"], shown["expires"] or "never")
            for shown in map(_shown, tokens)
        ]
        print_table(Table(("name", "scopes", "created", "expires"), rows))


def revoke_token(
    name: Annotated[str, typer.Argument(help="The token's name.", show_default=False)], tokens_file: TokensFile
) -> None:
    """Take a token out of a file. A running server refuses it at once, and ends its streams."""
    from ffnsearch_service.security import token_edits

    token_edits.revoke_token(tokens_file, name)


def _shown(token: "Token") -> dict[str, Any]:
    """What there is to see of a token; times in UTC."""
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "created": _time(token.created),
        "expires": None if token.expires is None else _time(token.expires),
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
