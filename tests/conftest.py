"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# The same examples on every run and no stopwatch: torch's first call of a kind may take seconds.
settings.register_profile(
    "flowleap",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("flowleap")
