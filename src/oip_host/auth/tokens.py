"""Whether a token is genuine: JWTs by their signature, static ones by their digest.

PyJWT does the cryptography. A key verifies one algorithm only, which the options name
and never the token, and public keys stand in a JWKS (RFC 7517), so that none of them
can be taken for a shared secret.
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
from oip_host.auth.scopes import Principal, Rights, claimed, faults, rights

__all__ = [
    "ALGORITHMS",
    "SHARED",
    "JwtRules",
    "Key",
    "StaticToken",
    "public_keys",
    "shared_keys",
    "static_principal",
    "static_tokens",
    "verified",
]

log = logging.getLogger("oip_host")

SHARED = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Algorithms with a shared secret, and its least bytes (RFC 7518, 3.2)."""
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
LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Key:
    """What verifies the signatures of one algorithm."""

    algorithm: str
    key: Any = field(repr=False)
    id: str | None = None


@dataclass(frozen=True)
class JwtRules:
    """What a JWT has to say beside its signature, and what one may without scopes."""

    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 0.0
    default: Rights = frozenset()


def shared_keys(secret: bytes, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """The keys that a shared secret is; ValueError where it is too short for one."""
    for algorithm in algorithms:
        if len(secret) < SHARED[algorithm]:
            raise ValueError(
                f"found a secret of {len(secret)} bytes, expected "
                f"{SHARED[algorithm]} or more for {algorithm}"
            )
    return tuple(Key(algorithm, secret) for algorithm in algorithms)


def public_keys(document: bytes, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """The keys of a JWKS that verify one of the algorithms; ValueError without one."""
    try:
        entries = orjson.loads(document)["keys"]
        found = [key for entry in entries for key in _usable(entry, algorithms)]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise ValueError('found no JWKS, expected {"keys": [...]}') from None
    if not found:
        raise ValueError(f"found no key for {', '.join(algorithms)}")
    return tuple(found)


def _usable(entry: Mapping[str, Any], algorithms: Sequence[str]) -> list[Key]:
    """A JWK for each algorithm that it fits; ValueError for what belongs in no JWKS."""
    from jwt import PyJWK, PyJWTError

    shown = f"the key {entry.get('kid')!r}"
    if entry.get("kty") == "oct" or "d" in entry:
        raise ValueError(f"{shown} is secret, expected public keys only")
    if entry.get("use", "sig") != "sig":
        return []
    keys = []
    for name in algorithms:
        if _fits(entry, name):
            try:
                key = PyJWK(dict(entry), name).key
            except (PyJWTError, ValueError) as error:
                raise ValueError(f"{shown} cannot be read: {error}") from None
            bits = getattr(key, "key_size", LEAST_RSA_BITS)
            if entry["kty"] == "RSA" and bits < LEAST_RSA_BITS:
                raise ValueError(
                    f"{shown} has {bits} bits, expected {LEAST_RSA_BITS} or more"
                )
            keys.append(Key(name, key, entry.get("kid")))
    return keys


def _fits(entry: Mapping[str, Any], algorithm: str) -> bool:
    kind = entry.get("kty"), entry.get("crv", "")
    return kind == _KINDS[algorithm] and entry.get("alg", algorithm) == algorithm


def verified(
    token: str, keys: Sequence[Key], rules: JwtRules
) -> tuple[Principal, float]:
    """Who bears a JWT, and when it expires, in seconds since 1970.

    Raises InvalidToken, whose text tells no more than whether the time is the reason.
    """
    import jwt

    try:
        claims = _claims(token, keys, rules)
        name = str(claims.get("sub") or claims.get("client_id") or "without a name")
        principal = Principal(name, claimed(claims, rules.default))
        return principal, float(claims["exp"]) + rules.leeway_s
    except jwt.ExpiredSignatureError:
        raise InvalidToken("the token has expired") from None
    except jwt.ImmatureSignatureError:
        raise InvalidToken("the token is not valid yet") from None
    except Exception as error:  # whatever a token makes of a parser, it lets nobody in
        log.debug("a token is refused: %s: %s", type(error).__name__, error)
        raise InvalidToken("the token is not valid") from None


def _claims(token: str, keys: Sequence[Key], rules: JwtRules) -> dict[str, Any]:
    """The claims of a JWT that one of the keys has signed, and that fit the rules."""
    import jwt

    header = jwt.get_unverified_header(token)
    if "crit" in header:  # extensions that have to be understood: there are none here
        raise jwt.InvalidTokenError("crit")
    named = header.get("kid")
    for key in keys:
        fits = named is None or key.id is None or key.id == named
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
    """A token that an operator made, known by its SHA-256 only."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    scopes: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """The 32 bytes of the SHA-256."""
        return bytes.fromhex(self.sha256)


def static_tokens(
    document: bytes,
) -> tuple[tuple[bytes, Principal], ...]:
    """The principals of a file of static tokens, each with the token's digest.

    ValueError with what is wrong in it, and without a digest: what was meant for one
    may be a token.
    """
    try:
        found = _FILE.validate_json(document)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from None
    wrong = [line for token in found for line in faults(token.scopes, token.name)]
    if len({token.digest for token in found}) < len(found):
        wrong.append("found one sha256 twice, expected one entry for each token")
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple((t.digest, Principal(t.name, rights(t.scopes))) for t in found)


_FILE: TypeAdapter[list[StaticToken]] = TypeAdapter(list[StaticToken])


def static_principal(
    digest: bytes, known: Sequence[tuple[bytes, Principal]]
) -> Principal | None:
    """Who bears the token of a digest.

    It is held against every known one, so that the time tells nothing.
    """
    found = None
    for other, principal in known:
        if hmac.compare_digest(digest, other):
            found = principal
    return found
