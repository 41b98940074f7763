"""Keys: who may ask what, and how a key is stored."""

from __future__ import annotations

import hmac
import io
import logging
from datetime import UTC, datetime, timedelta

import pytest
from http_service import problem_of, samples, service_in

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.http import auth, keys
from selfilter_ray.service.http.logs import JsonFormatter
from selfilter_ray.service.settings import KeySettings

TODAY = datetime.now(UTC).date()
SECRETS = {"data": "data-secret", "admin": "admin-secret", "old": "old-secret", "last": "last-day"}


def key_lines():
    made = [
        keys.Key("reader", "data", keys.hash_of(SECRETS["data"])),
        keys.Key("operator", "admin", keys.hash_of(SECRETS["admin"]), TODAY + timedelta(days=30)),
        keys.Key("old", "admin", keys.hash_of(SECRETS["old"]), TODAY - timedelta(days=1)),
        keys.Key("last", "data", keys.hash_of(SECRETS["last"]), TODAY),
    ]
    return "# who may ask\n\n" + "\n".join(key.line() for key in made) + "  # the end\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(key_lines())
    settings = {"file": str(folder / "keys"), "environment": "SELFILTER_NO_KEYS"}
    with service_in(folder, keys=settings) as service:
        yield service


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def protected(service):
    """Method and path of every route under /v1."""
    return [
        (method.upper(), path.replace("{sequence}", "0"))
        for path, methods in service.app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/v1")
    ]


WRONG = {
    "missing": {},
    "unknown": bearer("nobody"),
    "expired": bearer(SECRETS["old"]),
    "another scheme": {"authorization": f"Basic {SECRETS['data']}"},
    "no scheme": {"authorization": SECRETS["data"]},
    "no secret": {"authorization": "Bearer "},
    "the hash itself": bearer(keys.hash_of(SECRETS["data"]).hex()),
    "not ASCII": {"authorization": "Bearer \xe9".encode("latin-1")},
    "very long": bearer("x" * 60_000),
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_without_a_good_key_no_route_of_v1_answers(service, headers):
    routes = protected(service)
    assert len(routes) >= 8
    for method, path in routes:
        response = service.request(method, path, headers=headers)
        problem_of(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer ")


def test_two_keys_in_one_request_are_refused(service):
    headers = [("authorization", f"Bearer {SECRETS[name]}") for name in ("data", "admin")]
    problem_of(service.get("/v1/stats", headers=headers), 401)


def test_a_key_in_the_query_is_not_accepted(service):
    for name in ("key", "api_key", "access_token", "authorization"):
        problem_of(service.get(f"/v1/stats?{name}={SECRETS['data']}"), 401)


@pytest.mark.parametrize("name", ["data", "admin", "last"])
def test_a_good_key_may_read_and_write(service, name):
    headers = bearer(SECRETS[name])
    assert service.get("/v1/stats", headers=headers).status_code == 200
    answer = service.post("/v1/select", json=samples("same"), headers=headers)
    assert answer.status_code == 200


def test_the_scheme_is_read_in_any_case(service):
    headers = {"authorization": f"bEARER   {SECRETS['data']}"}
    assert service.get("/v1/stats", headers=headers).status_code == 200


def test_admin_routes_need_an_admin_key(service):
    path = "/v1/admin/snapshot"
    assert problem_of(service.post(path, headers=bearer(SECRETS["data"])), 403)["code"] == "scope"
    assert service.post(path, headers=bearer(SECRETS["admin"])).status_code == 200


def test_health_and_page_need_no_key_and_metrics_as_configured(service, tmp_path):
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert service.get(path).status_code == 200
    (tmp_path / "keys").write_text(key_lines())
    settings = {"file": str(tmp_path / "keys"), "metrics": True}
    with service_in(tmp_path, keys=settings) as closed:
        problem_of(closed.get("/metrics"), 401)
        assert closed.get("/metrics", headers=bearer(SECRETS["data"])).status_code == 200


def test_a_wrong_key_is_told_before_the_body_is_looked_at(service):
    response = service.post("/v1/select", content=b"x" * (9 * 2**20))
    problem_of(response, 401)


def test_keys_are_compared_in_constant_time_and_all_of_them(monkeypatch):
    compared, compare = [], hmac.compare_digest

    def watched(stored, given):
        compared.append((stored, given))
        return compare(stored, given)

    monkeypatch.setattr(auth.hmac, "compare_digest", watched)
    ring = auth.Keyring([keys.Key(str(n), "data", keys.hash_of(str(n))) for n in range(3)])
    assert ring.find(b"0").name == "0"
    assert ring.find(b"nobody") is None
    assert len(compared) == 6
    assert all(len(stored) == len(given) == 32 for stored, given in compared)


@pytest.fixture
def logged():
    """What the package logs while the test runs, as text."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("selfilter_ray")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_log_names_the_key_and_never_holds_it(service, logged):
    service.get("/v1/stats?key=in-the-query", headers=bearer(SECRETS["data"]))
    service.get("/v1/stats", headers=bearer("nobody"))
    assert '"key": "reader"' in logged.getvalue()
    for secret in (SECRETS["data"], "in-the-query", "nobody"):
        assert secret not in logged.getvalue()


def test_a_service_without_keys_is_open_and_says_so(tmp_path, logged, monkeypatch):
    monkeypatch.delenv("SELFILTER_KEYS", raising=False)
    with service_in(tmp_path) as service:
        assert service.get("/v1/stats").status_code == 200
    assert "no keys are configured" in logged.getvalue()


def test_keys_come_from_the_variable_too(monkeypatch):
    lines = key_lines().partition("\n\n")[2].replace("\n", ";").partition("  #")[0]
    monkeypatch.setenv("SOME_KEYS", lines)
    found = keys.load_keys(KeySettings(environment="SOME_KEYS"))
    assert [key.name for key in found] == ["reader", "operator", "old", "last"]
    assert found[1].last_day == TODAY + timedelta(days=30)


HASH = "0" * 64
BAD_LINES = [
    "name",
    "name data secret",
    f"name root {HASH}",
    f"name data {HASH[1:]}",
    f"na/me data {HASH}",
    f"name data {HASH} 2027-13-01",
    f"name data {HASH} 2027-01-01 more",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_wrong_line_is_an_error_that_names_it_and_not_what_it_holds(tmp_path, line):
    (tmp_path / "keys").write_text(f"# keys\n{line}\n")
    with pytest.raises(ConfigError, match="line 2") as error:
        keys.load_keys(KeySettings(file=str(tmp_path / "keys")))
    assert line not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"# none\n", b"\xff\xfe"])
def test_a_file_without_keys_does_not_open_the_service(tmp_path, content):
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="keys"):
        keys.load_keys(KeySettings(file=str(tmp_path / "keys")))


def test_a_variable_without_keys_does_not_open_the_service(monkeypatch):
    monkeypatch.setenv("SOME_KEYS", "# later")
    with pytest.raises(ConfigError, match="SOME_KEYS holds no keys"):
        keys.load_keys(KeySettings(environment="SOME_KEYS"))


def test_a_made_key_is_printed_once_and_its_line_is_accepted(tmp_path, capsys):
    assert keys.main(["reader", "data", "2099-12-31"]) == 0
    said = capsys.readouterr()
    secret = said.err.removeprefix("key (shown once): ").strip()
    assert secret not in said.out
    (tmp_path / "keys").write_text(said.out)
    ring = auth.Keyring(keys.load_keys(KeySettings(file=str(tmp_path / "keys"))))
    assert ring.find(secret.encode()).name == "reader"


@pytest.mark.parametrize(
    "arguments", [[], ["a"], ["a", "root"], ["a b", "data"], ["a", "data", "x"]]
)
def test_wrong_usage_makes_no_key(arguments, capsys):
    assert keys.main(arguments) == 2
    assert capsys.readouterr().out == ""
