"""Verifying tokens: JWTs by their signature, static tokens by their digest.

PyJWT does the cryptography. A key verifies one algorithm only, which the options name
and never the token, and public keys come in a JWKS (RFC 7517), so that none of them can
be mistaken for a shared secret.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from oip_handler.errors import InvalidToken
from oip_host.auth.scopes import (
    Principal,
    Rights,
    find_scope_faults,
    parse_claims,
    parse_scopes,
)

__all__ = [
    "ALGORITHMS",
    "SHARED",
    "JwtRules",
    "Key",
    "StaticToken",
    "find_static_principal",
    "make_shared_keys",
    "parse_jwks",
    "parse_static_tokens",
    "verify_jwt",
]

log = logging.getLogger("oip_host")

SHARED = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Algorithms with a shared secret, and its minimum bytes (RFC 7518, 3.2)."""
_KINDS = {
    **dict.fromkeys(
        ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")
    ),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Algorithms with a public key: its `kty`, and its `crv` if it has one."""
ALGORITHMS = (*SHARED, *_KINDS)
MIN_RSA_BITS = 2048


@dataclass(frozen=True)
class Key:
    """A key that verifies the signatures of one algorithm."""

    algorithm: str
    key: Any = field(repr=False)
    id: str | None = None


@dataclass(frozen=True)
class JwtRules:
    """The required claims of a JWT, and the rights of one without scopes."""

    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 0.0
    default: Rights = frozenset()


def make_shared_keys(secret: bytes, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """Return a key for each algorithm; raises ValueError for too short a secret."""
    for algorithm in algorithms:
        if len(secret) < SHARED[algorithm]:
            raise ValueError(
                f"found a secret of {len(secret)} bytes, expected "
                f"{SHARED[algorithm]} or more for {algorithm}"
            )
    return tuple(Key(algorithm, secret) for algorithm in algorithms)


def parse_jwks(document: bytes, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """Return the keys of a JWKS for these algorithms; raises ValueError if none."""
    try:
        entries = orjson.loads(document)["keys"]
        keys = [key for entry in entries for key in _parse_jwk(entry, algorithms)]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise ValueError('found no JWKS, expected {"keys": [...]}') from None
    if not keys:
        raise ValueError(f"found no key for {', '.join(algorithms)}")
    return tuple(keys)


def _parse_jwk(entry: Mapping[str, Any], algorithms: Sequence[str]) -> list[Key]:
    """Return a key for each algorithm that a JWK fits.

    Raises ValueError for a JWK that must not be in a JWKS.
    """
    from jwt import PyJWK, PyJWTError

    label = f"the key {entry.get('kid')!r}"
    if entry.get("kty") == "oct" or "d" in entry:
        raise ValueError(f"{label} is secret, expected public keys only")
    if entry.get("use", "sig") != "sig":
        return []
    keys = []
    for name in algorithms:
        if _fits(entry, name):
            try:
                key = PyJWK(dict(entry), name).key
            except (PyJWTError, ValueError) as error:
                raise ValueError(f"could not read {label}: {error}") from None
            bits = getattr(key, "key_size", MIN_RSA_BITS)
            if entry["kty"] == "RSA" and bits < MIN_RSA_BITS:
                raise ValueError(
                    f"{label} has {bits} bits, expected {MIN_RSA_BITS} or more"
                )
            keys.append(Key(name, key, entry.get("kid")))
    return keys


def _fits(entry: Mapping[str, Any], algorithm: str) -> bool:
    kind = entry.get("kty"), entry.get("crv", "")
    return kind == _KINDS[algorithm] and entry.get("alg", algorithm) == algorithm


def verify_jwt(
    token: str, keys: Sequence[Key], rules: JwtRules
) -> tuple[Principal, float]:
    """Return the bearer of a JWT, and when it expires, in seconds since 1970.

    Raises InvalidToken, whose text reveals only whether the time is the reason.
    """
    import jwt

    try:
        claims = _decode(token, keys, rules)
        name = str(claims.get("sub") or claims.get("client_id") or "without a name")
        principal = Principal(name, parse_claims(claims, rules.default))
        return principal, float(claims["exp"]) + rules.leeway_s
    except jwt.ExpiredSignatureError:
        raise InvalidToken("the token has expired") from None
    except jwt.ImmatureSignatureError:
        raise InvalidToken("the token is not valid yet") from None
    except Exception as error:  # whatever a token does to a parser, it is no pass
        log.debug("rejected a token: %s: %s", type(error).__name__, error)
        raise InvalidToken("the token is not valid") from None


def _decode(token: str, keys: Sequence[Key], rules: JwtRules) -> dict[str, Any]:
    """Return the claims of a JWT that a key has signed and the rules allow."""
    import jwt

    header = jwt.get_unverified_header(token)
    if "crit" in header:  # extensions that must be understood: there are none here
        raise jwt.InvalidTokenError("crit")
    key_id = header.get("kid")
    for key in keys:
        fits = key_id is None or key.id is None or key.id == key_id
        if not fits or key.algorithm != header["alg"]:
            continue
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=rules.leeway_s,
                options={
                    "require": ["exp"],
                    "verify_aud": rules.audience is not None,
                    "verify_iss": rules.issuer is not None,
                },
            )
        except jwt.InvalidSignatureError:
            continue
    raise jwt.InvalidTokenError("no key has signed it")


class StaticToken(BaseModel):
    """An operator's token, of which only the SHA-256 is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    scopes: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """The 32 bytes of the SHA-256."""
        return bytes.fromhex(self.sha256)


def parse_static_tokens(document: bytes) -> tuple[tuple[bytes, Principal], ...]:
    """Return the principals in a file of static tokens, each with its token's digest.

    Raises ValueError with each fault, but never with a digest: it may be a token that
    was put there by mistake.
    """
    try:
        tokens = _FILE.validate_json(document)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from None
    wrong = [
        line for token in tokens for line in find_scope_faults(token.scopes, token.name)
    ]
    if len({token.digest for token in tokens}) < len(tokens):
        wrong.append("found one sha256 twice, expected one entry for each token")
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple((t.digest, Principal(t.name, parse_scopes(t.scopes))) for t in tokens)


_FILE: TypeAdapter[list[StaticToken]] = TypeAdapter(list[StaticToken])


def find_static_principal(
    digest: bytes, known: Sequence[tuple[bytes, Principal]]
) -> Principal | None:
    """Return the bearer of the token with a digest, if it is known.

    The digest is compared with every known one, so that the time reveals nothing.
    """
    found = None
    for other, principal in known:
        if hmac.compare_digest(digest, other):
            found = principal
    return found
