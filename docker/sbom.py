"""Add Python itself, the Debian packages and the weights to the list of Python packages: sbom.py IN VENV OUT."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def debian_packages() -> list[Component]:
    query = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S603
    components = []
    for line in lines:
        name, version, architecture = line.split("\t")
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture})
        components.append(Component(name=name, version=version, purl=purl, bom_ref=str(purl)))
    return components


def weights(venv: Path) -> list[Component]:
    components = []
    for path in sorted(venv.glob("lib/python3*/site-packages/pancreas_seg/weights/*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        components.append(
            Component(
                name=path.name,
                type=ComponentType.MACHINE_LEARNING_MODEL,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
                bom_ref=f"weights:{path.name}",
            )
        )
    return components


def main(packages: Path, venv: Path, out: Path) -> None:
    bom = Bom.from_json(json.loads(packages.read_text()))
    python = Component(name="cpython", version=platform.python_version(), bom_ref="cpython")
    found = weights(venv)
    if not found:
        raise SystemExit(f"sbom.py: no weights under {venv}")
    root = bom.metadata.component
    if root is None:
        raise SystemExit(f"sbom.py: {packages} does not name the program")
    site = [str(path) for path in venv.glob("lib/python3*/site-packages")]
    (root.version,) = (package.version for package in distributions(name=root.name, path=site))
    bom.components.update([python, *debian_packages(), *found])
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise SystemExit(f"sbom.py: {fault}")
    out.write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
