"""Fast inference of tickets and of any network with zeros in its weights: `deploy`, its plans, reports and exports."""

from tombola.deploy.deploy import Deployed, deploy

__all__ = ["Deployed", "deploy"]
