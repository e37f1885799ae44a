"""Builds leave images without names: an engine of their own."""

import pytest
from conftest import close_and_check, new_naru


@pytest.fixture(scope="package")
def busybox_naru(images):
    engine = new_naru(images)
    yield engine
    close_and_check(engine)
