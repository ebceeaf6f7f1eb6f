"""What the command line adds to the runtime's errors, and the one place that prints an error and picks its exit code.

Exit codes: 0 done · 1 the input or the model is at fault · 2 usage · 3 the environment (disk, permissions) · 4 the
self-check failed · 70 a bug · 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from mpack_runtime.errors import RuntimeFault


class Usage(RuntimeFault):
    """The command line is wrong."""

    exit_code = 2


class Unusable(RuntimeFault):
    """A file, a directory or the container's rights do not allow what is asked."""

    exit_code = 3


def guard(work: Callable[[], int], verbose: bool) -> int:
    """Runs `work`; an error becomes one sentence on stderr (with `verbose` its traceback before) and an exit code."""
    try:
        return work()
    except RuntimeFault as error:
        code, message = error.exit_code, error.message
    except KeyboardInterrupt:
        code, message = 130, "Interrupted."
    except ImportError as error:
        code, message = (
            1,
            f"A dependency is missing: {error}. Add the package that brings it to the model's requirements.",
        )
    except MemoryError:
        code, message = 3, "There is not enough memory."
    except OSError as error:
        code, message = 3, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
    except Exception as error:
        code, message = 70, f"A bug in mpack's runtime: {type(error).__name__}: {error}. Run with -v for the traceback."
    if verbose:
        traceback.print_exc()
    print(message, file=sys.stderr, flush=True)
    return code
