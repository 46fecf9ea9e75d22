"""Settings of all tests."""

import os

from hypothesis import settings

# A busy machine is no failure. The suite tries the same examples each time, so that a change
# answers for itself only; with EXPLORE=1 in the environment it tries others.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "suite")
