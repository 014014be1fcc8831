"""Redaction of the environment variables that a config reads by `${oc.env:NAME}`."""

import json
import os
import re

_variables: dict[str, str] = {}
"""Secret texts and the names of their variables."""

NO_SECRETS = ("true", "false", "null", "none", "auto", "yes", "no", "on", "off")
"""Common values of settings, which are not secret; redacting them would make messages unreadable."""

MIN_LENGTH = 4  # shorter values occur in any text, so they are replaced only as whole words


def record_environment() -> None:
    """Record each variable that a config reads from now on; forget earlier ones."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def read(name: str, *default: object) -> object:
        value = oc.env(name, *default)
        if name in os.environ:
            record(name, os.environ[name])
        return value

    _variables.clear()
    OmegaConf.register_new_resolver("oc.env", read, replace=True)


def record(name: str, value: str) -> None:
    """Redact the value of the variable `name` from now on, and its lines, file name and list entries."""
    parts = [value, os.path.normpath(value), *value.splitlines()]
    if not (file_name := os.path.basename(value)).isalpha():  # a plain word, such as data, occurs in any text
        parts.append(file_name)
    if value.lstrip().startswith(("[", "{")):  # oc.decode parses these into entries
        parts += re.split(r"[\s,:'\"\[\]{}]+", value)
    for part in parts:
        if (part == value or len(part) >= MIN_LENGTH) and part.strip() and part.lower() not in NO_SECRETS:
            for form in (part, part.strip(), repr(part)[1:-1], json.dumps(part)[1:-1]):
                _variables.setdefault(form, name)


def redact(text: str) -> str:
    """Return the text with `${oc.env:NAME}` in place of the values of variables that the config has read.

    Example:
        >>> record("MY_TOKEN", "hunter2")
        >>> redact("Cannot log in with 'hunter2'.")
        "Cannot log in with '${oc.env:MY_TOKEN}'."
    """
    for value in sorted(_variables, key=len, reverse=True):  # longest first: one value may be part of another
        pattern = re.escape(value)
        if len(value) == 1 or (len(value) < MIN_LENGTH and value.isdecimal()):
            pattern = rf"(?<=['\"]){pattern}(?=['\"])"
        elif len(value) < MIN_LENGTH:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        replacement = f"${{oc.env:{_variables[value]}}}"
        text = re.sub(pattern, lambda _, replacement=replacement: replacement, text)  # type: ignore[misc]
    return text
