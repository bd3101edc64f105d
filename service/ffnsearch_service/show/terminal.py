"""What is shown of text that somebody else wrote: a terminal must not obey it."""


def harmless(text: str) -> str:
    """The same text, with characters that are not printed, line ends among them, as backslash escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
