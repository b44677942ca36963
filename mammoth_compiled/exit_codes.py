"""Exit codes of the command line."""

SUCCESS = 0
# Standard output cannot be written.
NO_OUTPUT = 1
ERROR = 2
# A signal n ends a process with 128 + n, as a shell reports it; Ctrl-C is signal 2.
SIGNAL = 128
INTERRUPTED = SIGNAL + 2
