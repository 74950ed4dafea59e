"""Fast inference of tickets and of any network with zeros in its weights: `deploy`, its plans, reports and exports."""

from tombola.deploy.deploy import Deployed, deploy
from tombola.deploy.what_if import Case, Outcome, WhatIf, what_if

__all__ = ["Case", "Deployed", "Outcome", "WhatIf", "deploy", "what_if"]
