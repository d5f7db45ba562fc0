"""Find what could go wrong before it does: versions, W&B, disks, GPUs, data sets, SLURM. Changes nothing.

    python launch/doctor.py
    python launch/doctor.py --out=/scratch/me/runs --wandb=online
    python launch/doctor.py --json | jq -r '.[] | select(.state == "fail") | .check + ": " + .mend'

Exit code 0: nothing fails (there may be warnings); 1: something fails; 2: a flag is wrong.
It removes the files that it makes to test a disk. No group of checks may take longer than a minute.
"""

import sys
from importlib.util import find_spec

if sys.version_info < (3, 11) or find_spec("rich") is None:  # before imports that need the right Python
    which = f"{sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})"
    sys.exit(f"error: {which} has no packages of this project: make install, then source .venv/bin/activate")

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import socket
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.request import getproxies

if not __package__:  # run as a script: import from this tree
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.sweep import machine
from launch.sweep.machine import COLOURS, Line, State, clock
from research.common.commandline import main
from research.common.identity import ROOT

PYPROJECT = ROOT / "pyproject.toml"
GROUP_S, SERVER_S = 60.0, (5.0, 10.0)  # how long a group of checks may take; W&B: to connect, to answer


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Check this machine for what would make a run or a sweep fail."""

    out: str = "runs"
    """folder that will hold the runs"""
    data_dir: str = "data/store"
    """folder of the named data sets"""
    wandb: Literal["online", "offline", "disabled"] | None = None
    """the --wandb that the runs will get; default: as in the scripts"""
    json: bool = False
    """print a JSON list of {check, state, found, mend} instead"""


def versions(flags: Flags) -> Iterator[Line]:
    """Checks the versions of Python and of packages against pyproject.toml."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    wishes = {"python": SpecifierSet(project["requires-python"])}
    wishes |= {wish.name: wish.specifier for wish in map(Requirement, project["dependencies"])}
    for name, wish in wishes.items():
        version = installed(name)
        if name == "python":
            install = "make clean install, which installs a suitable Python; or conda with environment.yml"
        else:
            install = f"make install, or pip install '{name}{wish}'"
        if version is None or not wish.contains(version, prereleases=True):
            found = f"{version or 'not installed'}, but pyproject.toml asks for {wish}"
            yield Line(name, "fail", found, install)
        elif name in ("python", "numpy", "torch", "wandb", "sweeps"):
            pinned = str(wish).startswith("==")
            yield Line(name, "ok", f"{version}, as pinned" if pinned else version)


def installed(name: str) -> str | None:
    """The version of a package, or of Python; None if it is not installed."""
    if name == "python":
        return "{}.{}.{}".format(*sys.version_info)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def wandb_account(flags: Flags) -> Iterator[Line]:
    """Checks W&B: the mode that scripts would choose (in research/common/wandb_client.py), the key, the
    server.
    """
    mode = flags.wandb or os.environ.get("WANDB_MODE", "").replace("dryrun", "offline") or None
    reason = "--wandb" if flags.wandb else "WANDB_MODE"
    if mode == "disabled":
        yield Line("mode", "skipped", f"disabled ({reason}): W&B is not used")
        return
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        settings = wandb_setup.singleton().settings
        host = wbauth.HostUrl(settings.base_url)
        auth = wbauth.authenticate_session(host=host, source="doctor", prompt=False, update_session=False)
    except (ValueError, wandb.Error) as error:  # an address or a key of an invalid form
        mend = "correct that WANDB_ variable, ~/.netrc or ~/.config/wandb/settings"
        yield Line("settings", "fail", "W&B refuses them: " + " ".join(str(error).split())[:200], mend)
        return
    if mode is None:
        if not auth:
            mode, reason = "offline", "not logged in"
        elif settings._offline or settings._noop:
            mode, reason = "offline", "as `wandb offline` says"
        else:
            mode, reason = "online", "logged in"
    yield Line("mode", "ok", f"{mode} ({reason})")
    bad: State = "fail" if mode == "online" else "warn"
    key = getattr(auth, "api_key", None)
    if key:
        source = "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else "netrc or W&B's settings"
        found = f"API key from {source}"
    elif auth:
        found = "identity token"
    elif mode == "offline":
        found = f"no API key for {host.url}: runs are kept offline"
    else:
        found = f"no API key for {host.url}"
    yield Line("login", "ok" if auth else bad, found, "wandb login (or set WANDB_API_KEY)")
    yield from server(host.url, key, bad, not settings.insecure_disable_ssl)


def server(url: str, key: str | None, bad: State, verify: bool = True) -> Iterator[Line]:
    """Ask the W&B server for the owner of the key, and compare clocks. bad: the state of a line if something
    is wrong.
    """
    import requests

    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    away = "; or --wandb=offline (WANDB_MODE=offline), and launch/upload.py later"
    query, before, viewer = {"query": "query Viewer { viewer { id entity username } }"}, time.time(), None
    try:
        reply = requests.post(
            f"{url}/graphql",
            json=query,
            auth=("api", key) if key else None,
            timeout=SERVER_S,
            allow_redirects=False,
            verify=verify and bundle,
        )
    except OSError as error:  # the exceptions of requests are OSErrors, too
        found, mend = unreachable(error, url)
        yield Line("server", bad, f"{url}: {found}", mend + away)
        yield Line("clock vs W&B", "skipped", "no answer to compare with")
        return
    now, code = (before + time.time()) / 2, reply.status_code
    with contextlib.suppress(ValueError, KeyError, TypeError):
        viewer = reply.json()["data"]["viewer"] or {}
    if code == 200 and viewer is None:
        mend = "log in to this network if that is its login page, or correct WANDB_BASE_URL" + away
        yield Line("server", bad, f"{url} answers, but not as W&B does", mend)
    elif code in (200, 401):
        yield Line("server", "ok", f"{url} answers in {2000 * (now - before):.0f} ms")
        if key:
            found = f"the key is accepted; entity {viewer.get('entity')}" if viewer else "the key is refused"
            yield Line("account", "ok" if viewer else bad, f"{found} (HTTP {code})", "wandb login --relogin")
    else:
        to = f", redirected to {reply.headers['Location']}" if reply.is_redirect else ""
        mend = (
            "the server is in trouble: wait"
            if code >= 500
            else "correct WANDB_BASE_URL, or the proxy's settings"
        )
        yield Line("server", bad, f"{url}: HTTP {code}{to}", mend + away)
    try:  # the header is cut to whole seconds
        yield clock("W&B", now - parsedate_to_datetime(reply.headers["Date"]).timestamp() - 0.5)
    except (KeyError, ValueError, TypeError):
        yield Line("clock vs W&B", "skipped", "the server does not tell the time")


def unreachable(error: BaseException, url: str) -> tuple[str, str]:
    """Why a request did not reach its server, and what to do about it."""
    from requests import exceptions

    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    last = " ".join(str(chain[-1]).split())[:120]
    proxy = getproxies().get(url.partition(":")[0], "").rpartition("@")[2]  # without its password
    kinds = [
        (exceptions.ProxyError, f"proxy {proxy}: {last}", "correct or unset HTTPS_PROXY"),
        (exceptions.SSLError, f"TLS: {last}", "SSL_CERT_FILE=<your network's certificates, .pem>"),
        (socket.gaierror, f"DNS does not know it ({last})", "compute nodes may need HTTPS_PROXY"),
        (ConnectionRefusedError, "connection refused", "start the server, or correct WANDB_BASE_URL"),
        (exceptions.Timeout, "timeout", "a firewall? Compute nodes may need HTTPS_PROXY"),
        (OSError, f"{type(error).__name__}: {last}", "correct WANDB_BASE_URL or the network"),
    ]
    return next((found, mend) for kind, found, mend in kinds if any(isinstance(e, kind) for e in chain))


def data_sets(flags: Flags) -> Iterator[Line]:
    """Checks each named data set: whether it is there, whether its checksums are right, and its decoded
    copies.
    """
    from data import DataError, digits, images, text

    store = Path(flags.data_dir).absolute()
    caches = sorted(p for p in store.glob("cache/*.npy") if re.fullmatch(r"[0-9a-f]{16}_\d+", p.stem))
    for name in images.NAMED_SETS:
        get = f"python data/prepare.py {name} --data_dir={flags.data_dir}"
        with tempfile.TemporaryDirectory() as mirror:  # file hashes are stored while looking: there, not here
            Path(mirror, "cache").mkdir()
            for path in {*store.glob("*"), *store.glob("cache/files_*.json")} - {store / "cache"}:
                Path(mirror, path.relative_to(store)).symlink_to(path)
            try:
                content_hash = images.fingerprint(name, mirror)
            except DataError as error:
                yield missing(name, error, get)
                continue
        if bad := [str(path) for path, md5 in checksums(name, store).items() if md5_of(path) != md5]:
            found = f"checksum differs: {', '.join(bad)}"
            yield Line(name, "fail", found, f"rm {' '.join(bad)} && {get}")
            continue
        sizes = ", ".join(p.stem[17:] for p in caches if p.stem[:16] == content_hash)
        decoded = f"decoded at {sizes} pixels" if sizes else "decoded at first use"
        yield Line(name, "ok", f"content hash {content_hash}; {decoded}")
    for kind in (digits, text):  # they are read completely and compared with their checksums
        for name in kind.NAMED_SETS:
            get = f"python data/prepare.py {name} --data_dir={flags.data_dir}"
            try:
                yield Line(name, "ok", f"content hash {kind.load_arrays(name, store)[1]}")
            except DataError as error:
                yield missing(name, error, get)
    for path in caches:
        if images._open_cache(path, int(path.stem[17:])) is None:
            yield Line("image cache", "warn", f"{path} is damaged: made anew when next used", f"rm {path}")


def missing(name: str, error: Exception, get: str) -> Line:
    found = str(error).partition(": get it")[0].removeprefix(f"--dataset={name} ")
    return Line(name, "skipped" if found == "is not there" else "fail", found, get)


def checksums(name: str, store: Path) -> dict[Path, str]:
    """File -> its right md5, for those files of a named set that are there and that data/prepare.py would
    check.
    """
    from data import prepare

    known = {"lfw-py/lfw-funneled.tgz": prepare.LFW_MD5} if name == "lfw" else {}
    if name == "celeba":  # without its zip of 1.4 GB, which is already unpacked
        from torchvision.datasets import CelebA

        known = {f"celeba/{file}": md5 for _, md5, file in CelebA.file_list if not file.endswith(".zip")}
    return {store / file: md5 for file, md5 in known.items() if (store / file).is_file()}


def md5_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


# ---- all of them ---------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[Flags], Iterator[Line]]] = {
    "Versions": versions,
    "W&B": wandb_account,
    "W&B's folders": lambda _: machine.folders(),
    "GPU": lambda _: machine.gpu(),
    "Data sets": data_sets,
    "SLURM": lambda _: machine.slurm(),
    "Runs (--out)": lambda flags: machine.out_folder(flags.out),
    "Pictures": lambda _: machine.pictures(),
}


def look(title: str, flags: Flags) -> list[Line]:
    """The lines of a group of checks. If it breaks or hangs (because of a dead file server), the last line
    says so.
    """
    lines: list[Line] = []

    def work() -> None:
        try:
            for line in GROUPS[title](flags):
                lines.append(line)  # one by one, so that lines before a failure are kept
        except TimeoutError as error:
            lines.append(Line(title, "fail", str(error), "run it by hand: it gets no answer"))
        except Exception as error:  # whatever breaks a check must not hide the others
            found = " ".join(f"the check itself failed: {type(error).__name__}: {error}".split())
            lines.append(Line(title, "fail", found, "make install; if that does not help, report this line"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(GROUP_S)
    if thread.is_alive():
        mend = "a file system, network or driver hangs: try df, nvidia-smi"
        return [*lines, Line(title, "fail", f"not finished within {GROUP_S:g} s", mend)]
    return lines


def show(console: Console, title: str, lines: list[Line]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for line in lines:
        found = Text(line.found)
        if line.mend:
            found.append(f"\n{line.mend}" if line.state == "skipped" else f"\nmend: {line.mend}", "cyan")
        table.add_row(Text(f"  {line.state:7}", COLOURS[line.state]), f"{line.check:18}", found)
    console.print(Text(title, "bold"), table, sep="\n")


def run(flags: Flags) -> None:
    """Check everything, print the result, and exit with 1 if something fails."""
    console, lines = Console(highlight=False), []
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 110  # a log has no right edge
    try:
        for title in GROUPS:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is only for the result
                found = look(title, flags)
            lines += found
            if not flags.json:
                show(console, title, found)
    except KeyboardInterrupt:
        sys.exit(130)
    n = Counter(line.state for line in lines)
    if flags.json:
        print(json.dumps([vars(line) for line in lines], indent=1))
    else:
        console.print(f"{n['fail']} fail, {n['warn']} warn, {n['ok']} ok")
    sys.exit(1 if n["fail"] else 0)


if __name__ == "__main__":
    main(Flags, run)
