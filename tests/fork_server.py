"""Scripts as a user starts them, without the ten seconds of imports that each would begin with.

    done = run(["recipes/npo.py", "--help"], cwd=folder, environment={...})
    done = run(["train.py"], cwd=folder, processes=2)  # as torchrun starts them

One process for all has imported the libraries and computed nothing; it forks a child for each script, which runs it as
`__main__` in a folder, with an environment and standard streams of its own. What the imports themselves do, and what
they cost, is tested by real processes elsewhere.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

AT_IMPORT = {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}  # what libraries read only then
_server: subprocess.Popen | None = None


def run(
    arguments: list[str],
    *,
    cwd: Path,
    environment: dict[str, str] | None = None,
    processes: int = 1,
    timeout: float = 400,
) -> subprocess.CompletedProcess:
    """What `subprocess.run([sys.executable, *arguments], capture_output=True, text=True)` gives.

    Args:
        arguments: a script, or -m and a module, and its flags.
        environment: on top of this process's; what is in `AT_IMPORT` is fixed.
        processes: of several, each knows which one it is and where the others are. When one fails, all end; the exit
            code is that of the first that failed.
    """
    server = _started()
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        asked = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environments": [os.environ | (environment or {}) | AT_IMPORT | rank for rank in _ranks(processes)],
            "streams": streams,
            "timeout": timeout,
        }
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        written = [Path(path).read_text(encoding="utf-8") for path in streams]
    if code is None:
        raise subprocess.TimeoutExpired(arguments, timeout, *written)
    return subprocess.CompletedProcess(arguments, code, *written)


def _ranks(processes: int) -> list[dict[str, str]]:
    """What a launcher tells each of several processes on one machine; a process alone has none."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return [common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(processes)]


def _started() -> subprocess.Popen:
    global _server
    if _server is None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | AT_IMPORT,
            text=True,
        )
        atexit.register(_server.stdin.close)  # which ends it
    return _server


def serve() -> None:
    import llm_unlearn.runs.recipe
    import llm_unlearn.runs.robustness
    import llm_unlearn.runs.tofu  # noqa: F401

    gc.collect()
    gc.freeze()  # else a child's collections would copy all of it
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        timeout, environments = asked.pop("timeout"), asked.pop("environments")
        children = []
        for environment in environments:
            children.append(os.fork())
            if children[-1] == 0:
                _be_it(**asked, environment=environment)
            os.setpgid(children[-1], 0)
        code = _wait(children, timeout)
        answers.write(json.dumps(code) + "\n")
        answers.flush()


def _wait(children: list[int], timeout: float) -> int | None:
    """The first exit code that is not 0, negative the signal that ended it; None: they took too long.

    None is left when this returns.
    """
    until, running, code = time.monotonic() + timeout, list(children), 0
    while running and not code and time.monotonic() < until:
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.remove(child)
                code = code or os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    for child in running:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None if running and not code else code


def _be_it(arguments: list[str], cwd: str, streams: list[str], environment: dict[str, str]) -> None:
    """Become the script; never returns."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in streams]
    for number, stream in enumerate([nothing, *written]):
        os.dup2(stream, number)
    code = 1
    try:
        if arguments[0] == "-m":
            sys.argv = ["-m", *arguments[2:]]
            sys.path.insert(0, cwd)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
