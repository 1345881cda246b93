"""Tokens, scopes and the authentication options, without a server."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oip_handler.errors import Forbidden, InvalidToken, Unauthenticated
from oip_host.auth import setup, verifier
from oip_host.auth.authorizer import Authorizer
from oip_host.auth.scopes import Principal, parse_claims, parse_scopes
from oip_host.auth.verifier import TokenVerifier
from oip_host.config.configuration import Configuration, read
from oip_host.config.settings import Settings
from oip_host.config.watched_file import refresh_all
from oip_host.errors import ConfigurationError
from support.configuration import Levels
from support.credentials import (
    SECRET,
    forged,
    jwks,
    private_key,
    public_pem,
    signed,
    static_entry,
)

HS = {"auth_enabled": True, "auth_secret": SECRET}


def verifying(**options: Any) -> TokenVerifier:
    made = setup.build_verifier(Settings(**{**HS, **options}))
    assert made is not None
    return made


def bearer(token: str) -> list[str]:
    return [f"Bearer {token}"]


def asks(token: str, **options: Any) -> Principal:
    """Return the principal that a new verifier identifies by a token."""
    return verifying(**options).identify(bearer(token))


# -- scopes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "may"),
    [
        (["infer"], True),
        (["infer:*"], True),
        (["infer:fraud"], True),
        (["infer:fraud-*"], False),
        (["infer:fr?ud"], True),
        (["infer:Fraud"], False),
        (["infer:frau"], False),
        (["infer:"], False),
        (["metadata", "repository"], False),
        (["infers", "INFER", "admin", "*", "*:*", ""], False),
        (["metadata", "infer:a", "infer:f*"], True),
        ([], False),
    ],
    ids=str,
)
def test_scope_applies_to_models_that_match_its_pattern(
    words: list[str], may: bool
) -> None:
    """A principal has exactly its scopes, for exactly the models they match."""
    assert Principal("a", parse_scopes(words)).may("infer", "fraud") is may


@pytest.mark.parametrize("name", ["fraud\n", "\nfraud", "fraud/x", "xfraud", ""])
def test_pattern_matches_whole_names_only(name: str) -> None:
    """A name with any text before or after the pattern does not match."""
    assert not Principal("a", parse_scopes(["infer:fraud"])).may("infer", name)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "openid infer:a metadata"}, ["infer:a", "metadata"]),
        ({"scope": ["infer:a"]}, ["infer:a"]),
        ({"scopes": ["infer:a", 5, None, ["infer"]]}, ["infer:a"]),
        ({"scp": "infer:a"}, ["infer:a"]),
        ({"scope": "infer:a", "scp": ["metadata"]}, ["infer:a", "metadata"]),
        ({"scope": ""}, []),
        ({"scope": None}, []),
        ({"scope": {"infer": "*"}}, []),
        ({"scope": "openid profile"}, []),
        ({}, ["repository"]),
    ],
    ids=str,
)
def test_scopes_are_read_from_the_claims(
    claims: dict[str, Any], expected: list[str]
) -> None:
    """Every form of the claims is read; the default is for tokens without a claim."""
    assert parse_claims(claims, parse_scopes(["repository"])) == parse_scopes(expected)


# -- tokens -------------------------------------------------------------------


def test_signed_token_identifies_its_bearer() -> None:
    """The principal has the subject and the scopes of the JWT."""
    assert asks(signed(scope="infer:a")) == Principal("ci", parse_scopes(["infer:a"]))


def unsigned(claims: dict[str, Any], algorithm: str = "none") -> str:
    """Return a token without a signature, as an attacker might forge it."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": algorithm, "typ": "JWT"}, claims)
    ]
    return ".".join([*parts, ""])


NOW = int(time.time())
CLAIMS = {"sub": "x", "exp": NOW + 86_400, "scope": "infer metadata repository"}
HEAD, BODY, SIGNATURE = signed(scope="infer:a").split(".")
REFUSED: dict[str, tuple[str, str]] = {
    "another secret": (signed("y" * 32), "not valid"),
    "expired": (signed(exp=NOW - 60), "has expired"),
    "not valid yet": (signed(nbf=NOW + 86_400), "not valid yet"),
    "issued in the future": (signed(iat=NOW + 86_400), "not valid yet"),
    "without an expiry": (signed(exp=None), "not valid"),
    "an expiry that is no number": (signed(exp="never"), "not valid"),
    "an infinite expiry": (signed(exp=float("inf")), "not valid"),
    "a subject that is no text": (signed(sub=["ci"]), "not valid"),
    "alg none": (unsigned(CLAIMS), "not valid"),
    "alg None": (unsigned(CLAIMS, "None"), "not valid"),
    "alg empty": (unsigned(CLAIMS, "not valid"), "not valid"),
    "alg HS256, no signature": (unsigned(CLAIMS, "HS256"), "not valid"),
    "another algorithm": (signed(algorithm="HS384"), "not valid"),
    "claims exchanged": (
        f"{HEAD}.{unsigned(CLAIMS).split('.')[1]}.{SIGNATURE}",
        "not valid",
    ),
    "header exchanged": (
        f"{unsigned(CLAIMS).split('.')[0]}.{BODY}.{SIGNATURE}",
        "not valid",
    ),
    "signature cut": (f"{HEAD}.{BODY}.{SIGNATURE[:-4]}", "not valid"),
    "crit": (signed(headers={"crit": ["exp"], "exp": 1}), "not valid"),
    "unencoded payload": (signed(headers={"b64": False, "crit": ["b64"]}), "not valid"),
    "no JWT": ("abc", "not valid"),
    "dots": ("..", "not valid"),
    "many dots": ("." * 5000, "not valid"),
    "huge": ("a" * 30_000, "not valid"),
    "deep": (
        base64.urlsafe_b64encode(b"[" * 15_000).decode().rstrip("=") + ".e30.",
        "not valid",
    ),
}


@pytest.mark.parametrize(("token", "reason"), REFUSED.values(), ids=REFUSED)
def test_invalid_token_is_rejected(token: str, reason: str) -> None:
    """An invalid token is rejected.

    The error reveals at most that the token has expired or is not valid yet.
    """
    with pytest.raises(InvalidToken, match=reason) as caught:
        asks(token)
    assert str(caught.value) in {
        "the token is not valid",
        "the token has expired",
        "the token is not valid yet",
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], Unauthenticated),
        (["", ""], InvalidToken),
        ([""], InvalidToken),
        (["Bearer"], InvalidToken),
        (["Bearer "], InvalidToken),
        (["Basic Y2k6Y2k="], InvalidToken),
        ([f"Bearer {signed()}, Bearer {signed()}"], InvalidToken),
        ([f"Bearer {signed()} x"], InvalidToken),
        ([f"Bearer {signed()}\n"], InvalidToken),
        ([f" Bearer {signed()}"], InvalidToken),
        ([f"Bearer\t{signed()}"], InvalidToken),
        ([signed()], InvalidToken),
        ([f"Bearer {signed()}", f"Bearer {signed()}"], InvalidToken),
        ([f"Bearer {signed()}é"], InvalidToken),
    ],
    ids=lambda value: str(value)[:30],
)
def test_any_other_header_is_rejected(
    values: list[str], kind: type[Unauthenticated]
) -> None:
    """A request needs exactly one header with exactly one Bearer token."""
    with pytest.raises(Unauthenticated) as caught:
        verifying().identify(values)
    assert type(caught.value) is kind
    assert caught.value.http_status == 401


PART = st.binary(max_size=60).map(
    lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")
)
HEADERS = st.one_of(
    st.text(),
    st.text().map(lambda text: f"Bearer {text}"),
    st.lists(PART, max_size=6).map(lambda parts: f"Bearer {'.'.join(parts)}"),
    st.tuples(PART, PART).map(lambda pair: f"Bearer {HEAD}.{pair[0]}.{pair[1]}"),
)


@given(values=st.lists(HEADERS, max_size=2))
def test_random_headers_are_rejected(values: list[str]) -> None:
    """Any random header is rejected as unauthenticated, never with another error."""
    with pytest.raises(Unauthenticated):
        verifying().identify(values)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_scheme_is_case_insensitive(scheme: str) -> None:
    """The names of authentication schemes are case-insensitive (RFC 9110)."""
    assert verifying().identify([f"{scheme} {signed()}"]).name == "ci"


@pytest.mark.parametrize(
    ("options", "claims", "good"),
    [
        ({"auth_audience": "oip"}, {"aud": "oip"}, True),
        ({"auth_audience": "oip"}, {"aud": ["x", "oip"]}, True),
        ({"auth_audience": "oip"}, {"aud": "other"}, False),
        ({"auth_audience": "oip"}, {"aud": []}, False),
        ({"auth_audience": "oip"}, {}, False),
        ({}, {"aud": "other"}, True),
        ({"auth_issuer": "https://a"}, {"iss": "https://a"}, True),
        ({"auth_issuer": "https://a"}, {"iss": "https://a/"}, False),
        ({"auth_issuer": "https://a"}, {}, False),
        ({}, {"iss": "https://b"}, True),
    ],
    ids=str,
)
def test_audience_and_issuer_must_match_the_options(
    options: dict[str, Any], claims: dict[str, Any], good: bool
) -> None:
    """The audience and issuer must match the options, and are ignored without them."""
    if good:
        assert asks(signed(**claims), **options).name == "ci"
    else:
        with pytest.raises(InvalidToken):
            asks(signed(**claims), **options)


@pytest.mark.parametrize(("leeway_s", "good"), [(300, True), (0, False)])
def test_clocks_may_differ_by_the_leeway(leeway_s: int, good: bool) -> None:
    """An expired token is accepted for the seconds of leeway."""
    token = signed(exp=int(time.time()) - 60)
    if good:
        assert asks(token, auth_leeway_s=leeway_s).name == "ci"
    else:
        with pytest.raises(InvalidToken, match="expired"):
            asks(token, auth_leeway_s=leeway_s)


def test_default_scopes_apply_to_tokens_without_scopes() -> None:
    """`auth_default_scopes` applies to tokens without the claim, as aiSSEMBLE's are."""
    options = {"auth_default_scopes": "infer:a*, metadata"}
    expected = parse_scopes(["infer:a*", "metadata"])
    assert asks(signed(scope=None), **options).rights == expected
    assert asks(signed(scope="openid"), **options).rights == frozenset()
    assert asks(signed(scope=None)).rights == frozenset()


# -- public keys --------------------------------------------------------------

KINDS = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]


def with_keys(path: Path, algorithms: str = "RS256", *keys: dict[str, Any]) -> Any:
    (path / "jwks.json").write_text(json.dumps({"keys": list(keys)}))
    return {
        "auth_secret": None,
        "auth_algorithm": algorithms,
        "auth_jwks_file": str(path / "jwks.json"),
    }


@pytest.mark.parametrize("algorithm", KINDS)
def test_public_keys_verify_their_algorithm(algorithm: str, tmp_path: Path) -> None:
    """A token signed by the matching private key is accepted; any other is rejected."""
    key, other = private_key(algorithm), private_key(algorithm, 2)
    options = with_keys(tmp_path, algorithm, jwks(key, "a"))
    named = {"kid": "a"}
    assert asks(signed(key, algorithm, named), **options).name == "ci"
    assert asks(signed(key, algorithm=algorithm), **options).name == "ci"
    for wrong in (
        signed(other, algorithm, named),
        signed(key, algorithm=algorithm, headers={"kid": "b"}),
        signed(key, algorithm=algorithm, headers={"kid": "../../etc/passwd"}),
    ):
        with pytest.raises(InvalidToken):
            asks(wrong, **options)


@pytest.mark.parametrize("form", ["pem", "jwk"])
def test_public_key_is_never_used_as_shared_secret(form: str, tmp_path: Path) -> None:
    """An HS256 token signed with the public key (algorithm confusion) is rejected."""
    key = private_key("RS256")
    options = with_keys(tmp_path, "RS256", jwks(key, "a"))
    text = public_pem(key) if form == "pem" else json.dumps(jwks(key, "a")).encode()
    with pytest.raises(InvalidToken):
        asks(forged(text, "a"), **options)


def test_key_inside_the_token_is_ignored(tmp_path: Path) -> None:
    """The headers `jwk` and `jku` are under the attacker's control and are ignored."""
    mine = private_key("RS256", 2)
    options = with_keys(tmp_path, "RS256", jwks(private_key("RS256"), "a"))
    headers = {"jwk": jwks(mine, "a"), "jku": "http://127.0.0.1:9/keys", "kid": "a"}
    with pytest.raises(InvalidToken):
        asks(signed(mine, algorithm="RS256", headers=headers), **options)


def test_one_file_may_hold_keys_of_several_algorithms(tmp_path: Path) -> None:
    """Each key verifies its own algorithm; an encryption key verifies nothing."""
    rsa, ec = private_key("RS256"), private_key("ES256")
    idle = {**jwks(private_key("RS256", 2), "c"), "use": "enc"}
    entries = [jwks(rsa, "a"), jwks(ec, "b"), idle]
    options = with_keys(tmp_path, "RS256, ES256", *entries)
    assert asks(signed(rsa, algorithm="RS256"), **options).name == "ci"
    assert asks(signed(ec, algorithm="ES256"), **options).name == "ci"
    with pytest.raises(InvalidToken):
        asks(signed(private_key("RS256", 2), algorithm="RS256"), **options)
    with pytest.raises(InvalidToken):
        asks(signed(rsa, algorithm="PS256"), **options)


# -- static tokens, and files that change -------------------------------------


def with_tokens(path: Path, *entries: dict[str, Any]) -> dict[str, Any]:
    path.write_text(json.dumps(entries))
    return {"auth_secret": None, "auth_tokens_file": str(path)}


def test_static_token_is_verified_by_its_digest(tmp_path: Path) -> None:
    """Only the token itself is accepted, and neither its digest nor a similar token."""
    options = with_tokens(
        tmp_path / "t", static_entry("ops", "letmein", "infer:a"), static_entry("b")
    )
    assert asks("letmein", **options) == Principal("ops", parse_scopes(["infer:a"]))
    for wrong in ("letmeinn", "letmei", sha256(b"letmein").hexdigest()):
        with pytest.raises(InvalidToken):
            asks(wrong, **options)


def test_static_tokens_and_jwts_work_together(tmp_path: Path) -> None:
    """If both are configured, both are accepted."""
    options = with_tokens(tmp_path / "t", static_entry("ops", "letmein"))
    both = verifying(auth_tokens_file=options["auth_tokens_file"])
    assert both.identify(bearer("letmein")).name == "ops"
    assert both.identify(bearer(signed())).name == "ci"


def check_files(asked: TokenVerifier) -> None:
    """Do what the file watch does every second."""
    asked.react(refresh_all(asked.files))


def test_revoked_token_is_rejected_at_once(tmp_path: Path) -> None:
    """A change of the file takes effect even for a token already cached."""
    path = tmp_path / "t"
    asked = verifying(**with_tokens(path, static_entry("a", "one"), static_entry("b")))
    assert asked.identify(bearer("one")).name == "a"
    with_tokens(path, static_entry("c", "two"), static_entry("b"))
    check_files(asked)
    with pytest.raises(InvalidToken):
        asked.identify(bearer("one"))
    assert asked.identify(bearer("two")).name == "c"


def test_replaced_secret_takes_effect_at_once(tmp_path: Path) -> None:
    """Tokens signed with the old secret are rejected, even if cached."""
    (tmp_path / "s").write_text(SECRET + "\n")
    asked = verifying(auth_secret=None, auth_secret_file=str(tmp_path / "s"))
    assert asked.identify(bearer(signed())).name == "ci"
    (tmp_path / "s").write_text("y" * 40)
    check_files(asked)
    with pytest.raises(InvalidToken):
        asked.identify(bearer(signed()))
    assert asked.identify(bearer(signed("y" * 40))).name == "ci"


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", None], ids=str)
def test_broken_tokens_file_keeps_the_previous_tokens(
    content: bytes | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the file cannot be read, its tokens stay in use, and one log line says so."""
    path = tmp_path / "t"
    asked = verifying(**with_tokens(path, static_entry("a", "one")))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for _ in range(3):
        check_files(asked)
        assert asked.identify(bearer("one")).name == "a"
    assert [str(path) in record.message for record in caplog.records] == [True]
    with_tokens(path, static_entry("a", "two"))
    check_files(asked)
    with pytest.raises(InvalidToken):
        asked.identify(bearer("one"))


def test_cached_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached token is valid until it expires, and not longer."""
    asked = verifying(auth_leeway_s=0)
    now = int(time.time())
    token = signed(exp=now + 30)
    assert asked.identify(bearer(token)).name == "ci"
    monkeypatch.setattr("oip_host.auth.verifier.time.time", lambda: now + 31.0)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(now + 31, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Later)
    with pytest.raises(InvalidToken, match="expired"):
        asked.identify(bearer(token))


def test_token_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of tokens is bounded, however many tokens arrive."""
    monkeypatch.setattr(verifier, "CACHE_SIZE", 5)
    asked = verifying()
    for i in range(20):
        asked.identify(bearer(signed(sub=str(i))))
    assert len(asked._cache) == 5


# -- the authorizer -----------------------------------------------------------------

MAY: dict[str, tuple[str, dict[str, bool]]] = {
    # scopes: (scope, {"action model": allowed})
    "nothing": ("", {"server": True, "index": False, "metrics": False}),
    "infer:a": (
        "infer:a",
        {
            "infer a": True,
            "infer b": False,
            "metadata a": False,
            "load a": False,
            "index": False,
        },
    ),
    "metadata:a": (
        "metadata:a",
        {
            "metadata a": True,
            "config a": True,
            "stats a": True,
            "stats b": False,
            "stats": True,
            "index": True,
            "models": True,
            "metrics": False,
            "infer a": False,
            "unload a": False,
        },
    ),
    "metadata": (
        "metadata",
        {"metrics": True, "docs": True, "what is new": True, "infer a": False},
    ),
    "repository:a": (
        "repository:a",
        {"load a": True, "unload a": True, "load b": False, "infer a": False},
    ),
}


@pytest.mark.parametrize(("scope", "cases"), MAY.values(), ids=MAY)
def test_each_action_needs_its_scope(scope: str, cases: dict[str, bool]) -> None:
    """Each action is allowed only with its scope.

    An action that the authorizer does not know needs `metadata` for all models.
    """
    authorizer = Authorizer(verifying())
    authorizer.authenticate(bearer(signed(scope=scope)))
    for case, allowed in cases.items():
        action, _, model = case.partition(" ")
        if allowed:
            authorizer.require(action, model)
        else:
            with pytest.raises(Forbidden, match="lacks the scope"):
                authorizer.require(action, model)


def test_list_shows_only_models_with_metadata_scope() -> None:
    """A list contains only the models for which the token has the scope `metadata`."""
    authorizer = Authorizer(verifying())
    authorizer.authenticate(bearer(signed(scope="metadata:a* infer:b")))
    assert authorizer.filter_visible(["a", "ab", "b", "A"], str) == ["a", "ab"]
    assert Authorizer(None).filter_visible(["a", "b"], str) == ["a", "b"]


def test_open_path_resets_the_previous_principal() -> None:
    """An open path needs no token, and has no rights of the previous request."""
    authorizer = Authorizer(verifying())
    authorizer.authenticate(bearer(signed(scope="infer")))
    authorizer.authenticate([], is_open=True)
    authorizer.require("live")
    for action in ("infer", "server", "index", "metrics"):
        with pytest.raises(Forbidden):
            authorizer.require(action, "not valid")
    with pytest.raises(Unauthenticated):
        authorizer.authenticate([])


def test_without_a_verifier_everything_is_allowed() -> None:
    """Without authentication, everything is allowed and headers are not read."""
    authorizer = Authorizer(None)
    authorizer.authenticate(["Basic x", "y"])
    authorizer.require("infer", "a")
    authorizer.require("metrics")


# -- options ------------------------------------------------------------------

FILES = "auth_secret, auth_secret_file, auth_jwks_file or auth_tokens_file"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"auth_secret": None}, "auth_enabled: found no keys or tokens, set"),
        (
            {"auth_secret": "x" * 31},
            "auth_secret: found a secret of 31 bytes, expected",
        ),
        (
            {"auth_secret": "x" * 32, "auth_algorithm": "HS256,HS512"},
            "expected 64 or more for HS512",
        ),
        ({"auth_algorithm": "none"}, "auth_algorithm: found 'none', expected HS256"),
        ({"auth_algorithm": "HS265"}, "nearest: 'HS256'"),
        ({"auth_algorithm": ""}, "auth_algorithm: found '', expected HS256"),
        ({"auth_algorithm": "RS256"}, "auth_algorithm: found 'RS256', expected HS256"),
        ({"auth_secret_file": "x"}, "found auth_secret and auth_secret_file, expected"),
        (
            {"auth_secret": None, "auth_secret_file": "/no/such"},
            "auth_secret_file: could not read '/no/such': No such file",
        ),
        (
            {"auth_secret": None, "auth_jwks_file": "/no/such"},
            "auth_algorithm: found 'HS256', expected RS256",
        ),
        ({"auth_default_scopes": "infer inferr:a"}, "found 'inferr:a', expected infer"),
        ({"auth_default_scopes": "metdata"}, "nearest: 'metadata'"),
        (
            {"auth_tokens_file": "/no/such"},
            "auth_tokens_file: could not read '/no/such'",
        ),
    ],
    ids=str,
)
def test_invalid_option_is_a_fault(options: dict[str, Any], fault: str) -> None:
    """An invalid option is one line that says what was expected, without any secret."""
    settings = Settings(**{**HS, **options})
    (line,) = setup.find_faults(settings)
    assert fault in line
    assert SECRET not in line
    with pytest.raises(ConfigurationError):
        setup.build_verifier(settings)
    assert setup.find_faults(settings.model_copy(update={"auth_enabled": False})) == []


def test_faults_of_options_are_reported_together() -> None:
    """All faults of the options are reported together."""
    settings = Settings(
        **{**HS, "auth_algorithm": "none,HS1", "auth_default_scopes": "x y"},
        auth_tokens_file="/no/such",
    )
    assert len(setup.find_faults(settings)) == 5


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("{}", "Input should be a valid array"),
        ("[", "Invalid JSON"),
        ('[{"name": "a"}]', "0.sha256: Field required"),
        ([{**static_entry("a"), "token": "hunter2"}], "0.token: Extra inputs"),
        ([{**static_entry("a"), "sha256": "hunter2"}], "0.sha256: String should match"),
        ([{**static_entry("a"), "scopes": ["inferr"]}], "a: found 'inferr', expected"),
        ([{**static_entry("a"), "scopes": "infer"}], "0.scopes: Input should be"),
        ([static_entry("a", "t"), static_entry("b", "t")], "found one sha256 twice"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_tokens_file_is_a_fault(
    document: Any, fault: str, tmp_path: Path
) -> None:
    """The fault names the entry and the field, and shows no token."""
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "t").write_text(text)
    settings = Settings(auth_enabled=True, auth_tokens_file=str(tmp_path / "t"))
    (line,) = setup.find_faults(settings)
    assert line.startswith("auth_tokens_file: ")
    assert fault in line
    assert "hunter2" not in line


SMALL = {"kty": "RSA", "kid": "a", "e": "AQAB", "n": "w" * 171}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("{", "found no JWKS"),
        ("[]", "found no JWKS"),
        ('{"keys": [1]}', "found no JWKS"),
        ('{"keys": []}', "found no key for RS256"),
        ({"keys": [{"kty": "EC", "crv": "P-256"}]}, "found no key for RS256"),
        ({"keys": [{"kty": "RSA", "kid": "a"}]}, "could not read the key 'a'"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}, "the key None is secret"),
        ({"keys": [{**jwks(private_key("RS256"), "a"), "d": "x"}]}, "'a' is secret"),
        ({"keys": [SMALL]}, "the key 'a' has 1024 bits, expected 2048"),
    ],
    ids=["cut", "list", "number", "empty", "EC", "half", "oct", "secret", "short"],
)
def test_invalid_jwks_is_a_fault(document: Any, fault: str, tmp_path: Path) -> None:
    """A file with no public keys, or with weak or secret ones, is a fault."""
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "k").write_text(text)
    options = with_keys(tmp_path)
    options["auth_jwks_file"] = str(tmp_path / "k")
    (line,) = setup.find_faults(Settings(**{**HS, **options}))
    assert line.startswith("auth_jwks_file: ")
    assert fault in line


def configured(levels: Levels, *arguments: str, **environ: str) -> Configuration:
    configuration, faults = levels.read(arguments, environ)
    assert faults == []
    return configuration


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Levels:
    return Levels(tmp_path, monkeypatch)


def test_unused_secret_is_a_warning(levels: Levels) -> None:
    """A secret without `auth_enabled` is a warning; so is a secret in an argument."""
    off = configured(levels, AUTH_SECRET=SECRET, AUTH_ALGORITHM="HS256")
    assert list(setup.find_warnings(off)) == [
        "AUTH_SECRET is set, but auth_enabled is false: clients need no token"
    ]
    on = configured(levels, f"--auth_secret={SECRET}", "--auth_enabled=true")
    (line,) = setup.find_warnings(on)
    assert line.startswith("--auth_secret: every user of this machine can read")
    good = configured(levels, AUTH_SECRET=SECRET, AUTH_ENABLED="true")
    assert list(setup.find_warnings(good)) == []


def test_upstream_properties_are_options_and_masked(levels: Levels) -> None:
    """aiSSEMBLE's three properties are options, and the secret is masked."""
    levels.properties(
        {"auth_enabled": "true", "auth_secret": SECRET, "auth_algorithm": "HS512"}
    )
    configuration = configured(levels)
    assert configuration.settings.auth_enabled is True
    assert configuration.settings.auth_algorithm == "HS512"
    assert SECRET not in str(list(configuration.list_effective()))
    assert SECRET not in repr(configuration.settings)


def test_misspelt_auth_variable_is_a_warning() -> None:
    """`AUTH_ENABLE=true` gives a warning, as it would silently protect nothing."""
    configuration, _ = read([], {"AUTH_ENABLE": "true"})
    assert (
        "AUTH_ENABLE: no such option, nearest: 'AUTH_ENABLED'"
        in (configuration.warnings[0])
    )


@pytest.mark.parametrize(
    ("address", "options", "told"),
    [
        ("0.0.0.0", {}, True),
        ("::", {}, True),
        ("10.0.0.1", {}, True),
        ("127.0.0.1", {}, False),
        ("127.9.9.9", {}, False),
        ("::1", {}, False),
        ("localhost", {}, False),
        ("example.org", {}, True),
        ("0.0.0.0", HS, False),
    ],
    ids=str,
)
def test_open_host_on_public_address_is_a_warning(
    address: str, options: dict[str, Any], told: bool
) -> None:
    """A host without authentication on an address that others can reach is reported."""
    assert bool(setup.describe_exposure(Settings(oip_bind=address, **options))) is told


def test_exposure_warning_mentions_load_and_unload() -> None:
    """The warning mentions loading and unloading only if clients may do that."""
    open_to_all = Settings(oip_model_control="explicit")
    assert "load and unload" in (setup.describe_exposure(open_to_all) or "")
    assert "load and unload" not in (setup.describe_exposure(Settings()) or "")
