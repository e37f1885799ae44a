"""Every row, with every client, on the reference and on the product: the outcomes must be the same."""

import os
import warnings

import pytest
import rows_errors
import rows_files
import rows_flags
import rows_health
import rows_images
import rows_life
import rows_mounts
import rows_networks
import rows_prune
import rows_run
import rows_volumes
from harness import CLIENTS, compare, reference_outcome, run_row

ROWS = rows_files.ROWS + rows_prune.ROWS + rows_volumes.ROWS + rows_health.ROWS + rows_run.ROWS + rows_mounts.ROWS + rows_life.ROWS + rows_networks.ROWS + rows_flags.ROWS + rows_images.ROWS + rows_errors.ROWS
PRESENT = [name for name, path in CLIENTS.items() if os.path.exists(path)]
assert len({row.name for row in ROWS}) == len(ROWS), "two rows have one name"


@pytest.mark.seconds(400)
@pytest.mark.parametrize("client", PRESENT)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_row(request, images, row, client):
    if row.clients and client not in row.clients:
        pytest.skip("not for this client")
    if client == "naru" and row.is_newer and "cli28" not in PRESENT:
        pytest.skip("Docker's client 28 is not here")
    # Naru's own client is measured against what Docker's does.
    reference_client = client if client != "naru" else ("cli28" if "cli28" in PRESENT else "cli20")
    reference = reference_outcome(request, images, reference_client, row)
    if os.environ.get("NARU_TEST_REFERENCE_ONLY"):
        print(row.name, reference)
        return
    subject = run_row(request.getfixturevalue("naru"), client, row)
    differences = compare(row, client, reference, subject)
    if differences:
        # Docker itself is not always of one mind: what differs is asked of both again, and told of.
        warnings.warn(f"{row.name}, {client}, first time: {differences}", stacklevel=1)
        reference = reference_outcome(request, images, reference_client, row, anew=True)
        differences = compare(row, client, reference, run_row(request.getfixturevalue("naru"), client, row))
    assert differences == []
