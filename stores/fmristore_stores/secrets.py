"""Texts without the secrets that URLs, options and the messages of clients hold."""

from __future__ import annotations

import re

__all__ = ["masked", "masked_url"]

_NAME = (
    r"(?:sig|signature|token|secret|passw(?:or)?d|credentials?|sas|auth|authorization"
    r"|(?:api|account|access|access_?key|awsaccess|shared_?access|secret_?access|security)_?-?key"
    r"(?:_?id)?|key)"
)
_USER = re.compile(r"(?i)((?:https?|ftp|sftp|ssh|webdavs?)(?:\+\w+)?://)[^/?#\s'\"]+@")
_PASSWORD = re.compile(r"(://[^/?#\s:@'\"]*):[^/?#\s'\"]+@")
_QUERY = re.compile(rf"(?i)([?&;#](?:[\w.-]*[_.-]|rl|resource)?{_NAME}=)[^&;#\s'\"<>)]+")
_OPTION = re.compile(
    r"(?i)((?:\b|_)(?:access_?|account_?|secret_?|sas_?|session_?|bearer_?|api_?|refresh_?|shared)*"
    r"(?:token|secret|password|passwd|signature|accountkey|account_key|api_?key|secret_?key)"
    r"['\"]?\s*[=:]\s*['\"]?)(?!\*\*\*)[^\s&;,'\"<>)}]+"
)
_BEARER = re.compile(r"(?i)(\bBearer\s+)[\w.~+/=-]{8,}")


def masked(text: str) -> str:
    """Text in which ``***`` stands for passwords, tokens and signatures.

    Examples
    --------
    >>> masked("https://me:pw@host/a.h5?sig=abc&dl=1")
    'https://***@host/a.h5?sig=***&dl=1'
    """
    if "=" in text or "@" in text or ":" in text or "earer" in text:
        text = _USER.sub(r"\1***@", text)
        text = _PASSWORD.sub(r"\1:***@", text)
        text = _QUERY.sub(r"\1***", text)
        text = _OPTION.sub(r"\1***", text)
        text = _BEARER.sub(r"\1***", text)
    return text


def masked_url(place: str) -> str:
    """Path or URL as `masked`; paths of files hold no secrets and stay as they are.

    Examples
    --------
    >>> masked_url("/data/token=5/a.h5"), masked_url("https://host/a.h5?token=5")
    ('/data/token=5/a.h5', 'https://host/a.h5?token=***')
    """
    return masked(place) if "://" in place else place
