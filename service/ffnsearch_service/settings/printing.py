"""Which settings are there, and why are they as they are? (`config.py` -> a TOML file with comments).

A reason stands once, in the comment beside its field, for whoever reads the code and whoever reads the file.
"""

import inspect
import io
import json
import tokenize
from functools import cache
from typing import Any

from ffnsearch_service.settings.schema import sections, settings

_HEAD = """\
# Settings of `ffnsearch serve --config FILE`. What is commented out has the value that is shown, `...` for none.
# The environment wins over this file: FFNSEARCH_SERVER_PORT=50052 sets port below [server], and so on.
# Flags win over both: --port 50052, or --set server.port=50052 for any of them.

# The snapshots to open, by name; FFNSEARCH_SNAPSHOTS=NAME=PATH,... in the environment.
[snapshots]
# shakespeare = "/path/to/shakespeare.ffn"

# Other names for them; `default` is what a request without a name means: the first one unless it is said here.
[aliases]
# default = "shakespeare"
"""


def default_toml() -> str:
    """A TOML file with every setting, its default and its reason; read back, it changes nothing."""
    return "\n".join([_HEAD, *(_section(name, owner) for name, owner in sections().items())])


@cache
def reasons(owner: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, by the field's name, from its source."""
    found: dict[str, str] = {}
    field = ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(owner)).readline):
        if token.type == tokenize.NAME and token.string in owner.__annotations__ and token.line.startswith("    "):
            field = token.string if token.start[1] == 4 else field
        elif token.type == tokenize.COMMENT and field:
            found.setdefault(field, token.string.removeprefix("#").strip())
        elif token.type == tokenize.NEWLINE:
            field = ""
    return found


def toml(value: Any) -> str:
    """A value as TOML writes it: JSON's strings are TOML's too. An absent value, which TOML cannot write, is `...`."""
    if value is None:
        return "..."
    return json.dumps(value) if isinstance(value, (bool, int, float)) else json.dumps(str(value), ensure_ascii=False)


def _section(name: str, owner: type) -> str:
    why = reasons(owner)
    entries = [
        (f"# {one.field} = {toml(one.default)}", why[one.field]) for one in settings().values() if one.owner is owner
    ]
    width = max(len(entry) for entry, _ in entries)
    return "\n".join([f"[{name}]", *(f"{entry:<{width}}  # {reason}" for entry, reason in entries), ""])
