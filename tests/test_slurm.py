"""launch/slurm.py without a cluster: SLURM's commands are fakes on PATH, the batch script runs for real."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from data import DataError
from launch import slurm
from launch.sweep import agent, options, sbatch
from launch.sweep.child import Child
from launch.sweep.queue import Queue
from launch.sweep.worker import Flags as WorkerFlags
from launch.sweep.worker import Worker
from research.common import lease as leases
from research.common.commandline import parse
from research.common.folder import read_json, write_json
from research.common.messages import UserError
from tests.slurm.cluster import NODES, Cluster, skip_reason

pytestmark = pytest.mark.filterwarnings("ignore")  # the engine is written for an older pydantic, and says so
SINFO = "cpu*|10:00\ngpu|1-00:00:00\nlong|infinite\nodd|n/a\n"
SWEEP = {
    "program": "research/bvae_faces.py",
    "method": "grid",
    "metric": {"name": "val/mse_best", "goal": "minimize"},
    "parameters": {"beta": {"values": [0, 1, 4]}, "seed": {"values": [0, 1]}, "image_size": {"value": 32}},
}


class Fakes:
    """SLURM's commands as shell scripts: each call is noted, and answered with what a test has put there."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.says("sinfo", SINFO)
        self.says("scontrol", "MaxArraySize            = 1001\n")
        self.says("squeue", "")
        self.says("scancel", "")
        self.says("sbatch", "101\n")

    def says(self, name: str, out: str, err: str = "", code: int = 0) -> None:
        for suffix, text in (("out", out), ("err", err)):
            (self.folder / f"{name}.{suffix}").write_text(text)
        script = f'#!/bin/bash\ncd "{self.folder}"; echo "{name} $*" >> calls\n'
        self.script(name, script + f"cat {name}.out; cat {name}.err >&2; exit {code}\n")

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        path = self.folder / "calls"
        return (
            [line for line in path.read_text().splitlines() if line.startswith(name)] if path.exists() else []
        )


@pytest.fixture
def fakes(tmp_path, monkeypatch) -> Fakes:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return Fakes(tmp_path / "bin")


@pytest.fixture
def sweep(fakes, faces, tmp_path, monkeypatch) -> str:
    """A sweep of six trials over the session's tiny faces, decoded once."""
    content = json.loads(json.dumps(SWEEP))
    content["parameters"] |= {
        "dataset": {"value": str(faces)},
        "data_dir": {"value": str(faces.parent / "store")},
    }
    (tmp_path / "tiny.yaml").write_text(
        "# Question  does it run?\n" + yaml.safe_dump(content, sort_keys=False)
    )
    return "tiny.yaml"


def flags(*args: str) -> slurm.Flags:
    return parse(slurm.Flags, [*args], positional="sweep")


def refused(*args: str) -> str:
    """What a submission is refused with: one line."""
    with pytest.raises(UserError) as error:
        slurm.run(flags(*args))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- flags, limits, defaults ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("4:00:00", 14400),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("2-01:00:05", 176405),
        ("infinite", float("inf")),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_as_slurm_writes_them(text, expected):
    assert options.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "-5", "n/a", "1-"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError):
        options.seconds(text)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--time=4h"], ["--time=4h", "4:00:00", "1-12"]),
        (["--time=2:00"], ["--time=2:00", "at least 240 seconds", "--signal_s=120"]),
        (["--tasks=0"], ["--tasks=0", "at least 1"]),
        (["--throttle=0"], ["--throttle=0", "at least 1"]),
        (["--gpus=two"], ["--gpus=two", "a100:1"]),
        (["--wandb=on"], ["--wandb=on", "online, offline, disabled"]),
        (["--sbatch=array=0-9"], ["--sbatch=array=0-9", "--tasks and --throttle"]),
        (["--sbatch=signal=TERM"], ["--sbatch=signal=TERM", "--signal_s"]),
        (["--sbatch=output=x"], ["--sbatch=output=x", "--status says where"]),
        (["--sbatch=ab c"], ["--sbatch=ab c", "key=value"]),
        (["--sbatch=constraint="], ["--sbatch=constraint=: nothing follows the ="]),
        (["--sbatch=comment=a\nb"], ["--sbatch=comment=a\\nb", "key=value"]),
        (["--sbatch=gres=help"], ["--sbatch=gres=help", "submit nothing"]),
        (["--partition="], ["--partition=: must be text"]),
        (["--account=a\n#SBATCH --hold"], ["--account=a\\n#SBATCH --hold: must be text on one line"]),
        (["--gpus=1", "--gpu_option=gpu-per-node"], ["--gpu_option", "did you mean gpus-per-node?"]),
        (["--gpus=a100:2", "--gpu_option=shard"], ["--gpus=a100:2: must be a number alone"]),
        (["--gpu_option=gpus"], ["--gpu_option=gpus: says how to ask for --gpus, which is not given"]),
        (["--partitoin=x"], ["--partitoin", "did you mean --partition?"]),
        (["--status", "--cancel"], ["--status and --cancel"]),
        (
            ["--partition=gpuu", "--time=1-00"],
            ["--partition=gpuu", "not on this cluster", "gpu (1-00:00:00), long (infinite), odd (n/a)"],
        ),
        (["--partition=cpu,nowhere"], ["--partition=nowhere", "cpu (10:00)"]),
        (["--partition=cpu", "--time=11"], ["--time=11: over the limit of cpu (10:00)", "long (infinite)"]),
        (["--partition=gpu", "--time=1-00:00:01"], ["over the limit of gpu (1-00:00:00)", "fit: long"]),
        (["--time=10:01"], ["over the limit of cpu (10:00)"]),  # the default partition's
    ],
)
def test_refused_in_one_line_with_nothing_written(fakes, sweep, tmp_path, args, parts):
    before = sorted(tmp_path.glob("*"))
    text = refused(sweep, *args)
    assert all(part in text for part in parts), text
    assert sorted(set(tmp_path.glob("*")) - {tmp_path / "bin"}) == [p for p in before if p.name != "bin"]
    assert not fakes.calls("sbatch")


def test_no_partition_is_long_enough(fakes, sweep):
    fakes.says("sinfo", "cpu*|10:00\ngpu|1-00:00:00\n")
    assert "none is that long: cpu (10:00), gpu (1-00:00:00)" in refused(sweep, "--time=2-00")


def test_without_slurm_one_line(fakes, sweep, monkeypatch, tmp_path):
    shutil.rmtree(tmp_path / "bin")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sinfo is not on PATH" in (text := refused(sweep)) and "launch/local.py" in text
    assert not (tmp_path / "runs").exists()


def test_the_complaint_of_a_silent_controller_is_shown(fakes, sweep):
    fakes.says("sinfo", "", "slurm_load_partitions: Unable to contact slurm controller\n", code=1)
    assert "Unable to contact slurm controller" in refused(sweep)


def test_defaults_from_the_users_file(fakes, tmp_path, capfd):
    path = tmp_path / "config/letters-and-latents/slurm.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        'partition = "gpu"\ngpus = 1\ntime = "2:00:00"\nsetup = "module load cuda"\n'
        'sbatch = ["constraint=a100"]\ncpus = 4\n'
    )
    found = slurm.with_defaults(flags("x.yaml", "--time=3:00:00", "--cpus=2"))
    assert (found.partition, found.gpus, found.time, found.cpus) == ("gpu", "1", "3:00:00", 2)
    assert (found.setup, found.sbatch) == (("module load cuda",), ("constraint=a100",))
    said = capfd.readouterr().err
    assert said.startswith(f"from {path}: ") and "partition=gpu" in said and "time" not in said

    # a list is replaced as a whole, which is said
    found = slurm.with_defaults(flags("x.yaml", "--sbatch=exclusive", "--gpus=a100:2"))
    assert (found.gpus, found.setup, found.sbatch) == ("a100:2", ("module load cuda",), ("exclusive",))
    assert f"not from {path}: sbatch, which the command line gives" in capfd.readouterr().err

    for text, part in [
        ('partiton = "gpu"', "unknown key partiton"),
        ('gpus-option = "gpus"', "gpu_option, cpus, mem, time, setup, sbatch; did you mean gpu_option?"),
        (
            'gpu_option = "gpus-per-nod"',
            "--gpu_option=gpus-per-nod: must be one of gres, gpus, gpus-per-node",
        ),
        ('gpu_option = "shard"\ngpus = "a100:1"', "--gpus=a100:1: must be a number alone"),
        ("gpu_option = 1", "gpu_option = 1: must be text"),
        ("gpus = true", "gpus = True: must be text"),
        ('partition = ""', "--partition=: must be text"),
        ('sbatch = {constraint = "a100"}', "sbatch = {'constraint': 'a100'}: must be a list of texts"),
        ('sbatch = ["gpus=2"]', "--sbatch=gpus=2: use --gpus=2"),
        ('sbatch = ["hold", "hold"]', "--sbatch=hold: hold is given twice"),
        ("time = 4", "must be text"),
        ('cpus = "4"', "must be a whole number"),
        ("setup = [1]", "must be a list of texts"),
        ('time = "4h"', "--time=4h"),
        ("a = [", "not readable as TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError) as error:
            slurm.with_defaults(flags("x.yaml"))
        assert str(path) in str(error.value) and part in str(error.value)

    # what contradicts may stand in two places: both are named
    path.write_text('mem = "8G"\ngpu_option = "gpus"\n')
    assert slurm.with_defaults(flags("x.yaml")).gpus is None  # a habit, for the days with GPUs
    with pytest.raises(UserError) as error:
        slurm.with_defaults(flags("x.yaml", "--sbatch=mem-per-cpu=2G"))
    assert str(error.value).startswith(f"{path}: --sbatch=mem-per-cpu=2G: not with --mem=8G: SLURM takes one")


def test_the_file_in_the_docs_is_a_file_that_works(fakes, tmp_path):
    docs = Path(slurm.__file__).parents[1] / "docs/cluster.md"
    path = tmp_path / "config/letters-and-latents/slurm.toml"
    path.parent.mkdir(parents=True)
    path.write_text(re.search(r"```toml\n(.*?)```", docs.read_text(encoding="utf-8"), re.S)[1])
    found = slurm.with_defaults(flags("x.yaml"))
    assert (found.gpus, found.gpu_option, found.sbatch) == ("1", "gpus-per-node", ("constraint=a100",))


# ---- the script's text -----------------------------------------------------------------------------------


def text_of(*args: str, array: str = "0-7") -> str:
    return sbatch.script(
        flags("x.yaml", *args),
        Path("runs/bvae"),
        "research/bvae_faces.py",
        Path("runs/bvae/slurm/now"),
        array,
    )


ALWAYS = "array=0-7 job-name=bvae requeue open-mode=append signal=B:USR1@120 nodes=1 ntasks=1"
GPU = "--partition=gpu --gpus=1 --time=4:00:00 --mem=16G --cpus=4 --account=lab --qos=low --signal_s=300"
ON_GPU = "partition=gpu gres=gpu:1 time=4:00:00 mem=16G cpus-per-task=4 account=lab qos=low signal=B:USR1@300"
MORE = ["--gpus=a100:2", "--sbatch", "exclusive", "--sbatch", "comment=a b"]


@pytest.mark.parametrize(
    ("args", "array", "there", "absent"),
    [
        ([], "0-7", ALWAYS.split(), ("--partition", "--gres", "--time", "--mem", "--account")),
        (GPU.split(), "0-999%4", ["array=0-999%4", *ON_GPU.split()], ()),
        (MORE, "0-0", ["gres=gpu:a100:2", "exclusive", 'comment="a b"'], ()),
        (["--setup", "module load cuda", "--setup", "source /opt/x y"], "0-0", [], ("--setup",)),
        (["--wandb=online", "--retry", "--runs_per_gpu=3"], "0-1", [], ("--gres",)),
    ],
)
def test_the_script(fakes, tmp_path, args, array, there, absent):
    text = text_of(*args, array=array)
    (tmp_path / "job.sh").write_text(text)
    checked = subprocess.run(["bash", "-n", "job.sh"], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    head, _, rest = text.partition("\nsubmit_folder=")
    assert head.startswith("#!/bin/bash\n#") and "#SBATCH" not in rest
    assert all(line.startswith("#") for line in head.splitlines())  # sbatch reads no further than a command
    options = [line.removeprefix("#SBATCH ") for line in head.splitlines() if line.startswith("#SBATCH ")]
    assert {f"--{option}" for option in there} <= set(options)
    assert not [option for option in options if option.startswith(absent)]
    assert f"--output={tmp_path}/runs/bvae/slurm/now/%A_%a.out" in options
    lines = rest.splitlines()
    assert sys.executable in text and f"code={tmp_path}/runs/bvae/code" in lines
    if "--setup" in args:
        at = [lines.index(line) for line in ("module load cuda", "source /opt/x y")]
        trap = next(i for i, line in enumerate(lines) if line.startswith("trap"))
        assert trap < at[0] < at[1] < next(i for i, line in enumerate(lines) if "PYTHONPATH" in line)
    online = "--wandb=online" in args
    assert ("launch/sweep/agent.py" in text, "launch/sweep/worker.py" in text) == (online, not online)
    assert ("--retry=True" in text) == online and (f"--linger_s={sbatch.LINGER_S}" in text) == (not online)


@pytest.mark.parametrize("name", ["launch/sweep/batch.sh", "job.sh", "launch/install.sh", ".ci/run"])
def test_shellcheck_has_nothing_to_say(tmp_path, name):
    path = Path(slurm.__file__).parents[1] / name
    if name == "job.sh":
        path = tmp_path / name
        path.write_text(text_of(*GPU.split(), "--setup", "module load cuda", array="0-999%4"))
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on PATH to read the scripts with")  # .ci/run installs it
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_hole_is_filled(monkeypatch, tmp_path):
    """Even if a value looks like a hole; a hole that nobody fills is found at once."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/@code@")
    text = sbatch.script(flags("x.yaml"), folder, "research/bvae_faces.py", folder / "slurm/now", "0-0")
    assert f"\nsweep={tmp_path}/runs/@code@\n" in text
    assert not sbatch.HOLE.search(text.replace("@code@", ""))
    with pytest.raises(AssertionError, match="other"):
        sbatch.filled("cd @other@", {})


def test_workers_of_a_task():
    counts = {"": 1, "--gpus=1": 1, "--gpus=2": 2, "--gpus=a100:2 --runs_per_gpu=3": 6, "--runs_per_gpu=2": 2}
    counts |= {"--gpus=2 --gpu_option=gpus-per-task": 2, "--gpus=0": 1}
    # shards are parts of one GPU
    counts |= {"--gpus=4 --gpu_option=shard": 1, "--sbatch=gres=shard:4 --runs_per_gpu=2": 2}
    for args, expected in counts.items():
        assert sbatch.workers(flags("x.yaml", *args.split())) == expected


def submitted_options(*args: str) -> list[str]:
    """The #SBATCH lines without the word and those that every script has."""
    lines = re.findall(r"^#SBATCH --(.*)$", text_of(*args), re.M)
    return [line for line in lines if line not in ALWAYS.split() and not line.startswith("output=")]


ASKED = [  # how GPUs are asked for, and the lines of the script that ask
    (["--gpus=2"], ["gres=gpu:2"]),
    (["--gpus=a100:2", "--gpu_option=gres"], ["gres=gpu:a100:2"]),
    (["--gpus=1g.10gb:1", "--gpu_option=gpus"], ["gpus=1g.10gb:1"]),
    (["--gpus=a100:2", "--gpu_option=gpus-per-node"], ["gpus-per-node=a100:2"]),
    (["--gpus=2", "--gpu_option=gpus-per-task"], ["gpus-per-task=2"]),
    (["--gpus=2", "--gpu_option=shard"], ["gres=shard:2"]),
    (["--gpus=0", "--gpu_option=gpus"], []),
    (["--gpus=a100:0"], []),
    (["--sbatch=gres=shard:1"], ["gres=shard:1"]),
    (["--gpus=2", "--sbatch=gres=tmpdisk:100"], ["gres=gpu:2,tmpdisk:100"]),
    (["--gpus=2", "--gpu_option=gpus", "--sbatch=gres=tmpdisk:100"], ["gres=tmpdisk:100", "gpus=2"]),
]
PASSED = [  # --sbatch, and the lines of the script that it makes
    (["--sbatch", "constraint=a100&nvlink"], ["constraint=a100&nvlink"]),
    (["--sbatch=--mem-per-cpu=2G"], ["mem-per-cpu=2G"]),
    (["--sbatch=mem_per_cpu=2G"], ["mem-per-cpu=2G"]),
    (["--gpus=1", "--sbatch=mem-per-gpu=2G"], ["gres=gpu:1", "mem-per-gpu=2G"]),
    (["--gpus=1", "--sbatch=cpus-per-gpu=2"], ["gres=gpu:1", "cpus-per-gpu=2"]),
    (["--sbatch=exclusive=user", "--sbatch=hold"], ["exclusive=user", "hold"]),
    (["--sbatch=export=NONE"], ["export=NONE"]),
    (["--sbatch=export=ALL,A=1"], ["export=ALL,A=1"]),
    (
        ["--sbatch=dependency=afterok:7", "--sbatch=begin=2031-05-05T12:00:00"],
        ["dependency=afterok:7", "begin=2031-05-05T12:00:00"],
    ),
    (["--sbatch=time-min=00:10:00", "--sbatch=nice=5"], ["time-min=00:10:00", "nice=5"]),
    (["--sbatch=mail-user=a@b.c", "--sbatch=mail-type=FAIL"], ["mail-user=a@b.c", "mail-type=FAIL"]),
    (["--sbatch=licenses=x:2", "--sbatch=tmp=9G"], ["licenses=x:2", "tmp=9G"]),
    (["--sbatch=exclude=n[1-2]", "--sbatch=nodelist=n3"], ["exclude=n[1-2]", "nodelist=n3"]),
    (["--sbatch=reservation=r", "--sbatch=gpu-bind=closest"], ["reservation=r", "gpu-bind=closest"]),
    (['--sbatch=comment=a "b" \\ # c'], ['comment="a \\"b\\" \\\\ # c"']),
    # what the script writes anyway
    (["--sbatch=nodes=1", "--sbatch=ntasks=1", "--sbatch=requeue", "--sbatch=open-mode=append"], []),
]


@pytest.mark.parametrize(("args", "expected"), ASKED + PASSED)
def test_how_gpus_are_asked_for_and_what_is_passed_on(tmp_path, monkeypatch, args, expected):
    monkeypatch.chdir(tmp_path)
    assert submitted_options(*args) == expected


NO_CONTROLLER = "Unable to contact slurm controller"


@pytest.fixture(scope="module")
def read_by_sbatch(tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """The options that SLURM's own sbatch reads in a script: it says them, then looks for a controller.

    It needs a slurm.conf, and nothing that runs: the port is one that nobody listens to.
    """
    program = shutil.which("sbatch")
    if program is None:
        pytest.skip("no sbatch on PATH to read the scripts with")
    folder = tmp_path_factory.mktemp("conf")
    (folder / "plugstack.conf").touch()
    (folder / "slurm.conf").write_text(
        "ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nMessageTimeout=1\n"
        "TCPTimeout=1\nAuthType=auth/none\nCredType=cred/none\nSelectType=select/cons_tres\n"
        f"GresTypes=gpu,shard,tmpdisk\nPlugStackConfig={folder}/plugstack.conf\n"
        "NodeName=n1 CPUs=4\nPartitionName=cpu Nodes=n1 Default=YES\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}

    def said(text: str) -> str:
        (folder / "job.sh").write_text(text)
        done = subprocess.run(
            [program, "--verbose", "--test-only", "job.sh"],
            cwd=folder,
            env=kept | {"SLURM_CONF": str(folder / "slurm.conf")},
            capture_output=True,
            text=True,
        )
        return done.stderr

    def read(text: str) -> dict[str, str]:
        err = said(text)
        # nothing but the missing controller stopped it
        assert NO_CONTROLLER in err.splitlines()[-1] and "error" not in err, err
        return dict(re.findall(r"^sbatch: (\S+) +: (.*)$", err, re.M))

    if NO_CONTROLLER not in said("#!/bin/bash\n"):
        pytest.skip("this version of sbatch does not take such a slurm.conf")  # written for 22.05
    return read


@pytest.mark.parametrize(("args", "expected"), [*ASKED, *PASSED])
def test_slurms_own_sbatch_reads_what_is_written(tmp_path, monkeypatch, read_by_sbatch, args, expected):
    monkeypatch.chdir(tmp_path)
    read = read_by_sbatch(text_of(*args))
    given = dict(option.partition("=")[::2] for option in expected)
    for name, value in given.items():
        if name == "gres":  # it names the kind of each
            value = ",".join(f"gres:{part}" for part in value.split(","))
        value = args[0].partition("comment=")[2] if name == "comment" else value
        assert name in read and (not value or read[name] == value), read
    always = ("array", "job-name", "requeue", "open-mode", "signal", "nodes", "ntasks", "output")
    assert set(read) == {*always, *given, "test-only", "verbose"}


class WithGpus(Cluster):
    """Each node has two GPUs of four shards each; SLURM needs no more of a GPU than some device file."""

    def write(self) -> None:
        super().write()
        text = self.conf.read_text(encoding="utf-8")
        text = text.replace(" State=UNKNOWN", " Gres=gpu:a100:2,shard:8,tmpdisk:100 State=UNKNOWN")
        self.conf.write_text(text + "GresTypes=gpu,shard,tmpdisk\n", encoding="utf-8")
        kinds = ["gpu Type=a100 File=/dev/null", "gpu Type=a100 File=/dev/zero"]
        kinds += ["shard Count=8", "tmpdisk Count=100"]
        lines = [f"NodeName={','.join(NODES)} Name={kind}\n" for kind in kinds]
        (self.folder / "gres.conf").write_text("".join(lines), encoding="utf-8")


def test_a_real_slurm_gives_a_gpu_to_each_worker(tmp_path):
    """How many GPUs a task sees, however they are requested; the shards of a task are parts of one GPU."""
    if reason := skip_reason():
        pytest.skip(reason)
    seen = {
        "--gpus=2": 2,
        "--gpus=1 --sbatch=gres=tmpdisk:10 --sbatch=cpus-per-gpu=2": 1,
        "--gpus=a100:2 --gpu_option=gpus": 2,
        "--gpus=a100:2 --gpu_option=gpus-per-node": 2,
        "--gpus=a100:2 --gpu_option=gpus-per-task --sbatch=export=NONE": 2,
        "--gpus=3 --gpu_option=shard": 1,
        "--sbatch=gres=shard:2": 1,
    }
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets lie in it
    with WithGpus(folder / "c") as cluster:
        jobs = {}
        for args, n in seen.items():
            given = flags("x.yaml", *args.split())
            assert sbatch.workers(given) == n
            text = sbatch.script(given, tmp_path / "bvae", "x.py", tmp_path, "0-0")
            head = text.partition("\nsubmit_folder=")[0]
            (tmp_path / "job.sh").write_text(f"{head}\necho $CUDA_VISIBLE_DEVICES; command -v scontrol\n")
            jobs[args] = cluster.run("sbatch", "--parsable", "job.sh", cwd=tmp_path)
        for job in jobs.values():
            cluster.wait(job, "COMPLETED")
    for args, n in seen.items():
        gpus, scontrol = (tmp_path / f"{jobs[args]}_0.out").read_text(encoding="utf-8").splitlines()
        assert len(gpus.split(",")) == n and scontrol, args
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["partition=gpu"], ["use --partition"]),
        (["mem=8G"], ["use --mem"]),
        (["job-name=x"], ["use --name"]),
        (["gres=gpu:a100:2"], ["use --gpus=a100:2 with --gpu_option=gres"]),
        (["gres=tmpdisk:1,gpu"], ["use --gpus=1 with --gpu_option=gres"]),
        (["gpus=2"], ["use --gpus=2 with --gpu_option=gpus:"]),
        (["gpus-per-node=a100"], ["use --gpus=a100:1 with --gpu_option=gpus-per-node"]),
        (["gpus-per-task=a100:1,v100:1"], ["use --gpus with --gpu_option=gpus-per-task"]),
        (["gpus-per-socket=1"], ["use --gpus=1 with"]),
        (["tres-per-task=gres/gpu:1"], ["use --gpus with"]),
        (["gres=shard:1", "--gpus=1"], ["not with --gpus=1", "a shard is a part of a GPU"]),
        (["mem-per-cpu=2G", "--mem=8G"], ["not with --mem=8G", "mem, mem-per-cpu, mem-per-gpu"]),
        (["mem-per-gpu=2G", "--sbatch=mem-per-cpu=1G"], ["not with --sbatch=mem-per-cpu=1G"]),
        (["cpus-per-gpu=2", "--cpus=4"], ["not with --cpus=4"]),
        (["oversubscribe", "--sbatch=exclusive"], ["--sbatch=oversubscribe: not with --sbatch=exclusive"]),
        (["nodes=2"], ["a task is one script on one node"]),
        (["ntasks=4"], ["--runs_per_gpu"]),
        (["no-requeue"], ["has to come back"]),
        (["open-mode=truncate"], ["continues its log"]),
        (["chdir=/x"], ["relative paths"]),
        (["wrap=ls"], ["--dry_run"]),
        (["parsable"], ["the array's id"]),
        (["wait"], ["the last task has ended"]),
        (["clusters=b"], ["--status and --cancel only ask this cluster"]),
        (["export=A,B"], ["must be NONE, or begin with ALL", "squeue"]),
        (["export=ALL,A=1,PATH=/x"], ["leave PATH as it is", "squeue"]),
        (["quiet"], ["would not tell the job's id"]),
        (["uid=1000"], ["files are yours"]),
        (["constraint=a", "--sbatch=constraint=b"], ["--sbatch=constraint=b: constraint is given twice"]),
        (["arr=0-9"], ["write the whole name: array"]),  # sbatch would take it for that
        (["gpus-per=2"], ["write the whole name: gpus-per-node or gpus-per-task or gpus-per-socket"]),
        (["-C a100"], ["write the long name, --sbatch constraint=a100"]),
        (["-C"], ["-C: write the long name, --sbatch constraint"]),
        (["C=a100&b"], ["write the long name, --sbatch constraint='a100&b'"]),
        (["-Wx"], ["the last task has ended"]),
        (["-p gpu"], ["use --partition"]),
        (["-H"], ["write the long name, --sbatch hold"]),
    ],
)
def test_what_contradicts_is_not_passed_on(fakes, args, parts):
    with pytest.raises(UserError) as error:
        flags("x.yaml", "--sbatch", *args)
    text = str(error.value)
    assert "--sbatch=" in text and all(part in text for part in parts), text


def test_paths_with_blanks_and_percents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("my runs/50%")
    text = sbatch.script(flags("x.yaml"), folder, "research/bvae_faces.py", folder / "slurm/now", "0-0")
    assert f'#SBATCH --output="{tmp_path}/my runs/50%%/slurm/now/%A_%a.out"' in text
    assert f"sweep='{tmp_path}/my runs/50%'" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_an_array_is_split():
    assert sbatch.split(8, 1001, None) == ["0-7"]
    assert sbatch.split(8, 1001, 3) == ["0-7%3"]
    assert sbatch.split(1, 1001, None) == ["0-0"]
    assert sbatch.split(1001, 1001, None) == ["0-1000"]
    assert sbatch.split(25, 10, None) == ["0-9", "0-9", "0-4"]
    assert sbatch.split(25, 10, 8) == ["0-9%3", "0-9%3", "0-4%2"]
    assert sbatch.split(25, 10, 2) == ["0-9%1", "0-9%1", "0-4%1"]


# ---- the script, run by bash -----------------------------------------------------------------------------

CHILD = """
import os, pathlib, signal, sys, time
said = pathlib.Path(os.environ["SAID"])
def say(word):
    with open(said, "a") as f:
        f.write(word + "\\n")
code, seconds, ends = int(os.environ["CODE"]), float(os.environ["RUNS_S"]), []
def heard(number, _):
    say(signal.Signals(number).name)
    ends.append(time.monotonic() + 0.4)  # saving
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, heard)
say("up " + " ".join(f"{k}={os.environ.get(k)}" for k in (os.environ.get("SHOW") or "").split()))
say("args " + " ".join(sys.argv[1:]))
deadline = time.monotonic() + seconds
while time.monotonic() < min([deadline, *ends[:1]]):
    time.sleep(0.02)
say("gone")
sys.exit(75 if ends else code)
"""


class Job:
    """job.sh under bash as a task of array 55, with a worker that only records what reaches it."""

    def __init__(
        self,
        fakes: Fakes,
        *args: str,
        code: int = 0,
        runs_s: float = 30,
        only: tuple[str, ...] = (),
        **env: str,
    ):
        self.folder, self.fakes = Path.cwd(), fakes
        launch = self.folder / "runs/bvae/code/launch/sweep"
        launch.mkdir(parents=True)
        (self.folder / "runs/bvae/slurm/now").mkdir(parents=True)
        for name in ("worker.py", "agent.py"):
            (launch / name).write_text(CHILD)
        fakes.script(
            "squeue",
            '#!/bin/bash\ncd "$(dirname "$0")"; echo "squeue $*" >> calls\n'
            'case "$*" in *%T) cat state;; *%e) cat end;; esac\n',
        )
        fakes.script(
            "scontrol",
            '#!/bin/bash\ncd "$(dirname "$0")"; echo "scontrol $*" >> calls\nexit $(cat requeue)\n',
        )
        self.set(state="RUNNING\n", end="N/A\n", requeue="0")
        text = text_of("--stagger_s=0", *args).replace("for pause in 0 5 15 30", "for pause in 0 0.1")
        (self.folder / "job.sh").write_text(text)
        known = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "SLURM"))}
        known = {k: v for k, v in known.items() if not only or k in only}
        self.said = self.folder / "said"
        self.out = self.folder / "out"
        task = {"SLURM_ARRAY_JOB_ID": "55", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "58"}
        task |= {"SAID": str(self.said), "CODE": str(code), "RUNS_S": str(runs_s)}
        task |= {"TMPDIR": str(self.folder / "tmp")}
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(
                ["bash", "job.sh"], env=known | task | env, stdout=out, stderr=out, start_new_session=True
            )

    def set(self, **answers: str) -> None:
        for name, text in answers.items():
            (self.fakes.folder / name).write_text(text)

    def words(self) -> list[str]:
        return self.said.read_text().split("\n")[:-1] if self.said.exists() else []

    def up(self, workers: int = 1) -> None:
        until(lambda: sum(w.startswith("args") for w in self.words()) == workers)

    def ended(self) -> int:
        return self.process.wait(20)

    def requeued(self) -> list[str]:
        return self.fakes.calls("scontrol requeue")


def until(check: Callable[[], bool], within: float = 15) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def job(fakes) -> Iterator[Callable[..., Job]]:
    started = []

    def start(*args: str, **more) -> Job:
        started.append(Job(fakes, *args, **more))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


def test_usr1_saves_and_requeues_once(job):
    task = job()
    task.up()
    task.process.send_signal(signal.SIGUSR1)
    assert task.ended() == 0
    words = task.words()[2:]
    assert (sorted(words[:2]), words[2:]) == (["SIGTERM", "SIGUSR1"], ["gone"])  # it was waited for
    assert task.requeued() == ["scontrol requeue 55_3"]
    assert "worker 0 ended with 75" in task.out.read_text()


def test_term_saves_and_does_not_requeue(job):
    task = job()
    task.up()
    task.process.send_signal(signal.SIGTERM)
    assert task.ended() == 75
    assert task.words()[2:] == ["SIGTERM", "gone"]
    assert task.requeued() == []


def test_term_after_usr1_is_a_cancellation(job):
    task = job()
    task.up()
    task.process.send_signal(signal.SIGUSR1)
    until(lambda: "SIGTERM" in task.words())
    task.process.send_signal(signal.SIGTERM)
    assert task.ended() == 75 and task.requeued() == [] and task.words()[-1] == "gone"


def test_an_end_without_a_signal(job):
    task = job(runs_s=0.1)
    assert task.ended() == 0 and task.requeued() == []
    # no scratch is left
    assert not (task.folder / "tmp").exists() or not list((task.folder / "tmp").iterdir())


def test_75_without_a_signal_requeues_while_slurm_has_it_running(job, fakes):
    task = job(code=75, runs_s=0.1)  # too little time was left to begin another trial
    assert task.ended() == 0 and task.requeued() == ["scontrol requeue 55_3"]


def test_75_of_a_cancelled_task_does_not(job):
    task = job(code=75, runs_s=0.3)  # scancel told the workers, and not this shell
    task.set(state="COMPLETING\n")
    assert task.ended() == 75 and task.requeued() == []


def test_a_requeue_that_fails_is_tried_again_and_reported(job):
    task = job(code=75, runs_s=0.3)
    task.set(requeue="1")
    assert task.ended() == 75 and len(task.requeued()) == 2
    assert "not requeued" in task.out.read_text()


def test_a_worker_that_fails_shows_its_last_words(job):
    task = job(code=3, runs_s=0.1)
    assert task.ended() == 3 and task.requeued() == []
    assert "worker 0 ended with 3" in task.out.read_text()


def test_workers_share_gpus_and_threads(job):
    show = "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS"
    task = job(
        "--gpus=2",
        "--runs_per_gpu=2",
        "--cpus=8",
        SHOW=show,
        CUDA_VISIBLE_DEVICES="4,7",
        SLURM_CPUS_PER_TASK="8",
    )
    task.up(4)
    task.process.send_signal(signal.SIGUSR1)
    assert task.ended() == 0 and len(task.requeued()) == 1
    words = task.words()
    assert (words.count("SIGUSR1"), words.count("gone")) == (4, 4)
    up = sorted(w for w in words if w.startswith("up"))
    assert up == [f"up CUDA_VISIBLE_DEVICES={g} OMP_NUM_THREADS=2" for g in (4, 4, 7, 7)]
    logs = sorted(p.name for p in (task.folder / "runs/bvae/slurm/now").iterdir())
    assert logs == [f"55_3.worker-{i}.out" for i in range(4)]


def test_gpus_that_no_worker_uses_are_told_of(job):
    task = job("--gpus=1", CUDA_VISIBLE_DEVICES="0,1,2", runs_s=0.1)
    assert task.ended() == 0
    assert "uses 1 of the 3 GPUs that it sees: --gpus says how many" in task.out.read_text()


def test_a_login_environment_is_enough(job):
    """`--sbatch export=NONE`: nothing of the submitting shell reaches the task."""
    task = job("--sbatch=export=NONE", runs_s=0.1, code=75, only=("HOME", "PATH", "USER"))
    assert task.ended() == 0 and task.requeued() == ["scontrol requeue 55_3"]
    assert task.words()[-1] == "gone" and "No such file" not in task.out.read_text()


def test_first_starts_are_spread(job, fakes):
    fakes.script("sleep", '#!/bin/bash\ncd "$(dirname "$0")"; echo "sleep $*" >> calls\n')
    assert job("--stagger_s=2", runs_s=0).ended() == 0 and fakes.calls("sleep") == ["sleep 1"]


def test_later_starts_are_not(job, fakes):
    fakes.script("sleep", '#!/bin/bash\ncd "$(dirname "$0")"; echo "sleep $*" >> calls\n')
    assert job("--stagger_s=2", runs_s=0, SLURM_RESTART_COUNT="1").ended() == 0 and not fakes.calls("sleep")


def test_the_workers_environment(job, tmp_path):
    home = tmp_path / "home"
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/settings").write_text("[default]\nbase_url = https://wandb.lab\n")
    names = ["WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"]
    more = ["WANDB__SERVICE_WAIT", "PYTHONPATH", "OMP_NUM_THREADS", "PWD"]
    task = job(
        SHOW=" ".join(names + more), HOME=str(home), WANDB_ARTIFACT_DIR="/mine", PYTHONPATH="/other", runs_s=1
    )
    task.up()
    scratch = next((tmp_path / "tmp").iterdir())
    settings = scratch / "config/settings"
    assert "https://wandb.lab" in settings.read_text()  # the server that `wandb login --host` chose
    env = dict(word.split("=", 1) for word in task.words()[0].split()[1:])
    sweep = tmp_path / "runs/bvae"
    assert env["WANDB_DIR"] == f"{sweep}/slurm/wandb" and env["WANDB_DATA_DIR"] == f"{sweep}/slurm/wandb/data"
    assert (env["WANDB_CACHE_DIR"], env["WANDB_CONFIG_DIR"]) == (f"{scratch}/cache", f"{scratch}/config")
    assert (env["WANDB_ARTIFACT_DIR"], env["WANDB__SERVICE_WAIT"]) == ("/mine", "300")
    assert (env["PYTHONPATH"], env["OMP_NUM_THREADS"]) == (f"{sweep}/code:/other", "1")
    assert env["PWD"] == str(tmp_path)
    assert [p.name for p in home.rglob("*") if p.is_file()] == ["settings"]  # nothing was written there
    assert task.ended() == 0


@pytest.mark.parametrize(
    ("end", "env", "expected"),
    [
        ("2031-05-05T12:00:00\n", {}, "squeue"),
        ("N/A\n", {}, "0"),
        ("", {}, "0"),
        ("N/A\n", {"SLURM_JOB_END_TIME": "2000000000"}, "1999999880"),
    ],
)
def test_the_workers_know_when_the_time_is_up(job, end, env, expected):
    task = job(runs_s=0.3, **env)
    task.set(end=end)
    task.up()
    if expected == "squeue":
        expected = str(int(time.mktime(time.strptime(end.strip(), "%Y-%m-%dT%H:%M:%S"))) - 120)
    assert re.search(r"--until=(\S*)", task.words()[1])[1] == expected
    assert task.ended() == 0


# ---- the worker's part -----------------------------------------------------------------------------------


def worker(folder: Path, **more) -> Worker:
    made = Worker(WorkerFlags(sweep=str(folder), program="none.py", **more))
    made.train = lambda trial, lease: pytest.fail("it took a trial")
    return made


def test_a_worker_claims_nothing_when_the_time_is_up(tmp_path):
    queue = Queue(tmp_path)
    queue.add({"seed": 0}, "key0")
    assert worker(tmp_path, until=time.time() - 1).work() == 75
    assert leases.newest(tmp_path / "key0")[0] == 0
    (tmp_path / "key0").mkdir()
    write_json(tmp_path / "key0/status.json", {"status": "finished"})
    assert worker(tmp_path, until=time.time() - 1).work() == 0  # nothing is open: no reason to come back


def test_a_worker_does_not_linger_for_ever(tmp_path):
    queue = Queue(tmp_path)
    queue.add({"seed": 0}, "key0")
    _, lease = queue.claim(leases.Watch())  # this process holds the only trial
    assert worker(tmp_path, linger_s=0.1).work() == 0
    lease.release("preempted")


class Heard:
    """Stands for a process that continues whatever signal it gets."""

    def __init__(self):
        self.signals: list[int] = []

    def poll(self) -> None:
        return None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)


@pytest.mark.parametrize(
    ("numbers", "training", "agents"),
    [
        ([signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM], [signal.SIGTERM]),
        ([signal.SIGINT, signal.SIGTERM], [signal.SIGTERM], [signal.SIGTERM]),
        ([signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGKILL], [signal.SIGTERM] * 3),
        ([signal.SIGTERM, signal.SIGINT], [signal.SIGTERM, signal.SIGKILL], [signal.SIGTERM] * 3),
    ],
)
def test_a_cluster_may_repeat_itself(numbers, training, agents):
    """USR1 then TERM does not kill the training; the second Ctrl-C of launch/local.py does."""
    for force, expected in ((Heard.kill, training), (agent.make_it_kill, agents)):
        child = Child(0, force)
        child.process = Heard()
        for number in numbers:
            child.on_signal(number)
        assert child.process.signals == expected


def test_a_request_to_stop_reaches_a_process_that_starts_later():
    child = Child(0, lambda process: process.kill())
    child.on_signal(signal.SIGUSR1)
    assert child.run(lambda: subprocess.Popen(["sleep", "60"])) == -signal.SIGTERM


def test_a_child_is_stopped_when_our_parent_is_gone():
    child, looks = Child(os.getppid(), lambda process: process.kill()), []
    assert not child.is_orphaned() and child.run(lambda: subprocess.Popen(["true"])) == 0
    child.parent += 1
    assert (
        child.is_orphaned()
        and child.run(lambda: subprocess.Popen(["sleep", "60"]), lambda: looks.append(1)) == -signal.SIGTERM
    )
    assert (child.stops, bool(looks)) == (1, True)


# ---- submitting --------------------------------------------------------------------------------------------


def queued(*rows: tuple[str, str, str]) -> str:
    return "".join(f"{task}|{raw}|{state}|None|0:00\n" for task, raw, state in rows)


def test_a_dry_run_without_slurm(fakes, sweep, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.run(flags(sweep, "--dry_run", "--tasks=4", "--time=4:00:00", "--gpus=1"))
    out, err = capfd.readouterr()
    assert "not checked against a cluster: sinfo is not on PATH" in err
    assert "6 trials, 6 of them open" in err and "varied: beta, seed" in err
    assert out.startswith("#!/bin/bash") and "#SBATCH --gres=gpu:1" in out
    assert re.fullmatch(r"sbatch --parsable --array=0-3 runs/tiny/slurm/\S+/job.sh", out.splitlines()[-1])
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_still_refuses(fakes, sweep):
    assert "over the limit of cpu" in refused(sweep, "--dry_run", "--time=1-00")
    assert "betta is not a flag" in refused(sweep, "--dry_run", "--set", "betta=1")
    assert not fakes.calls("sbatch")


def test_submitting_and_topping_up(fakes, sweep, tmp_path, capfd):
    runs = tmp_path / "runs/tiny"
    slurm.run(flags(sweep, "--tasks=4", "--throttle=2", "--wandb=offline", "--partition=gpu"))
    said = capfd.readouterr().err
    assert "6 trials, 6 of them open" in said and "array 101: 4 tasks" in said
    (call,) = fakes.calls("sbatch")
    script = Path(call.split()[-1])
    assert "--array=0-3%2" in call and (tmp_path / script).exists()
    assert "--extra=--wandb=offline" in (tmp_path / script).read_text()
    assert [(j["id"], j["tasks"]) for j in slurm.jobs_of(runs)] == [("101", 4)]
    assert (runs / "code/launch/sweep/worker.py").exists() and len(list((runs / "trials").iterdir())) == 6

    # all four are there still: nothing to submit, and of ten one task a trial at most
    fakes.says(
        "squeue",
        queued(
            ("101_0", "102", "RUNNING"),
            ("101_1", "103", "RUNNING"),
            ("101_2", "101", "PENDING"),
            ("101_3", "101", "PENDING"),
        ),
    )
    slurm.run(flags(sweep, "--tasks=4"))
    said = capfd.readouterr().err
    assert (
        "4 tasks of this sweep are pending or running already: 0 more" in said and "nothing to submit" in said
    )
    fakes.says("sbatch", "200;east\n")
    slurm.run(flags(sweep, "--tasks=10"))
    said = capfd.readouterr().err
    assert "more than 6 tasks would find nothing to do (--tasks=10)" in said and "array 200: 2 tasks" in said
    assert len(fakes.calls("sbatch")) == 2 and "--array=0-1 " in fakes.calls("sbatch")[1]
    assert "-j 101 " in fakes.calls("squeue")[-1]

    # one has ended, five trials are done: one is open
    fakes.says("squeue", queued(("101_0", "102", "COMPLETING")))
    for i, trial in enumerate(Queue(runs).trials()):
        (runs / trial.key).mkdir()
        state = {
            "status": "failed" if i == 5 else "finished",
            "reason": None,
            "step": 10,
            "steps": 10,
            "headline": 0.5,
        }
        write_json(runs / trial.key / "status.json", state)
    slurm.run(flags(sweep))
    said = capfd.readouterr().err
    assert "0 of them open" in said and "nothing to submit" in said
    slurm.run(flags(sweep, "--retry", "--dry_run"))
    assert (
        "6 trials, 1 of them open" in capfd.readouterr().err
        and Queue(runs).status(trial)["status"] == "failed"
    )
    slurm.run(flags(sweep, "--retry"))
    said = capfd.readouterr().err
    assert "1 failed trials are open again" in said and "array 200: 1 tasks" in said
    assert "-j 101,200 " in fakes.calls("squeue")[-1]
    fakes.says("squeue", queued(("200_0", "201", "PENDING")))
    assert "1 tasks of runs/tiny are in the queue" in refused(sweep, "--fresh")


def test_more_tasks_than_an_array_may_have(fakes, sweep, tmp_path, capfd):
    fakes.says("scontrol", "MaxArraySize            = 4\nSchedulerParameters = max_array_tasks=3,x=1\n")
    fakes.script(
        "sbatch", '#!/bin/bash\ncd "$(dirname "$0")"; echo "sbatch $*" >> calls\ngrep -c ^sbatch calls\n'
    )
    slurm.run(flags(sweep, "--tasks=6", "--runs_per_gpu=1"))
    assert [re.search(r"--array=(\S+)", c)[1] for c in fakes.calls("sbatch")] == ["0-2", "0-2"]
    assert [(j["id"], j["tasks"]) for j in slurm.jobs_of(tmp_path / "runs/tiny")] == [("1", 3), ("2", 3)]
    fakes.says("scontrol", "MaxArraySize            = 0\n")
    assert "no job arrays" in refused(sweep)


def test_two_workers_a_task_need_half_the_tasks(fakes, sweep, capfd):
    slurm.run(flags(sweep, "--tasks=6", "--runs_per_gpu=2", "--gpus=1"))
    assert "more than 3 tasks would find nothing" in (said := capfd.readouterr().err)
    assert "array 101: 3 tasks of 2 workers" in said


GENERAL = "sbatch: error: Batch job submission failed: Unspecified error\n"
PLUGIN = (
    "sbatch: error: ************************\n"
    "sbatch: error: Partition gpu takes jobs with --gpus-per-node alone.\n"
    "\n"
    "sbatch:   See https://hpc.lab/gpus\n"
)


@pytest.mark.parametrize(
    ("out", "err", "expected"),
    [
        ("", GENERAL, "sbatch: error: Batch job submission failed: Unspecified error"),
        (
            "",
            PLUGIN + GENERAL,
            "sbatch: error: Partition gpu takes jobs with --gpus-per-node alone.; See https://hpc.lab/gpus; "
            "Batch job submission failed: Unspecified error",
        ),
        ("no budget left\nask the office\n", "", "no budget left; ask the office"),
        (
            "no budget left\n",
            GENERAL,
            "sbatch: error: Batch job submission failed: Unspecified error; no budget left",
        ),
        ("", "", "exit code 1"),
        ("", " \n\n", "exit code 1"),
        (
            "",
            "".join(f"sbatch: error: reason {i}\n" for i in range(20)) + GENERAL,
            "sbatch: error: reason 0; "
            + "".join(f"reason {i}; " for i in range(1, 14))
            + "(6 more lines); Batch job submission failed: Unspecified error",
        ),
    ],
)
def test_what_sbatch_refuses_is_shown_whole(fakes, sweep, out, err, expected):
    fakes.says("sbatch", out, err, code=1)
    text = refused(sweep, "--account=nobody")
    assert re.fullmatch(rf"sbatch --parsable --array=0-5 \S+/job\.sh: {re.escape(expected)}", text), text
    assert slurm.jobs_of(Path("runs/tiny")) == []


@pytest.mark.parametrize("name", ["sinfo", "squeue", "scontrol", "scancel"])
def test_what_slurms_other_commands_refuse_is_shown_whole(fakes, name):
    fakes.says(name, "", f"{name}: error: plugin: closed today\n{name}: error: Access denied\n", code=1)
    with pytest.raises(UserError) as error:
        sbatch.ask(name, "-h")
    assert str(error.value) == f"{name} -h: {name}: error: plugin: closed today; Access denied"


def test_what_a_silent_command_has_said_so_far_is_shown(fakes):
    fakes.script("squeue", "#!/bin/bash\necho 'squeue: error: retrying' >&2\nexec sleep 30\n")
    with pytest.raises(UserError, match=r"squeue does not answer \(squeue: error: retrying\); try again"):
        sbatch.ask("squeue", within_s=0.5)


def test_what_sbatch_remarks_on_a_job_that_it_takes_is_shown(fakes, sweep, capfd):
    fakes.says("sbatch", "101\n", "sbatch: Your job is charged to [lab].\n")
    slurm.run(flags(sweep, "--tasks=1"))
    assert "sbatch: Your job is charged to [lab].\n" in (said := capfd.readouterr().err)
    assert "array 101: 1 tasks" in said


def test_the_job_is_told_from_what_a_site_prints_around_it(fakes, sweep, capfd):
    fakes.says("sbatch", "Welcome, 7 jobs wait\n101;main\nUse --test next time\n", "")
    slurm.run(flags(sweep, "--tasks=1"))
    assert "array 101: 1 tasks" in capfd.readouterr().err
    fakes.says("sbatch", "Welcome\n", "")
    assert "sbatch gave no job id, but Welcome: see `squeue --me`" in refused(str(sweep), "--fresh")


def test_a_dry_run_finds_a_missing_data_set(fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = SWEEP | {"parameters": {"beta": {"values": [0, 4]}, "dataset": {"values": ["pictures"]}}}
    Path("lost.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(
        DataError, match="--dataset=pictures is neither a named set"
    ):  # `main` tells it in one line
        slurm.run(flags("lost.yaml", "--dry_run"))
    assert not Path("runs").exists()


def test_gpus_as_the_users_file_wants_them(fakes, sweep, tmp_path, capfd):
    """The value goes from the file to the script that sbatch gets."""
    path = tmp_path / "config/letters-and-latents/slurm.toml"
    path.parent.mkdir(parents=True)
    path.write_text('gpus = 2\ngpu_option = "gpus-per-node"\nsbatch = ["constraint=a100"]\n')
    slurm.run(flags(sweep, "--tasks=6", "--gpus=a100:2"))
    (call,) = fakes.calls("sbatch")
    text = Path(call.split()[-1]).read_text(encoding="utf-8")
    assert "#SBATCH --gpus-per-node=a100:2\n" in text and "#SBATCH --constraint=a100\n" in text
    assert "--gres" not in text and "\nworkers=2\n" in text
    assert "array 101: 3 tasks of 2 workers" in capfd.readouterr().err


# ---- status and cancel -------------------------------------------------------------------------------------


@pytest.fixture
def submitted(tmp_path, fakes) -> Path:
    """A sweep folder with trials in every state, and an array in jobs.json."""
    folder = tmp_path / "runs/tiny"
    queue = Queue(folder)
    states = ["finished", "running", "running", "running", "preempted", "stopped", "diverged", "failed", None]
    for i, status in enumerate(states):
        trial = queue.add({"beta": i, "steps": 100}, f"key{i}")
        if status is None:
            continue
        run = folder / trial.key
        run.mkdir()
        reason = "out of memory" if status == "failed" else None
        write_json(
            run / "status.json",
            {"status": status, "reason": reason, "step": 10 * i, "steps": 100, "headline": i / 3},
        )
        write_json(
            run / "lease.1",
            leases._identity("train")
            | {
                "host": "node7",
                "boot": "b",
                "slurm_job": str(300 + i),
                "slurm_restarts": 2 if i == 1 else 0,
                "released": None if status == "running" else status,
            },
        )
    old = time.time() - 1000
    os.utime(folder / "key3/lease.1", (old, old))  # beats no more
    (folder / "key7/output.log").write_text("line 1\nCUDA out of memory\n")
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump(SWEEP | {"parameters": {"beta": {"values": list(range(10))}}})
    )
    (folder / "slurm").mkdir()
    write_json(
        folder / "slurm/jobs.json", {"jobs": [{"id": "300", "tasks": 9, "logs": "runs/tiny/slurm/now"}]}
    )
    return folder


def test_status(fakes, submitted, capfd):
    fakes.says(
        "squeue",
        queued(("300_0", "301", "RUNNING"), ("300_1", "300", "PENDING"), ("300_2", "300", "PENDING")),
    )
    slurm.run(flags("tiny.yaml", "--status"))
    out = capfd.readouterr().out
    counts = "1 finished, 2 running, 1 pending, 1 preempted, 1 interrupted, 1 stopped, 1 diverged, 1 failed"
    assert out.splitlines()[0] == f"runs/tiny: {counts}; 9 expected"
    lines = [line.split() for line in out.splitlines()[1:10]]
    by_trial = {line[0]: line[1:] for line in lines}
    assert by_trial["0000"] == ["beta=0", "finished", "0/100", "0", "node7", "job", "300"]
    assert by_trial["0001"] == ["beta=1", "running", "10/100", "0.33333", "node7", "job", "301", "start", "2"]
    assert by_trial["0003"][1] == "interrupted" and by_trial["0008"] == ["beta=8", "pending", "-", "-"]
    assert "0007 failed: out of memory" in out and "      CUDA out of memory" in out
    assert "logs: runs/tiny/<key>/output.log, runs/tiny/slurm/now" in out
    assert "in the queue: 1 RUNNING, 2 PENDING" in out


def test_a_search_whose_trials_are_yet_to_be_made(fakes, sweep, tmp_path, capfd):
    content = yaml.safe_load((tmp_path / sweep).read_text()) | {"method": "bayes", "run_cap": 5}
    content["parameters"] |= {"beta": {"min": 0.0, "max": 9.0}, "seed": {"value": 1}}
    (tmp_path / sweep).write_text(yaml.safe_dump(content))
    slurm.run(flags(sweep, "--tasks=2", "--confirm=2", "--dry_run"))
    assert "7 trials, 7 of them open" in capfd.readouterr().err and not (tmp_path / "runs").exists()
    slurm.run(flags(sweep, "--tasks=2", "--confirm=2"))
    assert "7 trials, 7 of them open" in capfd.readouterr().err
    folder = tmp_path / "runs/tiny"
    queue = Queue(folder)
    assert (folder / "trials").is_dir() and not queue.trials() and len(read_json(folder / "data.json")) == 1
    for i, status in enumerate(("finished", "stopped")):
        trial = queue.add({"beta": i + 1 / 3}, f"key{i}")
        (folder / trial.key).mkdir()
        reason = "hyperband: val/mse_best 0.5 at evaluation 2, threshold 0.4" if i else None
        write_json(
            folder / trial.key / "status.json",
            {"status": status, "reason": reason, "step": 10, "steps": 10, "headline": 0.5},
        )
    slurm.run(flags(sweep, "--status"))
    out = capfd.readouterr().out
    assert "1 finished, 0 running, 5 pending, 0 preempted, 1 stopped" in out and "; 7 expected" in out
    assert "beta=1.33333" in out and "by hyperband" in out
    (folder / "proposer").mkdir()
    write_json(folder / "proposer/exhausted.json", {"reason": "no further point"})
    slurm.run(flags(sweep, "--status"))
    assert "; 2 expected" in capfd.readouterr().out  # the finished one has logged nothing to be the best by
    (folder / "key0/metrics.jsonl").write_text('{"step": 0, "val/mse_best": 0.5}\n')
    slurm.run(flags(sweep, "--status"))
    assert "; 4 expected" in capfd.readouterr().out
    slurm.run(flags(sweep, "--dry_run"))
    assert "4 trials, 2 of them open" in capfd.readouterr().err


def test_a_dry_run_counts_runs_not_points(fakes, sweep, tmp_path, capfd):
    content = yaml.safe_load((tmp_path / sweep).read_text())
    content["parameters"] |= {"beta": {"values": [0, 1, 1]}, "log_every": {"values": [10, 50]}}
    (tmp_path / sweep).write_text(yaml.safe_dump(content))
    slurm.run(flags(sweep, "--dry_run"))
    slurm.run(flags(sweep))
    slurm.run(flags(sweep, "--dry_run"))
    assert capfd.readouterr().err.count(": 4 trials, 4 of them open") == 3
    assert len(Queue(tmp_path / "runs/tiny").trials()) == 4


def test_status_tells_of_a_metric_that_is_not_logged(fakes, submitted, capfd):
    spec = SWEEP | {"metric": {"name": "val/sap", "goal": "maximize"}}
    (submitted / "sweep.yaml").write_text(yaml.safe_dump(spec))
    slurm.run(flags("tiny.yaml", "--status"))
    assert "0000 logged no val/sap; it logs nothing like it" in capfd.readouterr().out
    write_json(submitted / "confirm.json", {"seeds": 1})
    (submitted / "key0/metrics.jsonl").write_text('{"step": 0, "val/mse": 0.5}\n')
    slurm.run(flags("tiny.yaml", "--status", "--confirm=3"))
    out = capfd.readouterr().out
    assert "0000 logged no val/sap; it logs val/mse" in out
    assert "--confirm=3: 1 are asked for so far; submitting adds the rest" in out


def test_status_of_a_folder_without_slurm(fakes, submitted, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.run(flags("runs/tiny", "--status"))
    out = capfd.readouterr().out
    assert "2 running, 1 pending, 1 preempted, 1 interrupted" in out and "9 expected" in out
    assert "SLURM can't be asked: squeue is not on PATH" in out


def test_status_and_cancel_of_nothing(fakes, submitted, capfd):
    assert "runs/none: no sweep was submitted there" in refused("none.yaml", "--status")
    # SLURM forgot the array
    fakes.says("squeue", "", "slurm_load_jobs error: Invalid job id specified\n", code=1)
    slurm.run(flags("tiny.yaml", "--cancel"))
    assert "no task of runs/tiny is in the queue" in capfd.readouterr().err and not fakes.calls("scancel")


def test_cancel_lets_tasks_save_before_it_cancels(fakes, submitted, capfd):
    fakes.script(
        "squeue",
        '#!/bin/bash\ncd "$(dirname "$0")"; echo "squeue $*" >> calls\n'
        "grep -q signal=TERM calls && exit\n"
        "grep -q state=PENDING calls || echo '300_1|300|PENDING|None|0:00'\n"
        "echo '300_0|301|RUNNING|None|0:10'\n",
    )
    slurm.run(flags("tiny.yaml", "--cancel"))
    assert fakes.calls("scancel") == ["scancel --state=PENDING 300", "scancel --signal=TERM --full 300_0"]
    assert "saving 1 running task" in (said := capfd.readouterr().err) and "2 tasks cancelled" in said


def test_cancel_takes_out_what_does_not_end(fakes, submitted, capfd):
    fakes.says("squeue", queued(("300_0", "301", "RUNNING")))
    slurm.run(flags("tiny.yaml", "--cancel", "--signal_s=1"))
    assert fakes.calls("scancel")[1:] == ["scancel --signal=TERM --full 300_0", "scancel 300"]


def test_a_mistake_is_one_line_and_exit_code_2(fakes, sweep):
    script = Path(slurm.__file__)
    with warnings.catch_warnings():
        done = subprocess.run(
            [sys.executable, str(script), sweep, "--time=1-00"], capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (2, "")
    fit = "gpu (1-00:00:00), long (infinite), odd (n/a)"
    assert done.stderr == f"error: --time=1-00: over the limit of cpu (10:00); those that fit: {fit}\n"
    assert read_json(Path("runs/tiny/slurm/jobs.json")) is None


def test_a_partition_that_gives_too_little(fakes, sweep):
    """Without --time, the partition's own default counts: if it is too short, tasks would be requeued for
    ever.
    """
    fakes.script(
        "sinfo", "#!/bin/bash\necho 'short*|1:00|n/a'; echo 'cpu|10:00:00|2:00'; echo 'gpu|1-0|4:00:00'\n"
    )
    assert "--time: short gives 1:00" in refused(sweep)
    assert "--time: cpu gives 2:00" in refused(sweep, "--partition=cpu")
    sbatch.check_limits(flags(sweep, "--partition=gpu"))
    sbatch.check_limits(flags(sweep, "--partition=cpu", "--time=4:00"))


def test_no_time_to_train_in_is_an_error_not_a_loop(job, fakes):
    task = job(SLURM_JOB_END_TIME=str(int(time.time()) + 60))
    assert task.ended() == 1
    assert not fakes.calls("scontrol")
