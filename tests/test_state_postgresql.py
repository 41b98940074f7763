"""The same state in PostgreSQL, and connections that are lost."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from postgresql import Proxy, private_server
from state_streams import BUDGET, RATE, arrivals, configured, opened, reference
from test_state_recovery import CUTS, FAULTS, in_pieces

from selfilter_ray.service.messages import NotReadyError, Preview
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state import repair as repairing
from selfilter_ray.service.state.errors import DamagedError, FencedError, LeaseHeldError

TABLE = "selfilter_decisions"
TABLES = ("identity", "head", "decisions", "vectors", "previews")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with private_server(tmp_path_factory.mktemp("pg")) as server:
        yield server


@pytest.fixture
def url(server):
    clear(server.get_uri())
    yield server.get_uri()


def clear(url):
    with psycopg.connect(url) as connection:
        for table in TABLES:
            connection.execute(f"DROP TABLE IF EXISTS selfilter_{table}")


def run(url, statement):
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def at(url, folder, online=RATE, **more) -> ServiceConfig:
    return configured(url, online, run_dir=folder, **more)


def patiently(work, *arguments):
    """Until the server has noticed that the old session is gone."""
    until = time.monotonic() + 20
    while True:
        try:
            return work(*arguments)
        except FencedError:
            raise
        except NotReadyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("online", [RATE, BUDGET], ids=["rate", "budget"])
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=CUTS)
def test_batches_reopening_and_snapshots_change_no_decision(server, tmp_path_factory, online, cuts):
    clear(server.get_uri())
    samples = arrivals(90, preview=Preview("a\0b", b"\xff\xd8"))
    config = at(server.get_uri(), tmp_path_factory.mktemp("run"), online)
    assert in_pieces(config, samples, cuts) == reference(samples, online)


def test_the_database_waits_for_the_disk(url, tmp_path):
    writer = opened(at(url, tmp_path))
    with writer._store.database.transaction() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    writer.close()


def test_answers_are_the_same_as_with_sqlite(url, tmp_path):
    writers = [opened(at(url, tmp_path / "pg", BUDGET)), opened(configured(tmp_path / "s", BUDGET))]
    samples = arrivals(100, preview=Preview("text", b"\xff"))
    answers = [writer.admit(samples) for writer in writers]
    assert answers[0] == answers[1]
    selections = [[one.decision for one in writer.selection(3, 5)] for writer in writers]
    assert selections[0] == selections[1]
    for name in ("admitted", "rejected", "kept", "threshold", "difficulty", "similarity"):
        assert writers[0].stats()[name] == writers[1].stats()[name]
    shown = [
        [(item["id"], item["thumbnail"]) for item in writer.recent(20)["rejected"]]
        for writer in writers
    ]
    assert shown[0] == shown[1]
    assert writers[0].preview(answers[0][-1].sequence).thumbnail == b"\xff"
    for writer in writers:
        writer.close()


def test_a_second_writer_is_refused_and_the_password_not_shown(url, tmp_path):
    first = opened(at(url, tmp_path), "the first service")
    with_password = url.replace("postgres:@", "postgres:geheim@")
    with pytest.raises(LeaseHeldError, match="the first service") as raised:
        opened(at(with_password, tmp_path))
    assert "geheim" not in str(raised.value)
    first.close()
    patiently(lambda: opened(at(url, tmp_path)).close())


def end_sessions(url):
    assert run(
        url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'selfilter'",
    )


def test_a_writer_goes_on_when_its_session_was_ended(url, tmp_path):
    writer = opened(at(url, tmp_path))
    writer.admit(arrivals(20))
    end_sessions(url)
    with pytest.raises(NotReadyError):
        writer.admit(arrivals(20, start=20))
    writer.admit(arrivals(20, start=20))
    assert writer.digest() == reference(arrivals(40))[1]
    writer.close()


def test_a_writer_whose_lease_went_to_another_can_store_nothing(url, tmp_path):
    stale = opened(at(url, tmp_path))
    stale.admit(arrivals(20))
    end_sessions(url)
    newer = opened(at(url, tmp_path))
    newer.admit(arrivals(5, start=20))
    with pytest.raises(NotReadyError):
        stale.admit(arrivals(5, start=40))
    with pytest.raises(NotReadyError, match="another session"):
        stale.admit(arrivals(5, start=40))
    newer.close()
    with pytest.raises(FencedError, match="epoch 2"):
        patiently(stale.admit, arrivals(5, start=40))
    assert run(url, "SELECT count(*) FROM selfilter_decisions") == [(25,)]
    stale.close()


@pytest.fixture
def proxy(server, tmp_path_factory):
    folder = Path(parse_qs(urlsplit(server.get_uri()).query)["host"][0])
    proxy = Proxy(tmp_path_factory.mktemp("p"), folder)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("online", [RATE, BUDGET], ids=["rate", "budget"])
@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_connection_lost_in_a_commit_leaves_no_doubt(url, proxy, tmp_path, online, lost):
    through = f"postgresql://postgres:@/postgres?host={proxy.folder}"
    writer = opened(at(through, tmp_path, online))
    count = "SELECT count(*), count(DISTINCT id) FROM selfilter_decisions"
    for start, end in ((0, 20), (20, 25), (25, 60)):
        proxy.lose = lost
        with pytest.raises(NotReadyError):
            writer.admit(arrivals(end - start, start=start))
        assert run(url, count) == [(end, end) if lost == "after" else (start, start)]
        answers = patiently(writer.admit, arrivals(end - start, start=start))
        assert answers == reference(arrivals(end), online)[0][start:]
        assert run(url, count) == [(end, end)]
    assert writer.digest() == reference(arrivals(60), online)[1]
    writer.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_refused_and_can_be_cut_away(url, tmp_path, fault):
    writer = opened(at(url, tmp_path))
    writer.admit(arrivals(60))
    writer.close()
    statement = FAULTS[fault].replace("zeroblob(24)", "'\\x00'::bytea").replace("x'00'", "'\\x00'")
    if "= 'what'" in statement and "adjusted" in statement:
        statement = statement.replace("'what'", "'NaN'")
    assert run(url, statement) == 1
    with pytest.raises(DamagedError, match="repair postgresql"):
        opened(at(url, tmp_path))
    said = repairing.repair(url)
    good = run(url, "SELECT sequence FROM selfilter_head")[0][0]
    assert f"the first {good} records" in said
    tables = run(
        url, "SELECT tablename FROM pg_tables WHERE tablename LIKE 'selfilter_decisions_before_%'"
    )
    [[copy]] = tables
    left, copied = (run(url, f"SELECT count(*) FROM {t}")[0][0] for t in (TABLE, copy))
    assert left == good and left + copied == (59 if " record" in fault else 60)
    run(url, f"DROP TABLE {copy}")
    writer = opened(at(url, tmp_path))
    assert writer.digest() == reference(arrivals(good))[1]
    writer.admit(arrivals(60))
    assert writer.digest() == reference(arrivals(60))[1]
    writer.close()
