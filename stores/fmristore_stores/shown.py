"""Text of unknown origin on its way to people: nothing in it steers a terminal."""

from __future__ import annotations

from fmristore_stores.secrets import masked_url

__all__ = ["shown", "shown_lines", "shown_url"]


def shown(text: object, most: int | None = None) -> str:
    r"""Text on one line, everything that is not printable escaped as in Python.

    Escaped are control characters (ESC, line feeds, C1), marks that change the direction of
    writing, lone surrogates and other characters without a shape.

    Parameters
    ----------
    text : object
        Taken as ``str``.
    most : int, optional
        Characters of the result; longer ones are cut and end in ``...``.

    Examples
    --------
    >>> shown("plain"), shown("red \x1b[31m")
    ('plain', 'red \\x1b[31m')
    """
    found = str(text)
    if not found.isprintable():
        found = "".join(c if c.isprintable() else repr(c)[1:-1] for c in found)
    return found if most is None or len(found) <= most else f"{found[: most - 3]}..."


def shown_lines(text: object) -> str:
    r"""As `shown`, for text of our own that has several lines: its line feeds stay.

    Examples
    --------
    >>> shown_lines("one\ntwo\r")
    'one\ntwo\\r'
    """
    return "\n".join(map(shown, str(text).split("\n")))


def shown_url(url: object, most: int | None = None) -> str:
    """Path or URL as `shown`, without the passwords, tokens and signatures in it.

    Examples
    --------
    >>> shown_url("https://me:pw@host/a.h5?sig=abc")
    'https://***@host/a.h5?sig=***'
    """
    return shown(masked_url(str(url)), most)
