"""The SLURM executor: a cluster that keeps no accounting is said, in SLURM's own words."""

from __future__ import annotations

import asyncio
import logging

from snakemake_executor_plugin_replica_slurm import UNANSWERED, _plain_states


def test_a_query_that_fails_again_and_again_is_a_warning_with_slurms_words(caplog):
    answers = [(None, None)] * (UNANSWERED + 1) + [({"7": "CANCELLED by 1000"}, 0.1)] + [(None, None)] * UNANSWERED

    async def original(command, logger):
        answer = answers.pop(0)
        if answer[0] is None:
            logger.debug("SLURM query command failed: Slurm accounting storage is disabled\n")
        return answer

    states, logger, said = _plain_states(original), logging.getLogger("states"), []
    caplog.set_level(logging.WARNING)
    for _ in range(len(answers)):
        said.append(asyncio.run(states("sacct -X", logger)))
    assert said[UNANSWERED + 1] == ({"7": "CANCELLED"}, 0.1)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2, "once for each time that it stops to answer"
    assert (
        "Slurm accounting storage is disabled" in warnings[0] and "--replica-slurm-status-command squeue" in warnings[0]
    )
