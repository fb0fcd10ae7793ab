"""Random values, drawn from the operating system once and kept in the state."""

from __future__ import annotations

import base64
import secrets
import string

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

_SPECIAL = "!@#$%&*()-_=+[]{}<>:?"


def connect(configuration: Properties) -> None:
    """There is nothing to connect to."""


def _password(api: None, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    classes = {
        "lower": (string.ascii_lowercase, "minLower"),
        "upper": (string.ascii_uppercase, "minUpper"),
        "numeric": (string.digits, "minNumeric"),
        "special": (inputs.get("overrideSpecial") or _SPECIAL, "minSpecial"),
    }
    numeric = inputs.get("numeric", inputs.get("number", True))
    wanted = {name: inputs.get(name, True) for name in classes} | {"numeric": numeric}
    alphabet = "".join(letters for name, (letters, _) in classes.items() if wanted[name])
    drawn = [
        secrets.choice(letters)
        for letters, minimum in classes.values()
        for _ in range(inputs.get(minimum, 0))
    ]
    if not alphabet or len(drawn) > inputs["length"]:
        raise OfflineError(
            f"a password of length {inputs['length']} cannot have the characters that are asked for"
        )
    drawn += [secrets.choice(alphabet) for _ in range(inputs["length"] - len(drawn))]
    secrets.SystemRandom().shuffle(drawn)
    return "none", {"result": "".join(drawn)}


def _id(api: None, request: Request) -> tuple[str, Properties]:
    value = secrets.token_bytes(request.inputs["byteLength"])
    prefix = request.inputs.get("prefix", "")
    url_safe = base64.urlsafe_b64encode(value).decode().rstrip("=")
    return url_safe, {
        "b64Std": prefix + base64.b64encode(value).decode(),
        "b64Url": prefix + url_safe,
        "dec": f"{prefix}{int.from_bytes(value)}",
        "hex": prefix + value.hex(),
    }


def _bytes(api: None, request: Request) -> tuple[str, Properties]:
    value = secrets.token_bytes(request.inputs["length"])
    return "none", {"base64": base64.b64encode(value).decode(), "hex": value.hex()}


def _keep(api: None, identity: str, state: Properties) -> Properties:
    return {}


def _forget(api: None, identity: str, state: Properties) -> None:
    return None


TYPES = {
    "random:index/randomPassword:RandomPassword": ResourceType(
        create=_password, read=_keep, delete=_forget, secrets=("result",)
    ),
    "random:index/randomId:RandomId": ResourceType(create=_id, read=_keep, delete=_forget),
    "random:index/randomBytes:RandomBytes": ResourceType(
        create=_bytes, read=_keep, delete=_forget, secrets=("base64", "hex")
    ),
}
