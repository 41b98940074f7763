"""What the documentation says is what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from selfilter_ray.config import load_config
from selfilter_ray.samples.quarantine import REMEDIES

ROOT = Path(__file__).parent.parent


def test_every_quarantine_reason_is_documented_with_its_remedy():
    text = (ROOT / "docs" / "data.md").read_text()
    for reason, remedy in REMEDIES.items():
        assert f"| `{reason}` | {remedy} |" in text


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"])
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_config_shown_in_the_readme_is_valid():
    text = (ROOT / "README.md").read_text()
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    assert load_config(yaml.safe_load(shown)).select.ratio == 0.15


def test_the_lock_names_no_index():
    assert "://" not in (ROOT / "requirements.lock").read_text()
