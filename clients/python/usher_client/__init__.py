"""An asyncio client for backends behind Usher: tickets, first messages, renewal, reconnection."""

from .client import Client
from .types import (Close, Options, Session, StateChange, TokenContext, UnauthorizedError,
                    UsherError)  # fmt: skip

__all__ = ["Client", "Close", "Options", "Session", "StateChange", "TokenContext",
           "UnauthorizedError", "UsherError"]  # fmt: skip
__version__ = "0.1.0"
