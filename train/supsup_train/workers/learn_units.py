"""Learn tasks where `Workers` say; results come in order."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from supsup_train.workers.cluster import on_cluster
from supsup_train.workers.processes import in_processes
from supsup_train.workers.work import Learn, Made, Result, Unit, Workers, timed

_MOST_WAITING = 64
"""Results that wait for an earlier one."""


def learn_units(
    learn: Learn[Made], units: Sequence[Unit], names: Sequence[str], workers: Workers
) -> Generator[Result[Made]]:
    """Learn units of tasks and yield the results in their order.

    If a unit takes so long that `_MOST_WAITING` later ones are done, these come out before it.
    After an error or an interrupt, also one that is thrown in, what is done comes out before it is
    raised.

    Args:
        learn: Learns a unit. For workers it is pickled, once the first result is asked for.
        units: The units.
        names: Names of all tasks, by index, for messages.
        workers: Where to learn.

    Raises:
        InputError: If a worker died `RETRIES` times more over the same task, or the cluster cannot
            be used. Whatever `learn` raises.
    """
    if not workers.elsewhere:
        yield from (timed(learn, unit) for unit in units)
        return
    source = in_processes if workers.cluster is None else on_cluster
    waiting: dict[Unit, Result[Made]] = {}
    passed = set[Unit]()
    left = iter(units)
    wanted = next(left, None)
    with closing(source(learn, units, names, workers)) as results:
        try:
            for result in results:
                waiting[result.unit] = result
                while wanted in waiting or wanted in passed:
                    if wanted in waiting:
                        yield waiting.pop(wanted)
                    wanted = next(left, None)
                if len(waiting) > _MOST_WAITING:
                    passed |= waiting.keys()
                    yield from waiting.values()
                    waiting.clear()
        except (Exception, KeyboardInterrupt) as error:
            yield from waiting.values()
            yield results.throw(error)  # raises it again after what is done
            yield from results
            raise
