"""Assembly and confinement of a sandbox: the only place that knows every part of the sentry."""
