"""Keys and tokens that tests create; they are valid nowhere else."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

SECRET = "a secret of the tests, known to all of them, and long enough for HS512"


@cache
def private_key(algorithm: str, number: int = 1) -> Any:
    """Return a private key for an algorithm; a different one for each number."""
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(key: Any) -> bytes:
    """Return the public key as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return bytes(pem)


def jwks(key: Any, kid: str) -> dict[str, Any]:
    """Return the entry of a public key in a JWKS."""
    names = {"RSA": "RS256", "Elli": "ES256", "EC": "ES256", "Ed25": "EdDSA"}
    kind = next(v for k, v in names.items() if type(key).__name__.startswith(k))
    algorithm: Any = get_default_algorithms()[kind]
    document = json.loads(algorithm.to_jwk(key.public_key()))
    document.pop("key_ops", None)
    return {**document, "kid": kid}


def signed(
    key: Any = SECRET,
    algorithm: str = "HS256",
    headers: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Return a JWT for a day with every scope; a claim of None is left out."""
    everything = {
        "sub": "ci",
        "exp": int(time.time()) + 86_400,
        "scope": "infer metadata repository",
        **claims,
    }
    present = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(present, key, algorithm, dict(headers or {}))


def forged(secret: bytes, kid: str, **claims: Any) -> str:
    """Return a JWT by HS256 with any secret; PyJWT refuses a public key as secret."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": kid}).encode())
    start = f"{head.decode().rstrip('=')}.{signed(**claims).split('.')[1]}"
    mac = hmac.digest(secret, start.encode(), "sha256")
    return f"{start}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def static_entry(name: str, token: str = "", *scopes: str) -> dict[str, Any]:
    """Return an entry of a file of static tokens."""
    digest = sha256((token or f"the token of {name}").encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


def bearer(token: str) -> dict[str, str]:
    """Return the header of a REST request."""
    return {"Authorization": f"Bearer {token}"}
