"""What libraries log reaches the terminal by hubconv's handler alone, and where it is wanted."""

import os
import subprocess
import sys

import pytest
from installed import INSTALLED

SCRIPT = """
import logging, sys
from hubconv.cli.environment import quiet_libraries
if "imported" in sys.argv:
    import huggingface_hub
quiet_libraries(int(sys.argv[1]))
from huggingface_hub import HfApi
log = logging.getLogger("huggingface_hub._commit_api")
log.debug("a small thing")
log.warning("a link https://hub/f?X-Amz-Signature=0123456789abcdef0123456789abcdef")
log.error("a failure with hf_abcdefghijklmnopqrstuvwxyzABCDEFGH")
"""


WORKER = """
import logging
from hubconv.engines.forward import Forward
told = []
Forward(lambda *what: told.append(what)).listen({"": logging.WARNING})
from huggingface_hub import HfApi
logging.getLogger("huggingface_hub.x").warning("a link ?X-Amz-Signature=0123456789abcdef")
print(len(told))
"""


def of_a_new_shell():
    """What a test in this process has set for huggingface_hub is not the shell's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "PYTHONPATH": str(INSTALLED)}


def test_in_a_worker_it_speaks_to_whoever_started_the_worker_alone():
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=of_a_new_shell(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.parametrize("when", ["new", "imported"])
@pytest.mark.parametrize(
    ("verbose", "said"), [(0, ["ERROR"]), (1, ["ERROR"]), (2, ["DEBUG", "WARNING", "ERROR"])]
)
def test_the_hubs_client_speaks_once_without_secrets_and_only_where_asked(verbose, said, when):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(verbose), when],
        env=of_a_new_shell(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "huggingface_hub._commit_api" in line]
    assert [line.split()[0] for line in ours] == said
    assert len(ours) == sum("a small" in x or "a link" in x or "a fail" in x
                            for x in done.stderr.splitlines())  # fmt: skip
    assert "hf_abcdef" not in done.stderr
    assert "0123456789abcdef" not in done.stderr
