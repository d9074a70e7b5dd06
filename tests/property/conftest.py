"""Hypothesis profiles, by HYPOTHESIS_PROFILE: `ci` (default, half a minute for the whole folder) and `thorough` (ten
minutes). A failure prints a blob for `@reproduce_failure`."""

import os

from hypothesis import HealthCheck, settings

# The state machine's rules have preconditions, and a shared machine is slow at times: neither is a fault of the test.
_common = settings(print_blob=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
settings.register_profile("ci", _common, max_examples=100, stateful_step_count=60)
settings.register_profile("thorough", _common, max_examples=600, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
