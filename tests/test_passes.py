"""A pass over shards on Ray: who makes them, going on after a stop, errors that reach the user."""

from __future__ import annotations

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from measured_pool import LIMITS, make_config, make_pool

from selfilter_ray.config import RayConfig
from selfilter_ray.errors import ArtifactError, ConfigError, DataError
from selfilter_ray.features.shards import model_hash, shard_record, shards_to_make
from selfilter_ray.measure.measurer import Measurer
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.measure.table import load_measured
from selfilter_ray.samples.files import write_samples

pytestmark = pytest.mark.ray

ROWS, SHARD_ROWS = 8, 2
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = make_pool(tmp_path_factory.mktemp("pool"))
    write_samples(pool.folder / "samples", pool.table())
    return pool


def letters_pass(**arguments):
    """A pass that writes each id in capitals. Its maker is sent to the actors by value."""
    from selfilter_ray.distributed.passes import Pass
    from selfilter_ray.errors import ArtifactError, DataError

    def wait_for_another(meeting):
        """Until an actor in a second process is at work too."""
        (meeting / str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)

    class Letters:
        def __init__(self, device, suffix="", build_error="", call_error="", meeting=None):
            if build_error:
                raise ArtifactError(build_error)
            self.suffix, self.call_error, self.meeting = suffix + device, call_error, meeting

        def __call__(self, samples):
            if self.call_error in samples["id"].to_pylist():
                raise DataError(f"{self.call_error} is wrong")
            if self.meeting is not None:
                wait_for_another(self.meeting)
            letters = [id.upper() + self.suffix for id in samples["id"].to_pylist()]
            rows = len(letters)
            columns = [",".join(samples.column_names)] * rows
            return pa.table({"letter": letters, "columns": columns, "actor": [os.getpid()] * rows})

        def weights_hash(self):
            return "hash of letters"

    return Pass("letters", Letters, arguments, ("id", "source"))


def make(work, pool, folder, shards, progress=lambda rows: None, key="key", **settings):
    from selfilter_ray.distributed.passes import make_shards

    settings = MeasureConfig(**settings)
    samples = pool.folder / "samples"
    make_shards(work, settings, RayConfig(), shards, samples, folder, key, progress)


def content(folder):
    files = sorted(folder.glob("shard-*.parquet"))
    return [pq.read_table(file, columns=["letter"])["letter"].to_pylist() for file in files]


def test_every_shard_is_made_and_only_what_is_missing_is_made_again(ray_cluster, pool, tmp_path):
    told = []
    shards = shards_to_make(tmp_path, "key", ROWS, 3)
    make(letters_pass(suffix="-"), pool, tmp_path, shards, told.append)
    before = content(tmp_path)
    assert [len(letters) for letters in before] == [3, 3, 2]
    expected = [f"{letter}-cpu" for letter in "ABCDEFGH"]
    assert [letter for letters in before for letter in letters] == expected
    assert sorted(told) == [2, 3, 3]
    assert all(shard_record(tmp_path, shard, "key").seconds >= 0 for shard in shards)
    assert model_hash(tmp_path) == "hash of letters"
    columns = pq.read_table(shards[0].file(tmp_path))["columns"].to_pylist()
    assert columns == ["id,source"] * 3

    untouched = shards[0].file(tmp_path).stat().st_mtime_ns
    shards[1].file(tmp_path).unlink()
    shards[2].record_file(tmp_path).unlink()
    todo = shards_to_make(tmp_path, "key", ROWS, 3)
    assert todo == shards[1:]
    make(letters_pass(suffix="-"), pool, tmp_path, todo)
    assert content(tmp_path) == before
    assert shards[0].file(tmp_path).stat().st_mtime_ns == untouched
    assert shards_to_make(tmp_path, "key", ROWS, 3) == []
    assert shards_to_make(tmp_path, "other key", ROWS, 3) == shards
    assert not any(tmp_path.iterdir())


def test_two_actors_share_the_shards(ray_cluster, pool, tmp_path):
    (meeting := tmp_path / "meeting").mkdir()
    shards = shards_to_make(tmp_path / "out", "key", ROWS, SHARD_ROWS)
    make(letters_pass(meeting=meeting), pool, tmp_path / "out", shards, actors=2)
    actors = {pq.read_table(shard.file(tmp_path / "out"))["actor"][0].as_py() for shard in shards}
    assert len(actors) == 2
    assert os.getpid() not in actors


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"build_error": "mend this"}, ArtifactError, "^mend this$"),
        ({"call_error": "c"}, DataError, "^c is wrong$"),
    ],
)
def test_an_error_meant_for_the_user_reaches_the_user(
    arguments, kind, message, ray_cluster, pool, tmp_path
):
    shards = shards_to_make(tmp_path, "key", ROWS, SHARD_ROWS)
    with pytest.raises(kind, match=message):
        make(letters_pass(**arguments), pool, tmp_path, shards)
    assert not shards[1].file(tmp_path).exists()


def test_more_actors_than_the_machine_has_are_refused(ray_cluster, pool, tmp_path):
    shards = shards_to_make(tmp_path, "key", ROWS, SHARD_ROWS)
    with pytest.raises(ConfigError, match=r"letters\.actors x cpus_per_actor asks for 3 CPUs"):
        make(letters_pass(), pool, tmp_path, shards, actors=(1, 3))


def test_nothing_to_make_starts_nothing(pool, tmp_path):
    make(letters_pass(build_error="mend this"), pool, tmp_path, [])
    assert not any(tmp_path.iterdir())


def measure(pool, folder, key="key", **settings):
    from selfilter_ray.distributed.measure import measure_shards

    settings = MeasureConfig(batch_size=2, shard_rows=3, **settings)
    shards = shards_to_make(folder, key, ROWS, settings.shard_rows)
    samples, train = pool.folder / "samples", make_config().train
    where = (shards, samples, folder, key, lambda rows: None)
    measure_shards(pool.model, train, LIMITS, settings, RayConfig(), *where)
    return shards


def test_a_measured_pool_is_the_same_whoever_measured_it_and_when(ray_cluster, pool, tmp_path):
    shards = measure(pool, tmp_path, actors=2)
    assert len(shards) == 3
    table = load_measured(tmp_path)

    shards[1].file(tmp_path).unlink()
    shards[1].record_file(tmp_path).unlink()
    assert measure(pool, tmp_path, actors=1) == [shards[1]]
    assert load_measured(tmp_path).equals(table)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = MeasureConfig(batch_size=2)
    alone = Measurer(pool.model, make_config().train, LIMITS, settings)
    pieces = [alone(pool.table()[shard.start : shard.stop]) for shard in shards]
    torch.set_num_threads(threads)
    assert pa.concat_tables(pieces).equals(table)
    assert model_hash(tmp_path) == alone.weights_hash()
    whole = alone(pool.table())
    for name in ("loss_sum", "loss_no_image", "loss_no_question", "el2n", "margin", "grand"):
        expected = table[name].to_pylist()
        assert whole[name].to_pylist() == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_a_model_that_cannot_be_loaded_is_one_sentence(ray_cluster, pool, tmp_path):
    broken = pool._replace(model=str(tmp_path / "no model"))
    with pytest.raises(ConfigError, match="no model cannot be loaded"):
        measure(broken, tmp_path / "measured")
