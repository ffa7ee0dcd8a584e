"""Every threat has a test that is really there."""

import re
from pathlib import Path

import pytest
from hostile.threats import OPERATOR, SOURCE

TESTS = Path(__file__).parent.parent
PROOFS = [(threat, proof) for threat, proofs in (SOURCE | OPERATOR).items() for proof in proofs]


def test_no_threat_is_left_out():
    assert [threat.split()[0] for threat in SOURCE] == [f"S{n}" for n in range(1, 21)]
    assert [threat.split()[0] for threat in OPERATOR] == [f"O{n}" for n in range(1, 9)]


@pytest.mark.parametrize(("threat", "proof"), PROOFS)
def test_the_proof_of_a_threat_is_there(threat, proof):
    path, _, name = proof.partition("::")
    assert re.search(rf"^def {name}", (TESTS / path).read_text("utf-8"), re.MULTILINE), threat
