"""Who proposes neighbours changes no decision, whatever the stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.errors import ConfigError
from selfilter_ray.online.proposals import FaissProposals
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings

pytest.importorskip("faiss")


def stream(seed, samples, features, places):
    """Few places and copies, so that there are ties and near duplicates."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(places, features))[random.integers(places, size=samples)]
    rows = rows + random.choice([0.0, 1e-7, 0.3], size=(samples, 1)) * random.normal(
        size=(samples, features)
    )
    return rows.astype(np.float32), random.normal(size=samples)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    samples=st.integers(1, 300),
    features=st.integers(1, 12),
    places=st.integers(1, 30),
    k_nearest=st.integers(0, 4),
    near_duplicate=st.sampled_from([None, 0.99, 1.0]),
    cut=st.integers(1, 90),
)
def test_faiss_and_the_plain_product_lead_to_the_same_decisions(
    seed, samples, features, places, k_nearest, near_duplicate, cut
):
    rows, difficulty = stream(seed, samples, features, places)
    wanted = OnlineSettings(rate=0.4, k_nearest=k_nearest, near_duplicate=near_duplicate)
    plain = OnlineSelector(wanted, features)
    by_faiss = OnlineSelector(wanted, features, search="faiss")
    ids = [str(number) for number in range(samples)]
    expected = plain.decide(ids, difficulty, rows)
    found = []
    for start in range(0, samples, cut):
        part = slice(start, start + cut)
        found += by_faiss.decide(ids[part], difficulty[part], rows[part])
    assert found == expected
    assert by_faiss.digest() == plain.digest()


def test_the_index_is_built_again_from_a_restored_state():
    rows, difficulty = stream(7, 400, 8, 40)
    ids = [str(number) for number in range(400)]
    wanted = OnlineSettings(rate=0.5)
    whole = OnlineSelector(wanted, 8, search="faiss").decide(ids, difficulty, rows)
    first = OnlineSelector(wanted, 8)
    first.decide(ids[:200], difficulty[:200], rows[:200])
    second = OnlineSelector.restore(first.export(), search="faiss")
    assert second.decide(ids[200:], difficulty[200:], rows[200:]) == whole[200:]


def test_the_index_follows_what_is_kept():
    selector = OnlineSelector(OnlineSettings(rate=1.0), 4)
    proposals = FaissProposals(selector.kept, gpu=False)
    unit = np.eye(4, dtype=np.float32)
    assert [len(found.sites) for found in proposals.nearest(unit, 3)] == [0] * 4
    selector.decide([str(n) for n in range(4)], [1.0] * 4, 5.0 * unit)
    assert [found.sites[0] for found in proposals.nearest(unit, 2)] == [0, 1, 2, 3]
    assert all(found.floor > -np.inf for found in proposals.nearest(unit, 2))
    assert all(found.floor == -np.inf for found in proposals.nearest(unit, 9))


def test_a_budget_and_a_gpu_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match="take exact with a budget"):
        OnlineSelector(OnlineSettings(budget=5), 4, search="faiss")
    with pytest.raises(ConfigError, match="search must be one of"):
        OnlineSelector(OnlineSettings(), 4, search="annoy")
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        with pytest.raises(ConfigError, match="GPU"):
            OnlineSelector(OnlineSettings(), 4, search="faiss-gpu")
