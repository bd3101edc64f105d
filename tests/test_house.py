"""What holds for the repository as a whole: generated files are fresh, imports light, folders explained."""

import ast
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("indexer/ffnsearch_indexer", "service/ffnsearch_service", "protos/ffnsearch")
FOLDERS = ("indexer", "service", "protos", "tests", "benchmarks", "deploy")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
HEAVY = {"faiss", "grpc", "matplotlib", "numba", "numpy", "opentelemetry", "prometheus_client", "torch"}

# In two parts, so that this file does not name them either.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download.pytorch", "org"),
        ("registry.npmjs", "org"),
        ("registry.yarnpkg", "com"),
        ("conda.anaconda", "org"),
    )
]


def generated_in(folder: Path) -> dict[str, str]:
    """Text of each generated module by its path below the folder."""
    paths = [path for pattern in GENERATED for path in folder.rglob(pattern)]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def repository_files() -> list[Path]:
    """Every file that is committed or would be."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def handwritten_modules() -> list[Path]:
    return sorted(
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not any(path.match(pattern) for pattern in GENERATED)
    )


def test_generated_modules_are_those_of_the_protos(tmp_path: Path) -> None:
    protos = ROOT / "protos"
    sources = [str(path.relative_to(protos)) for path in sorted(protos.rglob("*.proto"))]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    site = Path(sysconfig.get_path("purelib"))
    operations = "google/longrunning/operations.proto"
    installed = site / "google" / "longrunning" / "operations_proto.proto"  # its package has it under another name
    paths = [f"--proto_path={path}" for path in (".", site, f"{operations}={installed}")]
    command = [sys.executable, "-m", "grpc_tools.protoc", *paths, *outputs, *sources]
    subprocess.run(command, cwd=protos, check=True)
    assert sources
    assert generated_in(protos) == generated_in(tmp_path), "run `make protos`"


@pytest.mark.parametrize("module", ["ffnsearch_service.cli", "ffnsearch_service.cli.starting"])
def test_the_command_line_starts_without_heavy_imports(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert HEAVY.isdisjoint(loaded)


def test_a_client_needs_only_what_the_contract_says() -> None:
    absent = HEAVY - {"grpc", "numpy"} | {"grpc_reflection", "lmdb", "rich", "safetensors", "typer"}
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import ffnsearch_service.client"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_file_names_a_registry_host(host: str) -> None:
    assert [path for path in repository_files() if host.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("path", handwritten_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_in_its_first_line_what_it_is_for(path: Path) -> None:
    source = path.read_text()
    assert source.startswith('"""')
    assert ast.get_docstring(ast.parse(source))


def test_the_wheel_says_that_its_packages_are_typed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES), "whole, as in git"
    assert {ROOT / package / "py.typed" for package in PACKAGES} <= set(repository_files())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_top_level_folder_explains_itself(folder: str) -> None:
    assert (ROOT / folder / "README.md").read_text().startswith("# ")
