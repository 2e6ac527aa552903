"""A process that has done the imports of a Python tool, and forks for each of its commands.

Of the 3.9 s of a model_transform.py, 3.0 s are Python's start and imports (torch, transformers, onnxruntime); of the
0.6 s of a model_deploy.py, 0.3 s; of our own steps' as much. A fork runs the tool as Python would: same arguments,
folder, log and exit code, in a process group of its own. What is imported ahead of a script stands in it; of modules
(`-m MODULE...`) these are, and each command names the one that it runs.

It serves only if the imports all work and start no thread, since threads do not survive a fork. It ends, and every
fork with it, when the other end of its socket is gone, however that process ended (compile.forks).

It runs as a script in the tool's environment (the compiler's has Python 3.10): standard library only, nothing of ours.

The socket keeps messages apart. On it go READY, or why not; then, for each command, a JSON list of folder and
arguments with two files, the log and a socket of the command's own. There the server answers with the fork's number
(or why there is none) and at last with a JSON list of exit code and peak memory, and is told signals by number.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

Run = Callable[["list[str]"], None]  # what a command's arguments do

READY = b"ready"
LONGEST = 2**17  # bytes of a message
FORMAT = "onnx"  # what the tools read: of a script's imports on demand, those that speak of it are done ahead as well
_ENTRY = re.compile(r"^from tpu_mlir\.entry import ", re.MULTILINE)  # a wheel's console script: it only starts the tool
_HIDDEN = (__file__, runpy.__file__, "<frozen runpy>")  # frames that a traceback does not have without us
_SET_PDEATHSIG = 1  # prctl's: the signal a process gets when its parent ends


def main(control: int, script: str, modules: list[str]) -> NoReturn:
    """Serve `script` on the socket `control`, or modules where it is `-m`; or say there why not."""
    link = socket.socket(fileno=control)
    try:
        run = _modules(modules) if script == "-m" else _script(control, script)
        link.set_inheritable(False)
        threads = len(os.listdir("/proc/self/task")) - 1
        if threads:
            raise RuntimeError(f"its imports started threads ({threads})")
    except (Exception, SystemExit) as error:
        link.send("".join(traceback.format_exception_only(type(error), error)).strip().encode()[-1000:])
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, every page of the imports
    link.send(READY)
    cwd, *arguments = _Forks(link).serve()
    os.chdir(cwd)
    _exit(_code(run, arguments))


def _script(control: int, script: str) -> Run:
    """Does the imports of a script; then it runs as `python SCRIPT` does, whose folder is the first of the path."""
    sys.path[0] = os.path.dirname(script)  # ours hides modules of the standard library
    text = Path(script).read_text(encoding="utf-8")
    if _ENTRY.search(text):
        _enter(control, Path(script).name)
    code = _load(text, script)

    def run(arguments: list[str]) -> None:
        sys.argv = [script, *arguments]
        module = types.ModuleType("__main__")
        module.__dict__.update(__file__=script, __builtins__=builtins)
        sys.modules["__main__"] = module
        exec(code, module.__dict__)

    return run


def _modules(names: list[str]) -> Run:
    """Imports modules; then one runs as `python -m MODULE` does, where the path begins with the command's folder."""
    del sys.path[0]
    for name in names:
        importlib.import_module(name)

    def run(arguments: list[str]) -> None:
        name, *sys.argv[1:] = arguments
        sys.path.insert(0, os.getcwd())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it is imported already: so it is meant
            runpy.run_module(name, run_name="__main__", alter_sys=True)

    return run


def _enter(control: int, tool: str) -> NoReturn:
    """Start anew for the script that a wheel's console script starts, in the environment that it sets for it."""
    importlib.import_module("tpu_mlir")
    script = f"{os.environ['TPUC_ROOT']}/python/tools/{tool}"
    os.execv(sys.executable, [sys.executable, __file__, str(control), script])


def _load(text: str, script: str) -> types.CodeType:
    """Do the imports of a script, and nothing else of it."""
    tree = ast.parse(text, script)
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in imports:  # the outermost come first
        run = compile(ast.Module([node], []), script, "exec", dont_inherit=True)
        if node in tree.body:
            exec(run, {})
        elif FORMAT in ast.unparse(node).lower():
            with contextlib.suppress(Exception):
                exec(run, {})
    return compile(tree, script, "exec", dont_inherit=True)


def _code(run: Run, arguments: list[str]) -> int:
    """The exit code with which Python would end."""
    try:
        run(arguments)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0)
        print(end.code, file=sys.stderr)
        return 1
    except Exception as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename in _HIDDEN:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        return 1
    return 0


def _exit(code: int) -> NoReturn:
    """End a fork as Python ends, but for taking its modules apart: that takes 0.3 s, in which every page is copied."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code & 0xFF)


class _Forks:
    """The server's forks, each with the socket of its command."""

    def __init__(self, control: socket.socket) -> None:
        self.control, self.links = control, dict[int, socket.socket]()
        self.ended, self.wake = socket.socketpair()  # a byte for each SIGCHLD
        self.own, self.libc = os.getpid(), ctypes.CDLL(None)
        self.poll = selectors.PollSelector()  # epoll's state would be the forks' as well
        for end in (control, self.ended):
            self.poll.register(end, selectors.EVENT_READ)
        self.wake.setblocking(False)
        signal.set_wakeup_fd(self.wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> list[str]:
        """Fork for each command. Returns in the fork only: the folder, and the arguments."""
        while True:
            for key, _ in self.poll.select():
                if key.fileobj is self.control:
                    request = self._accept()
                    if request:
                        return request
                elif key.fileobj is self.ended:
                    self.ended.recv(LONGEST)
                    self._reap()
                elif key.data in self.links:
                    self._obey(key.data)

    def _accept(self) -> list[str] | None:
        data, files, _, _ = socket.recv_fds(self.control, LONGEST, 2)
        if not data:
            self._end()
        log, link = files[0], socket.socket(fileno=files[1])
        sys.stdout.flush()
        try:
            pid = os.fork()
        except OSError as error:
            answer = f"no fork: {error.strerror}"
        else:
            if not pid:
                self._leave(log, link)
                return list(json.loads(data))
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # the fork does so too: whoever comes first, no signal misses it
            self.links[pid] = link
            self.poll.register(link, selectors.EVENT_READ, pid)
            answer = str(pid)
        os.close(log)
        with contextlib.suppress(OSError):
            link.send(answer.encode())
        return None

    def _leave(self, log: int, link: socket.socket) -> None:
        """In a fork: keep nothing of the server's but its imports."""
        os.setpgid(0, 0)
        self.libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.own:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self.control, self.ended, self.wake, link, *self.links.values()):
            end.close()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def _obey(self, pid: int) -> None:
        """A signal for a command; SIGKILL where nobody waits for it any more."""
        try:
            word = self.links[pid].recv(LONGEST)
        except OSError:
            word = b""
        if not word:
            self.poll.unregister(self.links[pid])
        self._signal(pid, int(word or signal.SIGKILL))

    def _reap(self) -> None:
        """Tell the end of each fork that has ended. Reaped after its group, whose number it keeps."""
        for pid, link in list(self.links.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._signal(pid, signal.SIGKILL)
                _, status, usage = os.wait4(pid, 0)
                with contextlib.suppress(OSError):
                    link.send(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]).encode())
                with contextlib.suppress(KeyError):
                    self.poll.unregister(link)
                self.links.pop(pid).close()

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)

    def _end(self) -> NoReturn:
        for pid in self.links:
            self._signal(pid, signal.SIGKILL)
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
