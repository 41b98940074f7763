"""A host that does not see the driver's images says so, before rows are called broken."""

from __future__ import annotations

import pyarrow as pa
import pytest

from selfilter_ray.errors import DataError
from selfilter_ray.samples.files import SCHEMA, write_samples
from selfilter_ray.samples.witness import check_witness, witness


@pytest.fixture
def samples(tmp_path):
    """Rows with no image, one of a store, one that is gone, and one that is there."""
    (tmp_path / "there.png").write_bytes(b"an image")
    images = [[], ["s3://pool/a.png"], [str(tmp_path / "gone.png")], [str(tmp_path / "there.png")]]
    rows = [
        {"id": str(n), "source": "", "turns": [], "images": of_one, "locator": "", "record": ""}
        for n, of_one in enumerate(images)
    ]
    write_samples(tmp_path, pa.Table.from_pylist(rows, schema=SCHEMA))
    return tmp_path


def test_the_witness_is_the_first_image_that_is_a_file_here(samples):
    assert witness(samples, 0, 4) == str(samples / "there.png")


def test_images_of_a_store_and_missing_ones_are_no_witness(samples):
    assert witness(samples, 0, 3) is None
    check_witness(None)


def test_a_host_without_the_file_is_named_with_the_remedy(samples):
    place = witness(samples, 0, 4)
    check_witness(place)
    (samples / "there.png").unlink()
    with pytest.raises(DataError, match=r"host .* has no file .*there\.png.*URIs"):
        check_witness(place)
