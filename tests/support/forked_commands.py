"""Command lines in processes that are forked from one that has imported PyTorch.

A test that starts many of them saves the seconds that each would need for its imports.
"""

import importlib
import multiprocessing
import os
import sys
import time


class ForkedCommand:
    """A command line that runs on one thread, in a process of its own.

    Args:
        module: The module that `python -m` would run.
        words: Its arguments.
        folder: The working directory.
    """

    def __init__(self, module, words, folder):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mammoth_compiled.public", module])
        self._output = folder / "output.txt"
        self._output.write_text("")
        arguments = (module, [*map(str, words)], folder, self._output, dict(os.environ))
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()

    def wait_for(self, text):
        """Waits until a text is printed; fails if the process ends without it."""
        running = True
        while text not in self._output.read_text():
            assert running, self._output.read_text()
            running = self._process.is_alive()
            time.sleep(0.01)

    def kill(self):
        """Sends SIGKILL and waits for the end."""
        self._process.kill()
        self._process.join()


def _run(module, words, folder, output, environment):
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(line_buffering=True)
    sys.argv = [module, *words]
    importlib.import_module(module).main()
