"""The sandbox: a local HTTP server that speaks the batch APIs of OpenAI, Anthropic, Google and xAI.

It stands in for the providers in demos and tests, and misbehaves on request. It shares no code with the adapters
that are tested against it.
"""

from nightmill.sandbox.faults import Fault
from nightmill.sandbox.model import Phase
from nightmill.sandbox.profile import Profile
from nightmill.sandbox.server import Sandbox, serve

__all__ = ["Fault", "Phase", "Profile", "Sandbox", "serve"]
