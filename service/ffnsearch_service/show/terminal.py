"""How text that somebody else wrote is shown: a terminal must not obey it, and a person must see every character."""


def harmless(text: str) -> str:
    """The same text, with characters that are not printed, line ends among them, as backslash escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str) -> str:
    """Show a text on one line, in quotes; spaces stay."""
    return '"' + harmless(text.replace("\\", "\\\\")) + '"'


def visible(text: str) -> str:
    """Show a token so that every character can be seen."""
    return quoted(text)[1:-1].replace(" ", "␠")
