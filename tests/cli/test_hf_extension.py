"""`hf convert`: the extension that README shows, called by the real `hf`."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def extension():
    """The one file of the extension's repository, out of README."""
    text = (ROOT / "README.md").read_text()
    block = text.partition("<!-- hf-convert -->")[2].partition("```sh\n")[2]
    return block.partition("```")[0]


def test_hf_finds_the_extension_and_it_the_console_script(xet_studio, tmp_path):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["hf-convert"].partition(":")
    tools = tmp_path / "bin"
    tools.mkdir()
    # What pip makes of the entry point.
    script = tools / "hf-convert"
    script.write_text(f"#!{sys.executable}\nfrom {module} import {name}\n{name}()\n")
    script.chmod(0o755)
    folder = tmp_path / "home/.local/share/hf/extensions/hf-convert"
    folder.mkdir(parents=True)
    (folder / "hf-convert").write_text(extension())
    (folder / "hf-convert").chmod(0o755)
    (folder / "manifest.json").write_text(
        json.dumps({
            "owner": "somebody", "repo": "hf-convert", "repo_id": "somebody/hf-convert",
            "short_name": "convert", "executable_path": str(folder / "hf-convert"),
            "type": "binary", "installed_at": "2026-01-01T00:00:00+00:00",
        })
    )  # fmt: skip
    hf = Path(sys.executable).with_name("hf")
    environment = xet_studio.environment(HOME=str(tmp_path / "home"))
    environment["PATH"] = f"{tools}:/usr/bin:/bin"
    done = subprocess.run(
        [hf if hf.exists() else "hf", "convert", "plan", xet_studio.source("llama_bf16"), "--json"],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "dense decoder"
